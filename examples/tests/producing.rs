//! What docs/guide/producing.md shows is what stands in the programs and files that it names.
//!
//! A comment above a fenced block says whence it is: `FILE: REGION`, a numbered line of a JSONL file, or a
//! whole file. `GUIDE_WRITE=1` writes the blocks anew; without it a stale one fails the test.

use std::path::{Path, PathBuf};

const GUIDE: &str = "docs/guide/producing.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The lines of a marked region, without blank ones around them.
fn region(path: &str, name: &str) -> String {
    let all = text(path);
    let begins = |line: &&str| line.trim_start_matches(['#', '/', ' ']) == format!("region {name}");
    let ends = |line: &&str| line.trim_start_matches(['#', '/', ' ']) == "endregion";
    let lines: Vec<&str> = all.lines().skip_while(|line| !begins(line)).skip(1).collect();
    assert!(lines.iter().any(&ends), "{path} has no whole region {name}");
    let lines: Vec<&str> = lines.into_iter().take_while(|line| !ends(line)).collect();
    lines.join("\n").trim_matches('\n').to_string()
}

/// What a comment of the guide stands for, `FILE` or `FILE: PART`.
fn source(named: &str) -> String {
    match named.split_once(": ") {
        None => text(named).trim_end().to_string(),
        Some((path, part)) if path.ends_with(".jsonl") => {
            let line: usize = part.parse().expect("the number of a line");
            let record = text(path).lines().nth(line - 1).expect("as many lines").to_string();
            let record: serde_json::Value = serde_json::from_str(&record).expect("a line of JSON");
            laid_out(&record, 0)
        }
        Some((path, part)) => region(path, part),
    }
}

/// JSON with objects of the first two levels on lines of their own, the rest in one line.
fn laid_out(value: &serde_json::Value, depth: usize) -> String {
    let serde_json::Value::Object(fields) = value else { return value.to_string() };
    if depth > 1 {
        return value.to_string();
    }
    let margin = "  ".repeat(depth + 1);
    let field = |(name, value): (&String, _)| format!("{margin}{name:?}: {}", laid_out(value, depth + 1));
    let fields: Vec<String> = fields.iter().map(field).collect();
    format!("{{\n{}\n{}}}", fields.join(",\n"), "  ".repeat(depth))
}

/// The guide with each block that names its source filled from there, and how many there were.
fn filled(guide: &str) -> (String, usize) {
    let (mut lines, mut out, mut count) = (guide.lines(), Vec::new(), 0);
    while let Some(line) = lines.next() {
        out.push(line.to_string());
        let named = line.strip_prefix("<!-- examples/").and_then(|rest| rest.strip_suffix(" -->"));
        let Some(named) = named else { continue };
        let fence = lines.next().filter(|fence| fence.starts_with("```")).expect("a block below its source");
        out.extend([fence.to_string(), source(&format!("examples/{named}")), "```".to_string()]);
        lines.by_ref().find(|line| *line == "```").expect("an end of the block");
        count += 1;
    }
    (out.join("\n") + "\n", count)
}

#[test]
fn the_guide_shows_the_programs_as_they_are() {
    let guide = text(GUIDE);
    let (should_be, blocks) = filled(&guide);
    if std::env::var_os("GUIDE_WRITE").is_some() {
        std::fs::write(root().join(GUIDE), &should_be).expect("the guide can be written");
    } else {
        let stale = guide.lines().zip(should_be.lines()).position(|(is, should)| is != should);
        let message = "differs from the program it shows; GUIDE_WRITE=1 takes the program's text";
        assert_eq!(guide, should_be, "{GUIDE}:{}: {message}", stale.map_or(0, |line| line + 1));
    }
    assert_eq!(blocks, 9, "the guide has lost a block");
}
