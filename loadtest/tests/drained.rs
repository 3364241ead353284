//! The load `files` over a handful of records: the figures add up.

use tidemill_loadtest::drained::{Load, run};

const CALLS: &str = r#"{"request_id":"a","prompt":[{"role":"user","content":"What is a tide?"}],"response":"The sea, rising and falling."}
{"request_id":"b","prompt":[{"role":"user","content":"And a mill?"}],"response":"A wheel that water turns."}
not json
"#;

#[test]
fn a_load_reports_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("calls.jsonl"), CALLS).unwrap();
    let set = vec!["epoch.interval=20ms".to_string()];
    let load = Load { input: Some(folder.path().into()), workers: Some(2), set, ..Load::default() };
    let report = run(load.clone()).unwrap();
    let json = report.json();
    assert_eq!(json["records"], 3);
    assert_eq!(json["rows"]["raw.calls"], 2);
    assert_eq!(json["rows"]["ops.rejects"], 1);
    assert!(json["commits"].as_u64() >= Some(1) && json["publications"].as_u64() >= Some(1), "{json}");
    assert!(report.to_string().contains("3 records"), "{report}");
    let kept = folder.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    let error = run(Load { store: Some(kept), ..load.clone() }).unwrap_err().to_string();
    assert!(error.contains("fresh store"), "{error}");
    let error = run(Load { set: vec!["lake.interval".into()], ..load }).unwrap_err().to_string();
    assert!(error.contains("KEY=VALUE"), "{error}");
}
