//! The example `read_table` over the small store.

use tidemill_examples::read_table::read_table;

#[test]
fn a_pair_of_tries_becomes_a_preference() {
    let folder = tempfile::tempdir().unwrap();
    let summary = tidemill_examples::small_store(folder.path()).unwrap();
    assert_eq!(summary.records, 4);
    let store = folder.path().join("store").display().to_string();
    let pairs = read_table(&store, "train.preferences", 9).unwrap();
    assert_eq!(pairs.len(), 1, "{pairs:?}");
    assert!(pairs[0].contains(r#""chosen_id":"trajectory:try-1""#), "{}", pairs[0]);
    assert!(pairs[0].contains(r#""rejected_id":"trajectory:try-2""#), "{}", pairs[0]);
    assert_eq!(read_table(&store, "train.sft", 9).unwrap().len(), 1);
    let error = read_table(&store, "train.rlhf", 9).unwrap_err().to_string();
    assert!(error.contains("there are") && error.contains("train.sft"), "{error}");
}
