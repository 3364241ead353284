//! Mills: processes of the real binary over one store and one Kafka, which are signalled, killed, and asked why they
//! ended.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidemill::Error;
use tidemill::run::Stopwatch;
use tidemill_oracle::kafka::STREAMS;

/// What every mill of a round is started with.
pub struct Mills {
    /// The binary.
    pub binary: PathBuf,
    /// Where settings and logs lie.
    pub folder: PathBuf,
    /// The store's address.
    pub store: String,
    /// The brokers.
    pub brokers: String,
    /// What stands before the streams' names in those of the topics.
    pub prefix: String,
    /// Settings as flags.
    pub flags: Vec<String>,
    /// Variables of the environment, such as where a proxy stands.
    pub variables: Vec<(String, String)>,
    /// Measures.
    pub stopwatch: Stopwatch,
    /// How many were started.
    pub started: AtomicUsize,
}

/// A mill that runs. It is killed when it is dropped.
pub struct Mill {
    child: Child,
    /// Its log, lines of JSON.
    pub log: PathBuf,
    /// When it was started, microseconds of the stopwatch.
    pub started_us: u64,
    ended: Option<ExitStatus>,
}

impl Mills {
    /// Writes what the mills find under `[flywheel]`.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn configure(&self, flywheel: &Value) -> Result<(), Error> {
        let text = toml::to_string(&serde_json::json!({ "flywheel": flywheel })).map_err(Error::failed)?;
        let path = self.folder.join("tidemill.toml");
        std::fs::write(&path, text)
            .map_err(|error| Error::failed(format!("cannot write {}: {error}", path.display())))
    }

    /// The binary with none of the settings that this process was given.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDEMILL_")) {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, workers: usize) -> Command {
        let mut command = self.command();
        command.arg("run").arg("--config").arg(self.folder.join("tidemill.toml"));
        command.args(["--store", &self.store, "--kafka", &self.brokers, "--workers", &workers.to_string()]);
        command.args(["--http-listen", "off", "--log", "json", "--log-level", "info"]);
        for stream in STREAMS {
            command.arg(format!("--kafka-topics-{stream}")).arg(format!("{}{stream}", self.prefix));
        }
        command.args(["--kafka-group", &self.prefix]).args(&self.flags);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn failed(&self, error: impl std::fmt::Display) -> Error {
        Error::failed(format!("cannot start {}: {error}", self.binary.display()))
    }

    /// Starts one that runs until it is ended.
    ///
    /// # Errors
    ///
    /// When the binary cannot be started.
    pub fn start(&self, workers: usize) -> Result<Mill, Error> {
        let number = self.started.fetch_add(1, Ordering::AcqRel);
        let log = self.folder.join(format!("mill-{number:04}.log"));
        let file = File::create(&log).map_err(|error| self.failed(error))?;
        let started_us = (self.stopwatch)();
        let child = self.run(workers).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        Ok(Mill { child: child.map_err(|error| self.failed(error))?, log, started_us, ended: None })
    }

    /// A drained run; an error says what it said.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn drain(&self, workers: usize) -> Result<(), Error> {
        succeeded("run --until-drained", self.run(workers).arg("--until-drained").output())
    }

    /// The binary's own check of a store; an error says what it said.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn verify(&self) -> Result<(), Error> {
        let verified = self.command().args(["verify", "--recompute", "--store", &self.store]).output();
        succeeded("verify --recompute", verified)
    }
}

fn succeeded(what: &str, output: std::io::Result<Output>) -> Result<(), Error> {
    let output = output.map_err(|error| Error::failed(format!("{what}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).to_string();
    let lines: Vec<&str> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n");
    Err(Error::failed(format!("{what} ended with {}: {last}", output.status)))
}

impl Mill {
    /// Its process.
    pub fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Sends it a signal.
    pub fn tell(&self, signal: Signal) {
        if let Some(pid) = self.pid().filter(|_| self.ended.is_none()) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for its end, at most so long.
    pub fn wait(&mut self, most: Duration) -> Option<ExitStatus> {
        for _ in 0..most.as_millis() / 10 + 1 {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) {
        self.tell(Signal::KILL);
        self.ended = self.ended.or_else(|| self.child.wait().ok());
    }

    /// What it said: its log.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last words of its log, for a report: messages alone, and not all of a long one.
    pub fn last_words(&self) -> String {
        let said = self.said();
        let message = |line: &str| {
            let json = serde_json::from_str::<Value>(line).unwrap_or_default();
            let fields = json["fields"].as_object();
            let words = |(name, value): (&String, &Value)| match name.as_str() {
                "message" => value.as_str().unwrap_or_default().to_string(),
                name => format!("{name}: {value}"),
            };
            let words = fields.map(|fields| fields.iter().map(words).collect::<Vec<_>>().join(", "));
            words.unwrap_or_else(|| line.to_string()).chars().take(300).collect::<String>()
        };
        let mut last: Vec<String> = said.lines().rev().take(3).map(message).collect();
        last.reverse();
        if last.is_empty() { "it said nothing".to_string() } else { last.join(" | ") }
    }
}

impl Drop for Mill {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The times of a log's lines, microseconds since 1970, by their message: the first of each.
pub fn phases(log: &Path) -> Vec<(String, i64)> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut found: Vec<(String, i64)> = Vec::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let message = line["fields"]["message"].as_str().unwrap_or_default().to_string();
        let at = line["timestamp"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        if let Some(at) = at.filter(|_| found.iter().all(|(known, _)| *known != message)) {
            found.push((message, at.as_microsecond()));
        }
    }
    found
}
