//! Sees the steps of a store in a folder: the kernel tells of every name as it appears (inotify).
//!
//! A local store writes a temporary file, syncs it and gives it its name. So the temporary file is the moment before
//! a step, the name the moment after it. What a temporary file in `catalog` will be called shows only then: before the
//! first name of a life it is taken for the claim, later for a root.

use super::points::{Moment, Point, Step, Trap};
use super::sight::Sight;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemill::Error;

/// How names of temporary files begin.
const TEMPORARY: &str = ".tmp-";

/// A watch; it ends when it is dropped.
pub struct Watch {
    ended: Arc<AtomicBool>,
    claiming: Arc<AtomicBool>,
}

struct Watcher {
    inotify: OwnedFd,
    root: PathBuf,
    /// Folders by watch, relative to the root.
    folders: HashMap<i32, String>,
    trap: Arc<Trap>,
    sight: Arc<Sight>,
    claiming: Arc<AtomicBool>,
}

impl Watch {
    /// Watches a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// When the kernel gives no watch.
    pub fn start(root: &Path, trap: Arc<Trap>, sight: Arc<Sight>) -> Result<Watch, Error> {
        let cannot =
            |error: std::io::Error| Error::failed(format!("cannot watch {}: {error}", root.display()));
        for folder in ["catalog", "segments", "tables"] {
            std::fs::create_dir_all(root.join(folder)).map_err(cannot)?;
        }
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let inotify = inotify.map_err(|error| cannot(error.into()))?;
        let (ended, claiming) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let (root, folders) = (root.to_path_buf(), HashMap::new());
        let mut watcher = Watcher { inotify, root, folders, trap, sight, claiming: claiming.clone() };
        watcher.add("")?;
        let until = ended.clone();
        std::thread::spawn(move || {
            while !until.load(Ordering::Acquire) {
                watcher.look();
            }
        });
        Ok(Watch { ended, claiming })
    }

    /// A life begins: what comes into `catalog` first is its claim.
    pub fn life(&self) {
        self.claiming.store(true, Ordering::Release);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Watcher {
    /// Watches a folder and all below it.
    fn add(&mut self, folder: &str) -> Result<(), Error> {
        let path = self.root.join(folder);
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        let watch = inotify::add_watch(&self.inotify, &path, flags)
            .map_err(|error| Error::failed(format!("cannot watch {}: {error}", path.display())))?;
        self.folders.insert(watch, folder.to_string());
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                let name = entry.file_name().to_string_lossy().to_string();
                self.add(&joined(folder, &name))?;
            }
        }
        Ok(())
    }

    fn look(&mut self) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut wanted = [PollFd::new(&self.inotify, PollFlags::IN)];
        if poll(&mut wanted, Some(&timeout)).is_err() {
            return;
        }
        let mut came = Vec::new();
        {
            let mut buffer = [MaybeUninit::uninit(); 1 << 14];
            let mut reader = Reader::new(&self.inotify, &mut buffer);
            while let Ok(event) = reader.next() {
                let Some(folder) = self.folders.get(&event.wd()) else { continue };
                let name = event.file_name().map(|name| name.to_string_lossy().to_string());
                let name = joined(folder, &name.unwrap_or_default());
                if event.events().contains(ReadFlags::ISDIR) {
                    came.extend(event.events().contains(ReadFlags::CREATE).then_some(name));
                } else {
                    self.seen(&name, event.events());
                }
            }
        }
        for folder in came {
            // It may be gone again.
            let _ = self.add(&folder);
        }
    }

    fn seen(&self, name: &str, events: ReadFlags) {
        let file = name.rsplit('/').next().unwrap_or_default();
        if events.contains(ReadFlags::DELETE) {
            if !file.starts_with(TEMPORARY) {
                self.trap.meets(Point(Step::Deletion, Moment::After));
            }
        } else if file.starts_with(TEMPORARY) {
            for step in self.written_as(name) {
                self.trap.meets(Point(step, Moment::Before));
            }
        } else if name.starts_with("catalog/") && file != "_hint" {
            let step = if self.claiming.swap(false, Ordering::AcqRel) { Step::Claim } else { Step::Root };
            self.trap.meets(Point(step, Moment::After));
            self.sight.root(&std::fs::read(self.root.join(name)).unwrap_or_default());
        } else if let Some(step) = Step::of_write(name, b"") {
            self.trap.meets(Point(step, Moment::After));
        }
    }

    /// What a temporary file may become.
    fn written_as(&self, name: &str) -> Vec<Step> {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        match folder.rsplit('/').next().unwrap_or_default() {
            "catalog" if self.claiming.load(Ordering::Acquire) => vec![Step::Claim],
            "catalog" => vec![Step::Root, Step::Hint],
            "segments" => vec![Step::Segment],
            "data" => vec![Step::DataFile, Step::DeleteFile],
            "metadata" => vec![Step::Index, Step::Manifest, Step::Metadata],
            _ => Vec::new(),
        }
    }
}

fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn roots_in_a_folder_are_seen_as_they_get_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let sight = Arc::new(Sight::new(tidemill::run::stopwatch()));
        let watch = Watch::start(folder.path(), Arc::default(), sight.clone()).expect("a watch");
        let root = r#"{"epoch": 0, "generation": 1, "claim": true, "positions": {}}"#;
        let (temporary, name) =
            (folder.path().join("catalog/.tmp-1-1"), folder.path().join("catalog/00.json"));
        std::fs::write(&temporary, root).expect("a file");
        std::fs::hard_link(&temporary, &name).expect("a name");
        let seen = sight.wait(0, Duration::from_secs(10), |roots| roots.first().cloned());
        assert_eq!(seen.expect("a root").generation, 1);
        std::fs::create_dir_all(folder.path().join("tables/a/data")).expect("folders");
        drop(watch);
    }
}
