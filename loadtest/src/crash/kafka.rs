//! The Kafka that mills read: somebody's, or one of our own that can be killed.
//!
//! Every round has topics of its own, named after the run, so that a broker which serves others is safe to use.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tidemill::Error;
use tidemill_oracle::kafka::STREAMS;
use tokio::runtime::Handle;

/// How long a broker may take for an answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Partitions of a topic.
pub const PARTITIONS: i32 = 4;

/// Brokers.
pub struct Kafka {
    /// Their addresses.
    pub brokers: String,
    own: Option<Own>,
}

/// A broker that the script keeps in a folder.
struct Own {
    script: PathBuf,
    folder: PathBuf,
}

impl Own {
    fn tell(&self, what: &str) -> Result<String, Error> {
        let told = Command::new(&self.script).arg(what).arg(&self.folder).output();
        let told = told.map_err(|error| {
            Error::failed(format!("{} cannot be started: {error}", self.script.display()))
        })?;
        if !told.status.success() {
            let said = String::from_utf8_lossy(&told.stderr);
            return Err(Error::failed(format!("{} {what}: {said}", self.script.display())));
        }
        Ok(String::from_utf8_lossy(&told.stdout).to_string())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.tell("kill");
    }
}

impl Kafka {
    /// Brokers that are there.
    pub fn at(brokers: &str) -> Kafka {
        Kafka { brokers: brokers.to_string(), own: None }
    }

    /// A broker of our own, kept by a script with the commands `start DIR` and `kill DIR`.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn own(script: &Path, folder: &Path) -> Result<Kafka, Error> {
        let own = Own { script: script.to_path_buf(), folder: folder.to_path_buf() };
        let addresses = own.tell("start")?;
        let brokers = addresses.lines().next().unwrap_or_default().to_string();
        Ok(Kafka { brokers, own: Some(own) })
    }

    /// Whether it may be killed.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Kills the broker of our own, and starts it again over what it left after a while.
    ///
    /// # Errors
    ///
    /// When it does not start again.
    pub fn kill_for(&self, while_: Duration) -> Result<(), Error> {
        let Some(own) = &self.own else { return Ok(()) };
        own.tell("kill")?;
        std::thread::sleep(while_);
        own.tell("start").map(drop)
    }

    /// Settings of any client.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        // A broker that is away is expected here; errors come with the calls that fail.
        config.set("log_level", "2").set("reconnect.backoff.max.ms", "300");
        config
    }

    fn failed(&self, error: impl std::fmt::Display) -> Error {
        Error::failed(format!("kafka at {}: {error}", self.brokers))
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, Error> {
        self.config().create().map_err(|error| self.failed(error))
    }

    /// Makes the topics of a round.
    ///
    /// # Errors
    ///
    /// When one is there already, or cannot be made.
    pub fn create(&self, runtime: &Handle, prefix: &str) -> Result<(), Error> {
        let names = STREAMS.map(|stream| format!("{prefix}{stream}"));
        // The traffic's timestamps are old: by its own retention Kafka would delete it at once.
        let new = |name| {
            let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
            topic.set("retention.ms", "-1").set("retention.bytes", "-1")
        };
        let new: Vec<NewTopic<'_>> = names.iter().map(|name| new(name)).collect();
        let admin = self.admin()?;
        let made =
            runtime.block_on(admin.create_topics(&new, &options())).map_err(|error| self.failed(error))?;
        for one in made {
            one.map_err(|(topic, error)| self.failed(format!("the topic {topic}: {error}")))?;
        }
        names.iter().try_for_each(|name| self.wait_for(name))
    }

    /// Made is not yet known to all.
    fn wait_for(&self, topic: &str) -> Result<(), Error> {
        let consumer: BaseConsumer = self.config().create().map_err(|error| self.failed(error))?;
        for _ in 0..400 {
            let found = consumer.fetch_metadata(Some(topic), PATIENCE).map_err(|error| self.failed(error))?;
            let led =
                found.topics()[0].partitions().iter().filter(|partition| partition.leader() >= 0).count();
            if led == PARTITIONS.unsigned_abs() as usize {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(self.failed(format!("the topic {topic} was made and has no leaders")))
    }

    /// Deletes the topics of a round. What fails is told, and left.
    pub fn delete(&self, runtime: &Handle, prefix: &str) {
        let names = STREAMS.map(|stream| format!("{prefix}{stream}"));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let deleted = self.admin().map(|admin| runtime.block_on(admin.delete_topics(&names, &options())));
        if let Ok(Err(error)) = deleted {
            eprintln!("the topics {prefix}* are left: {error}");
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}
