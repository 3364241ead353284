//! Where a round's store stands, and who sees and troubles it there: a folder with a watch, or a server of the S3
//! protocol with a proxy before it.
//!
//! | | folder | folder on a small tmpfs (root only) | S3 |
//! |---|---|---|---|
//! | steps | by the names that appear | likewise | by requests |
//! | read-only | | mounted so | 403 to writes |
//! | full | | a file that takes all that is free | 507 to writes |
//! | slow, 503, false answers | | | by the proxy |

use super::faults::Fault;
use super::points::{Moment, Point, Step, Trap};
use super::proxy::{Proxy, Ways};
use super::sight::Sight;
use super::trouble::{Spell, Troubles};
use super::watch::Watch;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tidemill::Error;
use tidemill::run::Stopwatch;
use tokio::runtime::Handle;

/// What a tmpfs may hold: small, so that it is soon full.
const TMPFS_SIZE: &str = "size=256m";

/// How long a client waits for an answer of the server; told to the mills, so that silence is soon over.
pub const ANSWER_S: u64 = 3;

enum Kind {
    /// With the file system that it stands on, if that is one of its own.
    Folder {
        watch: Watch,
        mount: Option<PathBuf>,
    },
    S3 {
        proxy: Proxy,
    },
}

/// The store of a round.
pub struct Site {
    /// Its address.
    pub store: String,
    /// Kills at steps.
    pub trap: Arc<Trap>,
    /// Sees roots.
    pub sight: Arc<Sight>,
    /// Answers and spells of an S3 store; of others unused.
    pub troubles: Arc<Troubles>,
    kind: Kind,
}

impl Site {
    /// A store in a folder.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made or watched.
    pub fn folder(folder: &Path, stopwatch: Stopwatch) -> Result<Site, Error> {
        let (trap, sight) = (Arc::<Trap>::default(), Arc::new(Sight::new(stopwatch)));
        let watch = Watch::start(folder, trap.clone(), sight.clone())?;
        let store = folder.display().to_string();
        Ok(Site { store, trap, sight, troubles: Arc::default(), kind: Kind::Folder { watch, mount: None } })
    }

    /// A store on a small file system in memory.
    ///
    /// # Errors
    ///
    /// When it cannot be mounted, which takes root.
    pub fn tmpfs(mount: &Path, stopwatch: Stopwatch) -> Result<Site, Error> {
        let cannot = |error| Error::failed(format!("cannot make {}: {error}", mount.display()));
        std::fs::create_dir_all(mount).map_err(cannot)?;
        call("mount", &["-t", "tmpfs", "-o", TMPFS_SIZE, "tidemill-crash"], mount)?;
        let mut site = match Site::folder(&mount.join("store"), stopwatch) {
            Ok(site) => site,
            Err(error) => {
                // The first error is the one to tell.
                let _ = call("umount", &[], mount);
                return Err(error);
            }
        };
        if let Kind::Folder { mount: own, .. } = &mut site.kind {
            *own = Some(mount.to_path_buf());
        }
        Ok(site)
    }

    /// A store on the server that `AWS_ENDPOINT_URL` names, behind a proxy of its own.
    ///
    /// # Errors
    ///
    /// When there is no such variable, or its server cannot stand behind the proxy.
    pub fn s3(runtime: &Handle, address: &str, stopwatch: Stopwatch) -> Result<Site, Error> {
        let endpoint = std::env::var("AWS_ENDPOINT_URL").or_else(|_| std::env::var("AWS_ENDPOINT"));
        let wanted = "the proxy stands before a plain server: set AWS_ENDPOINT_URL=http://HOST:PORT";
        let endpoint = endpoint.map_err(|_| Error::Usage(format!("--store {address}: {wanted}")))?;
        let server = endpoint.strip_prefix("http://").map(|rest| rest.trim_end_matches('/').to_string());
        let server =
            server.ok_or_else(|| Error::Usage(format!("AWS_ENDPOINT_URL is {endpoint}: {wanted}")))?;
        let (trap, sight) = (Arc::<Trap>::default(), Arc::new(Sight::new(stopwatch)));
        let troubles = Arc::<Troubles>::default();
        let prefix = format!("/{}/", address.trim_start_matches("s3://").trim_matches('/'));
        let ways =
            Ways { server, prefix, trap: trap.clone(), troubles: troubles.clone(), sight: sight.clone() };
        let proxy = Proxy::start(runtime, ways)?;
        Ok(Site { store: address.to_string(), trap, sight, troubles, kind: Kind::S3 { proxy } })
    }

    /// What mills find in their environment.
    pub fn variables(&self) -> Vec<(String, String)> {
        let Kind::S3 { proxy } = &self.kind else { return Vec::new() };
        let timeout = ("AWS_TIMEOUT".to_string(), format!("{ANSWER_S}s"));
        vec![
            ("AWS_ENDPOINT_URL".to_string(), proxy.url.clone()),
            ("AWS_ENDPOINT".to_string(), proxy.url.clone()),
            ("AWS_ALLOW_HTTP".to_string(), "true".to_string()),
            timeout,
        ]
    }

    /// A life begins.
    pub fn life(&self) {
        if let Kind::Folder { watch, .. } = &self.kind {
            watch.life();
        }
    }

    /// Whether a fault can be brought about here; those of the mill and of Kafka can be anywhere.
    pub fn can(&self, fault: Fault) -> bool {
        match fault {
            Fault::Slow | Fault::Throttle | Fault::Answers => matches!(self.kind, Kind::S3 { .. }),
            Fault::ReadOnly | Fault::Full => !matches!(self.kind, Kind::Folder { mount: None, .. }),
            Fault::Steps | Fault::Pause | Fault::Takeover | Fault::Broker => true,
        }
    }

    /// All points at which a mill can be killed here.
    pub fn points(&self) -> Vec<Point> {
        use Step::{Claim, DataFile, DeleteFile, Deletion, Index, Manifest, Metadata, Root, Segment};
        let mut points = Vec::new();
        for step in [Claim, Root, Segment, DataFile, DeleteFile, Index, Manifest, Metadata] {
            points.extend([Point(step, Moment::Before), Point(step, Moment::After)]);
        }
        points.push(Point(Deletion, Moment::After));
        if matches!(self.kind, Kind::S3 { .. }) {
            points.push(Point(Deletion, Moment::Before));
            for step in [Step::Hint, Step::ReadRoot, Step::ReadSegment, Step::ReadTable] {
                points.extend([Point(step, Moment::Before), Point(step, Moment::After)]);
            }
        } else {
            points.push(Point(Step::Hint, Moment::After));
        }
        points
    }

    /// Begins a spell of a fault of the store, or ends it.
    ///
    /// # Errors
    ///
    /// When the file system does not change.
    pub fn trouble(&self, fault: Fault, begins: bool, late: Duration) -> Result<(), Error> {
        match (&self.kind, fault) {
            (Kind::S3 { .. }, _) => {
                let spell = match fault {
                    Fault::Slow => Spell::Slow(late),
                    Fault::ReadOnly => Spell::ReadOnly,
                    Fault::Full => Spell::Full,
                    _ => Spell::Throttled,
                };
                self.troubles.spell(begins.then_some(spell));
                Ok(())
            }
            (Kind::Folder { mount: Some(mount), .. }, Fault::ReadOnly) => {
                let how = if begins { "remount,ro" } else { "remount,rw" };
                remount(how, mount)
            }
            (Kind::Folder { mount: Some(mount), .. }, Fault::Full) if begins => fill(&mount.join("ballast")),
            (Kind::Folder { mount: Some(mount), .. }, Fault::Full) => {
                std::fs::remove_file(mount.join("ballast"))
                    .map_err(|error| Error::failed(format!("{}: {error}", mount.display())))
            }
            _ => Ok(()),
        }
    }

    /// Keeps what would be gone with the process, for inspection.
    pub fn keep(&self, folder: &Path) {
        if let Kind::Folder { mount: Some(mount), .. } = &self.kind {
            // What cannot be copied is lost, and the rest is worth having.
            let _ = Command::new("cp").arg("-a").arg(mount.join("store")).arg(folder).status();
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Kind::Folder { mount: Some(mount), .. } = &self.kind {
            // A mill that was just killed may hold it for a moment.
            for _ in 0..100 {
                if call("umount", &[], mount).is_ok() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            eprintln!("{} is still mounted: umount it", mount.display());
        }
    }
}

fn call(program: &str, arguments: &[&str], path: &Path) -> Result<(), Error> {
    let output = Command::new(program).args(arguments).arg(path).output();
    let output = output.map_err(|error| Error::failed(format!("{program} cannot be started: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    Err(Error::failed(format!("{program} {}: {said}", path.display())))
}

/// A file system with a file that is just being written cannot become read-only; a moment later it can.
fn remount(how: &str, mount: &Path) -> Result<(), Error> {
    let mut last = Ok(());
    for _ in 0..500 {
        last = call("mount", &["-o", how], mount);
        if last.is_ok() {
            return last;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    last
}

/// Writes a file until nothing is free.
fn fill(ballast: &Path) -> Result<(), Error> {
    let cannot = |error| Error::failed(format!("cannot write {}: {error}", ballast.display()));
    let mut file = std::fs::File::create(ballast).map_err(cannot)?;
    let mut block = vec![0u8; 1 << 20];
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
    Ok(())
}

/// Whether a tmpfs can be mounted here, tried out.
pub fn can_mount(folder: &Path) -> Result<(), Error> {
    let mount = folder.join("tried");
    std::fs::create_dir_all(&mount).map_err(Error::failed)?;
    call("mount", &["-t", "tmpfs", "-o", "size=1m", "tidemill-crash"], &mount)?;
    call("umount", &[], &mount)?;
    std::fs::remove_dir(&mount).map_err(Error::failed)
}
