//! The direction of imports.
//!
//! ```text
//! types <── core <──┬─ operators  ─┐
//!                   ├─ connectors ─┼── tidemill <──┬─ examples
//!                   ├─ gpu        ─┘               └─ loadtest
//!                   └─ operators, connectors <── sim (only ever a dev-dependency)
//! types <── oracle (likewise, but of loadtest, which holds stores against it)
//! ```

use super::{none, root};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::collections::{BTreeMap, BTreeSet};

/// Each crate, and which of ours it may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("tidemill-types", &[]),
    ("tidemill-core", &["tidemill-types"]),
    ("tidemill-sim", &["tidemill-types", "tidemill-core", "tidemill-operators", "tidemill-connectors"]),
    // What the runtime is measured by shares nothing with it but the types in which rows are read.
    ("tidemill-oracle", &["tidemill-types"]),
    ("tidemill-operators", &["tidemill-types", "tidemill-core"]),
    ("tidemill-connectors", &["tidemill-types", "tidemill-core"]),
    ("tidemill-gpu", &["tidemill-types", "tidemill-core"]),
    ("tidemill", OURS.split_at(5).0),
    ("tidemill-examples", OURS.split_at(6).0),
    ("tidemill-loadtest", &OURS),
];

/// Ours, each before those that may import it.
const OURS: [&str; 7] = [
    "tidemill-types",
    "tidemill-core",
    "tidemill-operators",
    "tidemill-connectors",
    "tidemill-gpu",
    "tidemill",
    "tidemill-oracle",
];

/// Crates that any test may use.
const FOR_TESTS: [&str; 2] = ["tidemill-sim", "tidemill-oracle"];

/// Crates whose types cross our walls: two versions of one would not meet.
const ONE_VERSION: &[&str] = &["parquet", "object_store", "datafusion", "iceberg", "timely"];

fn workspace() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).no_deps();
    command.exec().expect("the workspace's own manifests can be read without a network")
}

fn ours(package: &Package) -> impl Iterator<Item = (&str, DependencyKind)> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.path.is_some())
        .map(|dependency| (dependency.name.as_str(), dependency.kind))
}

#[test]
fn crates_import_only_what_stands_below_them() {
    let mut broken = Vec::new();
    for package in &workspace().packages {
        let name = package.name.as_str();
        let Some((_, may)) = MAY_IMPORT.iter().find(|(crate_name, _)| *crate_name == name) else {
            broken.push(format!("{name} has no place in the layers yet: give it one in this test"));
            continue;
        };
        for (imported, kind) in ours(package) {
            let test = FOR_TESTS.contains(&imported) && kind == DependencyKind::Development;
            if !test && !may.contains(&imported) {
                broken.push(format!("{name} imports {imported}"));
            }
        }
    }
    none("types <- core <- {operators, connectors, gpu} <- tidemill <- {examples, loadtest}", broken);
}

#[test]
fn versions_are_declared_once_in_the_workspace() {
    let mut broken = Vec::new();
    for package in &workspace().packages {
        let text = std::fs::read_to_string(&package.manifest_path).expect("cargo has just read it");
        let manifest: toml::Table = text.parse().expect("cargo has just parsed it");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(section) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            let own = section.iter().filter(|(_, value)| value.get("workspace").is_none());
            broken
                .extend(own.map(|(name, _)| format!("{} gives a version of {name}", package.manifest_path)));
        }
    }
    none(
        "a dependency stands in the root manifest with its reason, and is taken with workspace = true",
        broken,
    );
}

/// The lines of the root manifest that declare dependencies of others, each with the line above it.
fn declared(manifest: &str) -> impl Iterator<Item = (&str, &str)> {
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let lines = section.split("\n[").next().unwrap_or_default().lines();
    let with_above = std::iter::once("").chain(lines.clone()).zip(lines);
    with_above.filter(|(_, line)| line.contains(" = ") && !line.starts_with('#') && !line.contains("path = "))
}

#[test]
fn every_dependency_has_its_own_reason() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest");
    let bare = declared(&manifest).filter(|(above, _)| !above.starts_with("# "));
    none("a dependency stands below the one line that says what for", bare.map(|(_, l)| l.into()).collect());
    assert!(declared(&manifest).count() > 30, "the manifest was not read");
}

#[test]
fn every_dependency_is_used() {
    let mut broken = Vec::new();
    for package in &workspace().packages {
        let folder = package.manifest_path.parent().expect("a manifest stands in a folder");
        let folder = folder.as_std_path().strip_prefix(root()).expect("a crate stands below the root");
        let all = super::files(&folder.display().to_string(), &[".rs"]);
        for dependency in &package.dependencies {
            let name = dependency.name.replace('-', "_");
            let own = |path: &str| path.contains("/src/") || dependency.kind == DependencyKind::Development;
            let says =
                |text: &str| [":", ";", "!", " "].iter().any(|end| text.contains(&format!("{name}{end}")));
            // What only examples use is declared as if the crate did.
            let used = all
                .iter()
                .any(|file| (own(&file.path) || file.path.contains("/examples/")) && says(&file.text));
            broken.extend((!used).then(|| format!("{} does not use {}", package.name, dependency.name)));
        }
    }
    none("a dependency that no source names is taken out", broken);
}

#[test]
fn what_crosses_walls_has_one_version() {
    let text = std::fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is committed");
    let lock: toml::Table = text.parse().expect("a lock file is TOML");
    let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
    for package in lock["package"].as_array().into_iter().flatten() {
        let field = |name: &str| package.get(name).and_then(toml::Value::as_str).unwrap_or_default();
        versions.entry(field("name")).or_default().insert(field("version"));
    }
    let shared = |name: &str| ONE_VERSION.contains(&name) || name == "arrow" || name.starts_with("arrow-");
    let twice = versions.iter().filter(|(name, versions)| shared(name) && versions.len() > 1);
    none("one version each", twice.map(|(name, versions)| format!("{name}: {versions:?}")).collect());
    assert_eq!(versions["arrow"].len(), 1, "the lock file was not read");
}
