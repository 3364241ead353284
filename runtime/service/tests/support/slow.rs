//! A slow store: a proxy before a server of HTTP that holds back the answer to each PUT.
//!
//! Requests of one connection come one after the other, and each begins with its method, so that a connection's
//! last request tells whether the answer that comes next is to be held back.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A proxy that lives as long as the process.
pub struct Slow {
    /// Its address, as clients are told it.
    pub url: String,
    delay_ms: Arc<AtomicU64>,
}

impl Slow {
    /// Before a server, as in `http://127.0.0.1:9000`.
    pub fn before(server: &str, delay: Duration) -> Slow {
        let server = server.trim_start_matches("http://").trim_end_matches('/').to_string();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let delay_ms = Arc::new(AtomicU64::new(delay.as_millis() as u64));
        let delay = delay_ms.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                pass(client, server, delay.clone());
            }
        });
        Slow { url, delay_ms }
    }

    /// From now on it holds nothing back.
    pub fn hurry(&self) {
        self.delay_ms.store(0, Ordering::Release);
    }
}

/// Passes both directions on, each on a thread, until one side closes.
fn pass(client: TcpStream, server: TcpStream, delay: Arc<AtomicU64>) {
    let (mut from, mut to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
    let held = Arc::new(AtomicBool::new(false));
    let hold = held.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if buffer.starts_with(b"PUT ") {
                hold.store(true, Ordering::Release);
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let (mut from, mut to) = (server, client);
    std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if held.swap(false, Ordering::AcqRel) {
                std::thread::sleep(Duration::from_millis(delay.load(Ordering::Acquire)));
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}
