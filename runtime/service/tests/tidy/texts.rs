//! Rules on the repository's texts: they speak of the project alone, and what they promise is there.

use super::{File, files, none, root};
use tidemill::config::{KEYS, flag};

/// What a text of the project has no reason to say: the paths of one machine, the numbers of a tracker,
/// papers that are not in the repository. (In two parts each, so that this file does not say them either.)
const UNSAID: &[(&str, &str)] = &[
    ("/ro", "ot/"),
    ("/wo", "rk/"),
    ("/ho", "me/"),
    ("issue", " #"),
    ("FLYWHEEL", ".md"),
    ("DESIGN", ".md"),
    ("STYLE", ".md"),
    ("TO", "DO"),
    ("FIX", "ME"),
];

fn texts() -> Vec<File> {
    files("", &[".rs", ".toml", ".md", ".py", ".svg", ".yml", ".yaml", "run", "nightly", ".gitignore"])
}

fn document(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn texts_speak_of_the_project_alone() {
    let mut broken = Vec::new();
    for file in texts() {
        for (number, line) in file.text.lines().enumerate() {
            let said = UNSAID.iter().map(|(a, b)| format!("{a}{b}")).find(|word| line.contains(word));
            broken.extend(said.map(|word| format!("{}:{}: {word}", file.path, number + 1)));
        }
    }
    none("no paths of a machine, no tracker's numbers, nothing left to do", broken);
}

/// Targets of a Markdown text's links that are files of the repository.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let targets = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    targets.map(|target| target.split('#').next().unwrap_or(target)).collect()
}

#[test]
fn every_link_leads_to_a_file() {
    let mut broken = Vec::new();
    for file in files("", &[".md"]) {
        let path = root().join(&file.path);
        let folder = path.parent().expect("a file has a folder");
        let dead = links(&file.text).into_iter().filter(|target| !folder.join(target).exists());
        broken.extend(dead.map(|target| format!("{}: {target}", file.path)));
    }
    none("a link leads to a file of the repository", broken);
}

#[test]
fn the_readme_gives_the_two_commands() {
    let readme = document("README.md");
    for command in ["cargo run --release -- demo", "cargo test --workspace"] {
        assert!(readme.lines().any(|line| line.trim() == command), "README.md lacks the line `{command}`");
    }
}

#[test]
fn every_setting_stands_in_the_guide() {
    let guide = document("docs/guide/settings.md");
    let missing = |name: &str| !guide.contains(&format!("`{name}`"));
    let mut broken: Vec<String> = KEYS
        .iter()
        .filter(|key| missing(key.name))
        .map(|key| format!("{} (--{})", key.name, flag(key.name)))
        .collect();
    let program = tidemill::flywheel::app::app().settings;
    let own = program.keys.iter().map(|key| format!("{}.{}", program.section, key.path));
    broken.extend(own.filter(|name| missing(name)));
    none("docs/guide/settings.md names every setting", broken);
}

#[test]
fn every_table_stands_in_the_guide() {
    let guide = document("docs/guide/flywheel.md");
    let tables = tidemill::flywheel::tables::schemas().into_iter().map(|schema| schema.name);
    let missing = tables.filter(|name| !name.starts_with("_state.") && !guide.contains(&format!("`{name}`")));
    none("docs/guide/flywheel.md names every table", missing.collect());
}
