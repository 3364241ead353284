//! The house rules, as tests: who may import whom, and how files, functions and comments are kept.
//!
//! They read the workspace's manifests, its lock file and its texts; nothing is built and nothing is
//! fetched. A rule that is broken names every place at once, so that one run is enough to mend them.
//!
//! - [`graph`]: the direction of imports between crates, and one version of what crosses their walls;
//! - [`sources`]: rules on Rust files (module docs, long functions, comments, what the library may name);
//! - [`texts`]: rules on every text of the repository (links, machine paths, what the documents must say).

mod graph;
mod sources;
mod texts;

use std::path::{Path, PathBuf};

/// Folders that hold no text of ours.
const SKIPPED: &[&str] = &[".git", "target", "golden", "__pycache__"];

/// The repository's folder.
fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the crate stands two folders below the root")
}

/// One file: its path from the root, and its text.
struct File {
    path: String,
    text: String,
}

/// Every file below a folder whose name ends so, in order of their paths.
fn files(folder: &str, endings: &[&str]) -> Vec<File> {
    let (root, mut found, mut folders) = (root(), Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry of a folder that is there").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // What the README's command writes stands at the root.
            if path.is_dir() && !SKIPPED.contains(&name.as_str()) && path != root.join("demo") {
                folders.push(path);
            } else if path.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    let file = |path: PathBuf| File {
        text: std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        path: path.strip_prefix(&root).expect("it was found below the root").display().to_string(),
    };
    found.into_iter().map(file).collect()
}

/// Fails with every place that breaks a rule.
fn none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}
