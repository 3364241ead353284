//! The mapped log of docs/guide/producing.md is accepted as the guide says.

use std::path::Path;
use std::process::Command;

#[test]
fn check_prints_of_the_chat_log_what_the_guide_shows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guide = std::fs::read_to_string(root.join("docs/guide/producing.md")).unwrap();
    let command = guide.lines().find(|line| line.starts_with("tidemill check ")).unwrap();
    let shown = guide.split("<!-- what check prints -->\n```text\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    std::env::vars().filter(|(name, _)| name.starts_with("TIDEMILL_")).for_each(|(name, _)| {
        run.env_remove(name);
    });
    let output = run.args(command.split_whitespace().skip(1)).current_dir(&root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, shown);
    assert!(printed.contains("accepted: 3") && printed.contains("3 samples"), "{printed}");
}
