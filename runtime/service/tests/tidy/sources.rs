//! Rules on Rust files.
//!
//! They go by lines, which is exact enough on text that rustfmt has laid out: a function ends at the first
//! brace that stands as far left as the line on which it began.

use super::{File, files, none};

/// Lines that a function may have without a reason.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines that a file may have without a reason.
const FILE_LINES_MAX: usize = 800;
/// A module doc that is shorter says nothing.
const DOC_BYTES_MIN: usize = 10;
/// What gives the reason, above a function or among a file's first lines.
const REASON: &str = "// long: ";
/// Lines from a file's top in which its reason may stand.
const TOP: usize = 40;

/// Every folder of code.
const FOLDERS: &[&str] = &["runtime", "operators", "connectors", "gpu", "examples", "loadtest"];

/// What any program uses, and so may know none.
const LIBRARY: &[&str] = &[
    "runtime/types/src",
    "runtime/core/src",
    "runtime/service/src",
    "operators/src",
    "connectors/src",
    "gpu/src",
];

/// Where the `tidemill` binary's own program stands, and the two lines that name its module.
const PROGRAM: &[&str] =
    &["runtime/service/src/flywheel/", "runtime/service/src/main.rs", "runtime/service/src/lib.rs"];

fn sources() -> Vec<File> {
    FOLDERS.iter().flat_map(|folder| files(folder, &[".rs"])).collect()
}

fn has_reason(line: &str) -> bool {
    line.trim().strip_prefix(REASON).is_some_and(|reason| reason.len() >= 10)
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let opens = |file: &File| {
        let doc = file.text.lines().map_while(|line| line.strip_prefix("//!"));
        file.text.starts_with("//! ") && doc.map(str::len).sum::<usize>() >= DOC_BYTES_MIN
    };
    let broken = sources().into_iter().filter(|file| !opens(file)).map(|file| file.path).collect();
    none("a file begins with `//! ...`", broken);
}

#[test]
fn no_example_of_the_docs_is_ignored() {
    let mut broken = Vec::new();
    for file in sources() {
        for (number, line) in file.text.lines().enumerate() {
            let line = line.trim();
            let doc = line.strip_prefix("///").or(line.strip_prefix("//!")).map(str::trim);
            if doc.and_then(|doc| doc.strip_prefix("```")).is_some_and(|info| info.contains("ignore")) {
                broken.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    none("an example runs, or it is marked as `text`", broken);
}

/// Whether a comment's text reads as code rather than prose.
fn reads_as_code(comment: &str) -> bool {
    const KEYWORDS: &[&str] = &[
        "let ", "use ", "pub ", "fn ", "impl ", "struct ", "enum ", "mod ", "match ", "if ", "for ",
        "while ", "return ", "return;", "loop ", "async ", "const ", "static ", "unsafe ", "else ", "} else",
        "trait ",
    ];
    let text = comment.trim();
    let bracket_only = !text.is_empty() && text.chars().all(|c| "{}()[];,?".contains(c));
    let statement = text.ends_with(';')
        && (KEYWORDS.iter().any(|word| text.starts_with(word))
            || text.ends_with(");")
            || text.ends_with(")?;")
            || text.contains(" = "));
    let block = text.ends_with('{') && KEYWORDS.iter().any(|word| text.starts_with(word));
    let arm = text.contains(" => ") && text.ends_with([',', '{']);
    bracket_only || statement || block || arm || text.starts_with("#[") || text.starts_with("//")
}

#[test]
fn code_is_told_from_prose() {
    for code in ["let x = 1;", "foo(a, b);", "}", "});", "if a == b {", "Some(x) => y,", "#[test]", "x = y;"]
    {
        assert!(reads_as_code(code), "{code}");
    }
    for prose in [
        "if it is late; then wait,",
        "the epoch closes;",
        "for example {a, b}",
        "use the newest root (see above)",
        "a => b",
        "let it be.",
    ] {
        assert!(!reads_as_code(prose), "{prose}");
    }
}

#[test]
fn no_code_is_commented_out() {
    let mut broken = Vec::new();
    for file in sources() {
        for (number, line) in file.text.lines().enumerate() {
            let Some(comment) = line.trim().strip_prefix("//") else { continue };
            let doc = comment.starts_with('/') || comment.starts_with('!');
            if !doc && reads_as_code(comment) {
                broken.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    none("what is not needed is deleted", broken);
}

/// Whether a function begins on this line.
fn begins_function(line: &str) -> bool {
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.peek() {
        let qualifier = matches!(*word, "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"")
            || word.starts_with("pub(")
            || word.ends_with(')');
        match (*word, qualifier) {
            ("fn", _) => return true,
            (_, true) => words.next(),
            _ => return false,
        };
    }
    false
}

/// Functions with a body of more than one line: where each begins, and its lines.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| begins_function(line)) {
        let margin = &line[..line.len() - line.trim_start().len()];
        let opens = lines[start..].iter().position(|line| line.ends_with(['{', ';', '}']));
        let Some(open) = opens.map(|open| start + open).filter(|open| lines[*open].ends_with('{')) else {
            continue;
        };
        let ends = |line: &&str| line.strip_prefix(margin).is_some_and(|rest| rest.starts_with('}'));
        let length = lines[open + 1..].iter().position(ends);
        found.extend(length.map(|length| (start, open + 1 + length - start + 1)));
    }
    found
}

#[test]
fn functions_are_measured_from_signature_to_brace() {
    let text = "fn a() {\n}\n    pub(super) async fn b(\n    ) -> X\n    where\n        T: Y,\n    {\n        if x {\n        }\n    }\n    fn c();\nfn d() {}\n// fn e() {";
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(functions(&lines), [(0, 2), (2, 8)]);
}

#[test]
fn a_long_function_says_why() {
    let mut broken = Vec::new();
    for file in sources() {
        let lines: Vec<&str> = file.text.lines().collect();
        for (start, length) in functions(&lines) {
            let above = lines[..start].iter().rev().map(|line| line.trim());
            let mut above = above.take_while(|line| line.starts_with("//") || line.starts_with("#["));
            if length > FUNCTION_LINES_MAX && !above.any(has_reason) {
                broken.push(format!("{}:{}: {length} lines", file.path, start + 1));
            }
        }
    }
    none("over 70 lines: split it, or say why not on a line `// long: ...` above it", broken);
}

#[test]
fn a_long_file_says_why() {
    let long = |file: &File| {
        file.text.lines().count() > FILE_LINES_MAX && !file.text.lines().take(TOP).any(has_reason)
    };
    let broken = sources().into_iter().filter(long).map(|file| file.path).collect();
    none("over 800 lines: split it, or say why not on a line `// long: ...` near its top", broken);
}

/// A library file's own lines: what stands before its tests.
fn before_tests(file: &File) -> impl Iterator<Item = (usize, &str)> {
    file.text.lines().take_while(|line| line.trim() != "#[cfg(test)]").enumerate()
}

#[test]
fn the_library_does_not_know_the_program() {
    let mut broken = Vec::new();
    for file in LIBRARY.iter().flat_map(|folder| files(folder, &[".rs"])) {
        if PROGRAM.iter().any(|place| file.path.starts_with(place)) || file.path.contains("/tests/") {
            continue;
        }
        for (number, line) in before_tests(&file) {
            let tables =
                ["\"train.", "\"curated.", "\"evals.", "\"raw."].iter().any(|name| line.contains(name));
            if line.to_lowercase().contains("flywheel") || tables {
                broken.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    none("the runtime serves any program: it names neither the flywheel nor its tables", broken);
}
