//! A mill as a service: what it answers over HTTP, what it logs, and what an address that is taken does.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use support::broker::{Broker, STREAMS};
use support::fire::{calls, send};
use support::mill::{Mill, binary, refused};

/// How long anything may take before a test gives up, in steps of 20 ms.
const PATIENCE: usize = 3000;

/// A run whose address is known. It is killed when it is dropped.
struct Service {
    child: Child,
    address: SocketAddr,
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `run` over a mill's folders with more flags, its output to be read.
fn run(mill: &Mill, flags: &[&str]) -> Command {
    run_on(mill, mill.store().to_str().expect("a path that is text"), flags)
}

/// Likewise, with another store.
fn run_on(mill: &Mill, store: &str, flags: &[&str]) -> Command {
    let mut command = binary();
    command.arg("run").arg("--input").arg(mill.input()).args(["--store", store]);
    command.args(["--epoch-interval", "20ms", "--lake-interval", "150ms", "--workers", "2"]).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Service {
    /// Starts one over a mill's folders.
    fn start(mill: &Mill, flags: &[&str]) -> Service {
        Service::of(run(mill, flags))
    }

    /// Starts one, and reads its address from the first line that it prints.
    fn of(mut command: Command) -> Service {
        let mut child = command.spawn().expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a first line");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.unwrap_or_else(|| panic!("no address: {line}")).parse();
        Service { child, address: address.expect("an address"), _stdout: stdout }
    }

    /// Status and body of an answer.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: mill\r\n\r\n").expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers and closes");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), body.to_string())
    }

    /// Every sample of the metrics, by its name and labels.
    fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, page) = self.get("/metrics");
        assert_eq!(status, 200, "{page}");
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_string(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        };
        samples.map(sample).collect()
    }

    /// Waits until the metrics fulfil a condition.
    fn wait_for(
        &self,
        what: &str,
        condition: impl Fn(&BTreeMap<String, f64>) -> bool,
    ) -> BTreeMap<String, f64> {
        for _ in 0..PATIENCE {
            let metrics = self.metrics();
            if condition(&metrics) {
                return metrics;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{what} never came: {:#?}", self.metrics());
    }

    /// Ends it in order; what it said on standard error.
    fn stop(mut self) -> String {
        let told = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        assert!(told.expect("kill starts").success());
        let mut said = String::new();
        self.child.stderr.take().expect("its log").read_to_string(&mut said).expect("text");
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}: {said}");
        said
    }
}

/// Five calls that are accepted and three that are not.
fn write_calls(mill: &Mill) {
    let prompt = json!([{"role": "user", "content": "how deep is the pond?"}]);
    let call = |n: usize| json!({"request_id": format!("r{n}"), "prompt": prompt, "response": "deep enough"});
    let mut lines: Vec<String> = (0..5).map(|n| call(n).to_string()).collect();
    lines.extend(["{not json".to_string(), "[".to_string(), r#"{"request_id":"x"}"#.to_string()]);
    fs::write(mill.input().join("calls-1.jsonl"), lines.join("\n") + "\n").expect("writing the input");
}

#[test]
fn the_metrics_say_what_was_read_rejected_committed_and_published() {
    let mill = Mill::new(&json!({}));
    write_calls(&mill);
    let service = Service::start(&mill, &["--http-listen", "127.0.0.1:0"]);
    let rows = "tidemill_table_rows{table=\"raw.calls\"}";
    let of = |metrics: &BTreeMap<String, f64>, name: &str| metrics.get(name).copied();
    let settled = |metrics: &BTreeMap<String, f64>| {
        let behind = metrics.iter().filter(|(name, _)| name.starts_with("tidemill_table_behind_seconds{"));
        let behind: Vec<f64> = behind.map(|(_, behind)| *behind).collect();
        of(metrics, rows) == Some(5.0)
            && of(metrics, "tidemill_requests_pending") == Some(0.0)
            && of(metrics, "tidemill_results_total") > Some(0.0)
            && behind.len() > 20
            && behind.iter().all(|behind| *behind == 0.0)
    };
    let metrics = service.wait_for("all that was written", settled);
    let bytes =
        fs::read_to_string(mill.input().join("calls-1.jsonl")).unwrap().lines().map(str::len).sum::<usize>();
    for (name, value) in [
        ("tidemill_ready", 1.0),
        ("tidemill_records_total{stream=\"calls\"}", 8.0),
        ("tidemill_records_total{stream=\"scores\"}", 0.0),
        ("tidemill_record_bytes_total{stream=\"calls\"}", bytes as f64),
        ("tidemill_rejects_total{stream=\"calls\",code=\"not_json\"}", 2.0),
        ("tidemill_rejects_total{stream=\"calls\",code=\"missing_field\"}", 1.0),
        ("tidemill_table_rows{table=\"ops.rejects\"}", 3.0),
        ("tidemill_sources_paused{reason=\"lake\"}", 0.0),
        ("tidemill_memory_bytes{owner=\"pinned\"}", 0.0),
    ] {
        assert_eq!(of(&metrics, name), Some(value), "{name}: {metrics:#?}");
    }
    let newest = mill.newest().expect("a root");
    let number = |value: &Value| value.as_f64();
    assert_eq!(of(&metrics, "tidemill_generation"), number(&newest["generation"]));
    // Naming the last publication is itself a commit, which may be younger than the page.
    let metrics = service.metrics();
    assert_eq!(of(&metrics, "tidemill_epoch"), number(&mill.newest().expect("a root")["epoch"]));
    assert_eq!(of(&metrics, "tidemill_published_epoch"), number(&newest["published"]["epoch"]));
    let commits = of(&metrics, "tidemill_commits_total").expect("commits");
    for duration in ["commit_duration", "freshness"] {
        assert_eq!(of(&metrics, &format!("tidemill_{duration}_seconds_count")), Some(commits), "{duration}");
    }
    let created = "tidemill_store_requests_total{operation=\"create\",outcome=\"ok\"}";
    assert_eq!(of(&metrics, created), Some(commits + 1.0), "a root a commit, and the claim");
    service.stop();
}

#[test]
fn a_run_is_ready_while_it_reads_and_says_what_is_where() {
    let mill = Mill::new(&json!({}));
    write_calls(&mill);
    let service = Service::start(&mill, &["--http-listen", "127.0.0.1:0"]);
    service.wait_for("readiness", |metrics| metrics.get("tidemill_ready") == Some(&1.0));
    assert_eq!(service.get("/readyz"), (200, "ok\n".into()));
    assert_eq!(service.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(service.get("/").0, 404);
    let (_, page) = service.get("/metrics");
    let helped = page.lines().filter_map(|line| line.strip_prefix("# HELP "));
    let bare = helped.filter(|line| !line.ends_with('.') || !line.starts_with("tidemill_"));
    assert_eq!(bare.collect::<Vec<_>>(), Vec::<&str>::new());
    service.stop();
}

#[test]
fn a_run_that_cannot_begin_yet_is_alive_and_not_ready() {
    let mill = Mill::new(&json!({}));
    let mut command = run_on(&mill, "s3://nowhere/mill", &["--http-listen", "127.0.0.1:0"]);
    // Somebody accepts connections and never answers: the claim waits.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", silent.local_addr().expect("its address"));
    command.env("AWS_ENDPOINT", endpoint).env("AWS_REGION", "x");
    command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x").env("AWS_ALLOW_HTTP", "true");
    let service = Service::of(command);
    let (status, why) = service.get("/readyz");
    assert_eq!((status, why.as_str()), (503, "not ready: the store is not claimed yet\n"));
    assert_eq!(service.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(service.metrics().get("tidemill_ready"), Some(&0.0));
}

/// The default port, held; another process may have it for a while.
fn default_port() -> TcpListener {
    for _ in 0..PATIENCE {
        if let Ok(listener) = TcpListener::bind("127.0.0.1:9464") {
            return listener;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("another process holds the default port and does not end");
}

#[test]
fn where_the_default_port_is_taken_another_serves_and_the_log_says_which() {
    let _taken = default_port();
    let mill = Mill::new(&json!({}));
    write_calls(&mill);
    let service = Service::start(&mill, &[]);
    assert_ne!(service.address.port(), 9464);
    assert!(service.address.ip().is_loopback());
    service.wait_for("readiness", |metrics| metrics.get("tidemill_ready") == Some(&1.0));
    let said = service.stop();
    assert!(said.contains("127.0.0.1:9464") && said.contains("instead=127.0.0.1:"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_given_address_that_is_taken_ends_the_start_before_the_store_is_claimed() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mill = Mill::new(&json!({}));
    let address = taken.local_addr().expect("its address").to_string();
    for address in [address.as_str(), "nonsense"] {
        let said = refused(&run(&mill, &["--http-listen", address]).output().expect("the binary starts"));
        assert!(said.contains("`http.listen`: cannot listen at ") && said.contains(address), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(!mill.store().exists(), "nothing is claimed");
}

#[test]
fn a_life_can_be_followed_in_a_log_of_json() {
    let mill = Mill::new(&json!({}));
    write_calls(&mill);
    let flags = ["--http-listen", "127.0.0.1:0", "--log", "json", "--log-level", "info"];
    let service = Service::start(&mill, &flags);
    service.wait_for("a publication", |metrics| metrics.get("tidemill_published_epoch") > Some(&0.0));
    let said = service.stop();
    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for part in ["timestamp", "level", "target", "fields"] {
        assert!(events.iter().all(|event| !event[part].is_null()), "{part}: {said}");
    }
    let place = |message: &str| {
        let found = events.iter().position(|event| event["fields"]["message"] == message);
        found.unwrap_or_else(|| panic!("no line says `{message}`: {said}"))
    };
    let life = ["starting", "the store is claimed", "ready", "told to stop", "leaving", "ended"];
    let places = life.map(place);
    assert!(places.is_sorted() && (places[1]..places[5]).contains(&place("published")), "{said}");
    assert_eq!(events[places[1]]["fields"]["generation"], mill.newest().expect("a root")["generation"]);
    assert_eq!(events[places[5]]["fields"]["records"], 8);
    assert!(events.iter().all(|event| event["level"] == "INFO"), "{said}");
}

#[test]
fn a_failure_is_a_line_of_json_too() {
    let mill = Mill::new(&json!({}));
    let flags = ["--http-listen", "nonsense", "--log", "json"];
    let output = run(&mill, &flags).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    let event: Value = serde_json::from_str(said.trim()).expect("one object");
    assert_eq!(event["level"], "ERROR");
    assert!(
        event["fields"]["message"].as_str().is_some_and(|said| said.contains("cannot listen at nonsense"))
    );
}

#[test]
fn beside_kafka_it_shows_how_far_behind_it_is_and_is_not_ready_while_brokers_are_away() {
    let Some(broker) = Broker::start() else { return };
    broker.create(&STREAMS, 1);
    send(&broker.producer(&[]), &calls(0..5), None).expect("delivered records");
    let mill = Mill::new(&json!({}));
    let mut command = binary();
    command
        .args(["run", "--kafka", &broker.address, "--http-listen", "127.0.0.1:0", "--store"])
        .arg(mill.store());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let service = Service::of(command);
    let [position, lag] = ["position", "lag_records"]
        .map(|what| format!("tidemill_source_{what}{{stream=\"calls\",partition=\"0\"}}"));
    let caught_up = |at: f64| {
        service.wait_for("the records", |m| m.get(&position) == Some(&at) && m.get(&lag) == Some(&0.0));
    };
    caught_up(5.0);
    assert_eq!(service.get("/readyz").0, 200);
    broker.kill();
    service.wait_for("the broker to be missed", |metrics| metrics["tidemill_sources_waiting"] == 1.0);
    let (status, why) = service.get("/readyz");
    assert!(status == 503 && why.contains(&broker.address) && why.contains("does not answer since"), "{why}");
    broker.start_again();
    service.wait_for("the broker to be back", |metrics| metrics["tidemill_ready"] == 1.0);
    send(&broker.producer(&[]), &calls(5..9), None).expect("delivered records");
    caught_up(9.0);
}
