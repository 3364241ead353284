//! A mill of a test's own: its folders, its settings, and the binary that runs over them.

use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tidemill_oracle::traffic::{self, Step};

/// How long anything may take before a test gives up, in steps of 20 ms.
const PATIENCE: usize = 3000;

/// Folders and settings of one mill.
pub struct Mill {
    folder: TempDir,
    /// Settings of the library, as flags.
    pub flags: Vec<String>,
    /// The brokers that are read in place of the folder, if any.
    brokers: Option<String>,
    /// The store in place of the folder's, if any.
    elsewhere: Option<String>,
    variables: Vec<(String, String)>,
}

/// A run that goes on beside the test. It is killed when it is dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Mill {
    /// A mill that commits and publishes often, with what is given under `[flywheel]`.
    pub fn new(configuration: &Value) -> Mill {
        let mut folder = tempfile::tempdir().expect("a temporary folder");
        if std::env::var_os("MILL_KEEP").is_some() {
            folder.disable_cleanup(true);
            eprintln!("kept: {}", folder.path().display());
        }
        // Many mills run at a time, and one alone could have the default port.
        let flags = ["--epoch-interval", "20ms", "--lake-interval", "150ms", "--http-listen", "off"];
        let flags = flags.map(str::to_string).to_vec();
        let mill = Mill { folder, flags, brokers: None, elsewhere: None, variables: Vec::new() };
        fs::create_dir(mill.input()).expect("a folder for input");
        mill.configure(configuration);
        mill
    }

    /// A mill whose settings meet every rule of the traffic with that seed.
    pub fn for_traffic(seed: u64) -> Mill {
        Mill::new(&traffic::configuration(seed))
    }

    /// From now on it reads Kafka in place of its folder.
    pub fn read_kafka(&mut self, brokers: &str) {
        self.brokers = Some(brokers.to_string());
    }

    /// From now on its store is this one, which is no folder.
    pub fn keep_store_at(&mut self, address: &str) {
        self.elsewhere = Some(address.to_string());
    }

    /// A variable of the environment for later starts.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_string(), value.to_string()));
    }

    /// The store's address.
    pub fn address(&self) -> String {
        let folder = || self.store().to_str().expect("a path that is text").to_string();
        self.elsewhere.clone().unwrap_or_else(folder)
    }

    /// What later starts find under `[flywheel]`.
    pub fn configure(&self, configuration: &Value) {
        let text = toml::to_string(&json!({ "flywheel": configuration })).expect("settings as TOML");
        fs::write(self.folder.path().join("tidemill.toml"), text).expect("writing the settings");
    }

    /// A setting of the library for later starts; a flag that was given before is replaced.
    pub fn set(&mut self, flag: &str, value: &str) {
        let (flag, value) = (format!("--{flag}"), value.to_string());
        match self.flags.iter().position(|known| *known == flag) {
            Some(place) => self.flags[place + 1] = value,
            None => self.flags.extend([flag, value]),
        }
    }

    /// The file of settings.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("tidemill.toml")
    }

    /// The folder that is read.
    pub fn input(&self) -> PathBuf {
        self.folder.path().join("input")
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Appends to files of the input.
    pub fn write(&self, steps: &[Step]) {
        traffic::write(&self.input(), steps);
    }

    /// Appends step by step with a pause after each.
    pub fn write_slowly(&self, steps: &[Step], pause: Duration) {
        for step in steps {
            self.write(std::slice::from_ref(step));
            std::thread::sleep(pause);
        }
    }

    fn run(&self, workers: usize) -> Command {
        let mut command = binary();
        command.arg("run").arg("--config").arg(self.folder.path().join("tidemill.toml"));
        match &self.brokers {
            Some(brokers) => command.arg("--kafka").arg(brokers),
            None => command.arg("--input").arg(self.input()),
        };
        command.arg("--store").arg(self.address());
        command.arg("--workers").arg(workers.to_string()).args(&self.flags);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A drained run, however it ends.
    pub fn drain_ended(&self, workers: usize) -> Output {
        self.drain_with(workers, &[])
    }

    /// A drained run with more arguments, however it ends.
    pub fn drain_with(&self, workers: usize, arguments: &[&str]) -> Output {
        self.run(workers).arg("--until-drained").args(arguments).output().expect("the binary starts")
    }

    /// A drained run that succeeds; what it printed.
    pub fn drain(&self, workers: usize) -> String {
        succeeded(&self.drain_ended(workers))
    }

    /// A run that tails the input until it is ended.
    pub fn tail(&self, workers: usize) -> Running {
        let log = self.folder.path().join(format!("log-{workers}-{}", count(self.folder.path())));
        let file = || File::create(&log).expect("a log file");
        let child = self.run(workers).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file()).spawn();
        Running { child: child.expect("the binary starts"), log }
    }

    /// A command that reads the store.
    pub fn read(&self, arguments: &[&str]) -> Output {
        read(Path::new(&self.address()), arguments)
    }

    /// All objects whose names begin so, sorted.
    pub fn objects(&self, folder: &str) -> Vec<PathBuf> {
        objects(&self.store().join(folder))
    }

    /// Waits until the newest root fulfils a condition, and gives it.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..PATIENCE {
            if let Some(root) = self.newest().filter(|root| condition(root)) {
                return root;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{what} never came; the newest root is {:?}", self.newest());
    }

    /// The root of an epoch.
    pub fn root(&self, epoch: u64) -> Value {
        let path = self.store().join(format!("catalog/{epoch:020}.json"));
        serde_json::from_slice(&fs::read(path).expect("a root")).expect("JSON")
    }

    /// The newest root, if there is one.
    pub fn newest(&self) -> Option<Value> {
        if self.elsewhere.is_some() {
            let shown = self.read(&["log", "--last", "--format", "json"]);
            return serde_json::from_slice(&shown.stdout).ok();
        }
        let path = self.objects("catalog").into_iter().rfind(|path| path.extension().is_some())?;
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a readable folder").count()
}

/// The binary, with none of the environment's settings.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDEMILL_")) {
        command.env_remove(name);
    }
    command
}

/// A command that reads a store.
pub fn read(store: &Path, arguments: &[&str]) -> Output {
    binary().args(arguments).arg("--store").arg(store).output().expect("the binary starts")
}

/// What a command printed that must have succeeded.
pub fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// The one message of a command that must have failed with 1.
pub fn refused(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.lines().any(|line| line.starts_with("error: ")), "{message}");
    message
}

/// All files below a folder, sorted.
pub fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => found.push(path),
            }
        }
    }
    found.sort();
    found
}

impl Running {
    /// Kills it as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().expect("killing a child");
        self.child.wait().expect("its end");
    }

    /// Tells it to stop (SIGTERM) and waits for its orderly end.
    pub fn stop(self) {
        self.stop_by("TERM");
    }

    /// Tells it to stop by a signal and waits for its orderly end.
    pub fn stop_by(mut self, signal: &str) {
        self.tell(signal);
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.said());
    }

    /// Waits until it ends by itself, with its message.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let status = self.wait();
        (status.code(), self.said())
    }

    /// Sends a signal.
    pub fn tell(&self, signal: &str) {
        let told = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status();
        assert!(told.expect("kill starts").success());
    }

    /// Memory that it holds.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child's state").is_none()
    }

    /// What it said on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait(&mut self) -> ExitStatus {
        for _ in 0..PATIENCE {
            if let Some(status) = self.child.try_wait().expect("a child's state") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the run does not end: {}", self.said());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
