//! The JSON scanner against hostile documents, against serde_json, and its captures and canonical
//! texts against recomputation on serde_json's tree.
//!
//! serde_json is the reference for the grammar; where it differs on purpose (it refuses numbers that
//! overflow) the generator stays away, and the table of hostile documents says what holds.

use proptest::prelude::*;
use serde_json::Value;
use tidemill_operators::json::{Canonical, DEPTH_MAX, Json, JsonKind, Pointers, digest, string_bytes};

fn valid(document: &[u8]) -> bool {
    Json::parse(document).is_ok()
}

fn nested(open: &str, close: &str, levels: usize) -> String {
    format!("{}{}", open.repeat(levels), close.repeat(levels))
}

#[test]
fn documents_that_json_allows_are_valid() {
    let documents: [&str; 22] = [
        "null",
        " \t\r\n true \r\n",
        "false",
        "\"\"",
        "{}",
        "[ ]",
        "{ \"a\" : [ 1 , { } ] }",
        "0",
        "-0",
        "-0.0e-0",
        "10",
        "1E+2",
        "1e999",
        "-123456789012345678901234567890.5e-400",
        r#""\"\\\/\b\f\n\r\t\u0000\uD834\uDd1e""#,
        "\"\u{7f}\u{80}é😀\u{2028}\"",
        r#"{"":"","":1}"#,
        r#"{"a":{"b":1},"a":null}"#,
        r#"["\ud7ff","\ue000"]"#,
        "[1e999,{\"x\":-1e999}]",
        r#"{"\u0061":1}"#,
        "[[],{},[[]]]",
    ];
    for document in documents {
        assert!(valid(document.as_bytes()), "{document:?}: {:?}", Json::parse(document.as_bytes()));
    }
}

#[test]
fn documents_that_json_does_not_allow_are_refused() {
    let documents: [&[u8]; 62] = [
        b"",
        b" ",
        b"\xef\xbb\xbf{}",
        b"{",
        b"}",
        b"[",
        b"]",
        b"[1",
        b"[1,",
        b"[1,]",
        b"[,1]",
        b"[1 2]",
        b"[1}",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"{,\"a\":1}",
        b"{\"a\":1 \"b\":2}",
        b"{\"a\"1}",
        b"{a:1}",
        b"{'a':1}",
        b"{1:1}",
        b"{\"a\":1]",
        b"{}{}",
        b"{} x",
        b"{}\0",
        b"\0{}",
        b"{}\x0c",
        b"{}\xc2\xa0",
        b"nul",
        b"nulL",
        b"nulll",
        b"True",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"-",
        b"+1",
        b"01",
        b"-01",
        b"00",
        b"1.",
        b".5",
        b"-.5",
        b"1.e1",
        b"1e",
        b"1e+",
        b"1e1.5",
        b"0x10",
        b"1_000",
        b"\"",
        b"\"\\\"",
        b"\"\n\"",
        b"\"\0\"",
        b"\"\x1f\"",
        b"\"\\x41\"",
        b"\"\\u12\"",
        b"\"\\u12g4\"",
        b"\"\\u+123\"",
        b"\"\\",
        b"\"\xff\"",
        b"\"\xed\xa0\x80\"",
    ];
    for document in documents {
        assert!(!valid(document), "{:?}", String::from_utf8_lossy(document));
    }
}

#[test]
fn an_unpaired_surrogate_is_refused_wherever_it_stands() {
    for text in [
        r"\ud800",
        r"\udc00",
        r"\uD800x",
        r"\ud800\n",
        r"\ud800\ud800",
        r"\udc00\ud800",
        r"\ud800\u0041",
        r"\ud800\",
    ] {
        for document in [
            format!(r#""{text}""#),
            format!(r#"{{"ignored":"{text}"}}"#),
            format!(r#"{{"{text}":1}}"#),
            format!(r#"{{"a":"{text}","a":1}}"#),
            format!(r#"[[{{"a":["{text}"]}}]]"#),
        ] {
            assert!(!valid(document.as_bytes()), "{document}");
        }
    }
}

#[test]
fn nesting_ends_at_the_limit() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        let per_round = open.matches(['[', '{']).count();
        let rounds = DEPTH_MAX / per_round;
        let inner = format!("{}0{}", open.repeat(rounds), close.repeat(rounds));
        assert!(valid(inner.as_bytes()), "{open}");
        let deeper = format!("{}[[]]{}", open.repeat(rounds), close.repeat(rounds));
        assert!(!valid(deeper.as_bytes()), "{open}");
    }
    assert!(valid(nested("[", "]", 127).as_bytes()));
    assert!(!valid(nested("[", "]", 128).as_bytes()));
    assert!(!valid("[".repeat(1 << 20).as_bytes()));
    let siblings = format!("[{}]", vec![nested("[", "]", 126); 5].join(","));
    assert!(valid(siblings.as_bytes()));
    assert!(Json::parse_nested(nested("[", "]", 128).as_bytes(), 128).is_ok());
}

#[test]
fn an_error_says_where() {
    let error = Json::parse(b"{\"a\": 01}").expect_err("leading zero");
    assert_eq!(error.offset, 7);
    let error = Json::parse(b"[\"\xff\"]").expect_err("not UTF-8");
    assert_eq!((error.offset, error.to_string().as_str()), (2, "bytes that are not UTF-8 at byte 2"));
}

fn captured(pointer: &str, document: &str) -> Option<String> {
    let pointers = Pointers::new([pointer]).expect("a pointer");
    let captures = pointers.scan(document.as_bytes()).expect("a document");
    captures.get(0).map(|value| value.text().to_string())
}

#[test]
fn pointers_lead_to_members_and_elements() {
    let document = r#" {"a": {"b": [10, {"c": "x"}]}, "a/b": 1, "m~n": 2, "": 3, "0": 4, "\u00e9": 5} "#;
    for (pointer, value) in [
        ("", Some(document.trim())),
        ("/a", Some(r#"{"b": [10, {"c": "x"}]}"#)),
        ("/a/b/0", Some("10")),
        ("/a/b/1/c", Some("\"x\"")),
        ("/a~1b", Some("1")),
        ("/m~0n", Some("2")),
        ("/", Some("3")),
        ("/0", Some("4")),
        ("/é", Some("5")),
        ("/a/b/2", None),
        ("/a/b/-", None),
        ("/a/b/01", None),
        ("/a/b/00", None),
        ("/a/b/+1", None),
        ("/a/b/0/x", None),
        ("/A", None),
        ("/a/b/99999999999999999999999", None),
    ] {
        assert_eq!(captured(pointer, document).as_deref(), value, "{pointer}");
    }
}

#[test]
fn texts_that_are_no_pointers_are_refused() {
    for pointer in ["a", "a/b", "/~", "/~2", "/a~", "#/a"] {
        assert!(Pointers::new([pointer]).is_err(), "{pointer}");
    }
}

#[test]
fn of_a_repeated_field_the_last_counts_on_every_level() {
    for (pointer, document, value) in [
        ("/a", r#"{"a":1,"a":2}"#, Some("2")),
        ("/a", r#"{"a":1,"\u0061":2}"#, Some("2")),
        ("/a/b", r#"{"a":{"b":1},"a":{}}"#, None),
        ("/a/b", r#"{"a":{"b":1},"a":null}"#, None),
        ("/a/b", r#"{"a":{"b":1},"a":{"b":2,"b":3}}"#, Some("3")),
        ("/a/b/c", r#"{"a":{"b":{"c":1},"b":[]}}"#, None),
        ("/a/0", r#"{"a":[1],"a":[]}"#, None),
        ("/a/0", r#"{"a":[1],"a":{"0":2}}"#, Some("2")),
    ] {
        assert_eq!(captured(pointer, document).as_deref(), value, "{pointer} in {document}");
    }
}

#[test]
fn forgetting_a_field_leaves_its_neighbours() {
    let pointers = Pointers::new(["/b/x", "/a", "/a/x", "/a/x", "/c"]).expect("pointers");
    let captures = pointers.scan(br#"{"a":{"x":1},"b":{"x":2},"c":3,"a":{"y":4}}"#).expect("a document");
    let texts: Vec<_> = (0..6).map(|place| captures.get(place).map(Json::text)).collect();
    assert_eq!(texts, [Some("2"), Some(r#"{"y":4}"#), None, None, Some("3"), None]);
    assert_eq!(captures.root().kind(), JsonKind::Object);
}

#[test]
fn values_say_what_they_are() {
    let value = |text: &'static str| Json::parse(text.as_bytes()).expect("valid");
    assert_eq!(value("-0").int(), Some(0));
    assert_eq!(value("2147483647").int(), Some(i32::MAX));
    for text in ["2147483648", "1.0", "1e0", "\"1\"", "null"] {
        assert_eq!(value(text).int(), None, "{text}");
    }
    assert_eq!(value("0.30000000000000004").number(), Some(0.1 + 0.2));
    assert_eq!(value("1e999").number(), Some(f64::INFINITY));
    assert_eq!(value("true").number(), None);
    for (text, empty) in
        [("\"\"", true), ("[ \n]", true), ("{ }", true), ("[0]", false), ("\" \"", false), ("null", false)]
    {
        assert_eq!(value(text).is_empty(), empty, "{text}");
    }
    assert!(value(r#""\u0061b""#).is_string("ab"));
    assert!(!value("1").is_string("1"));
    let [b, none, a] = value(r#"{"a":1,"b":[2, "]"],"a":{"x":"}"}}"#).pick(["b", "none", "a"]);
    assert_eq!(b.map(Json::text), Some(r#"[2, "]"]"#));
    assert!(none.is_none());
    assert_eq!(a.map(Json::text), Some(r#"{"x":"}"}"#));
}

fn canonical(text: &str) -> String {
    let mut canonical = Canonical::default();
    canonical.value(Json::parse(text.as_bytes()).expect("valid"));
    canonical.text().to_string()
}

#[test]
fn all_spellings_of_a_value_have_one_canonical_text() {
    let text =
        r#" { "b" : [ 1.0 , "\/\u00e9" ] , "a" : { "d":{}, "c":[ ] } , "b" : [ 1.0, "/é\n" , null ] } "#;
    assert_eq!(canonical(text), r#"{"a":{"c":[],"d":{}},"b":[1.0,"/é\n",null]}"#);
    assert_ne!(canonical("1.0"), canonical("1"));
    assert_ne!(canonical("\"1\""), canonical("1"));
    assert_eq!(canonical(r#"{"\u0062":1,"a":2}"#), canonical(r#"{"a":2,"b":1}"#));
    assert_ne!(canonical("[1,2]"), canonical("[2,1]"));
}

#[test]
fn the_bytes_of_string_values_are_counted_decoded_and_without_names() {
    let text = canonical(r#"{"name":"é","x":["\n\u0041😀",{"long name":"ab"},1,null],"e":""}"#);
    assert_eq!(string_bytes(&text), 2 + 6 + 2);
    assert_eq!(string_bytes("\"abc\""), 3);
    assert_eq!(string_bytes("12"), 0);
}

/// A JSON document as it may be written: with whitespace, escapes, repeats and odd numbers.
fn document() -> impl Strategy<Value = String> {
    let string = prop::collection::vec(
        prop_oneof![
            4 => "[a-c]{0,3}",
            1 => Just(r"\n".to_string()),
            1 => Just(r"\u0061".to_string()),
            1 => Just(r"\uD83D\ude00".to_string()),
            1 => Just(r"\/".to_string()),
            1 => Just("é😀".to_string()),
        ],
        0..4,
    )
    .prop_map(|parts| format!("\"{}\"", parts.concat()));
    let number = "-?(0|[1-9][0-9]{0,4})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?";
    let leaf = prop_oneof![
        3 => string.clone(),
        2 => number.prop_map(|text| text),
        1 => Just("null".to_string()),
        1 => Just("true".to_string()),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let space = "[ \t\r\n]{0,2}";
        let array =
            (prop::collection::vec((space, inner.clone(), space), 0..5), space).prop_map(|(values, tail)| {
                let values: Vec<_> =
                    values.into_iter().map(|(a, value, b)| format!("{a}{value}{b}")).collect();
                if values.is_empty() { format!("[{tail}]") } else { format!("[{}]", values.join(",")) }
            });
        let member = (space, string.clone(), space, space, inner, space)
            .prop_map(|(a, name, b, c, value, d)| format!("{a}{name}{b}:{c}{value}{d}"));
        let object =
            prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(",")));
        prop_oneof![array, object]
    })
}

/// Walks a value with the cursors into serde_json's tree.
fn rebuild(value: Json<'_>) -> Value {
    match value.kind() {
        JsonKind::Null => Value::Null,
        JsonKind::Boolean => Value::Bool(value.text() == "true"),
        JsonKind::Number => serde_json::from_str(value.text()).expect("a number"),
        JsonKind::String => Value::String(value.string().expect("a string").into_owned()),
        JsonKind::Array => value.elements().map(rebuild).collect(),
        JsonKind::Object => {
            let name = |name: Json<'_>| name.string().expect("a name").into_owned();
            Value::Object(value.members().map(|(key, value)| (name(key), rebuild(value))).collect())
        }
    }
}

/// The bytes of the string values of a tree.
fn tree_string_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(values) => values.iter().map(tree_string_bytes).sum(),
        Value::Object(members) => members.values().map(tree_string_bytes).sum(),
        _ => 0,
    }
}

/// Whether a document is valid exactly where serde_json reads it. (It stops at a number that overflows
/// an f64, and has then said nothing about the rest.)
fn agrees_with_the_reference(document: &[u8]) -> bool {
    match serde_json::from_slice::<Value>(document) {
        Ok(_) => valid(document),
        Err(error) => !valid(document) || error.to_string().starts_with("number out of range"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cursors_see_what_a_parser_sees(document in document()) {
        let value = Json::parse(document.as_bytes()).expect("valid");
        let tree: Value = serde_json::from_str(&document).expect("valid");
        prop_assert_eq!(rebuild(value), tree);
    }

    #[test]
    fn a_canonical_text_is_the_same_value_and_its_own_canonical_text(document in document()) {
        let text = canonical(&document);
        let tree: Value = serde_json::from_str(&document).expect("valid");
        let again: Value = serde_json::from_str(&text).expect("canonical text is JSON");
        prop_assert_eq!(&again, &tree);
        prop_assert_eq!(canonical(&text), text.clone());
        prop_assert_eq!(string_bytes(&text), tree_string_bytes(&tree));
        let value = Json::parse(document.as_bytes()).expect("valid");
        let of_text = Json::parse(text.as_bytes()).expect("valid");
        prop_assert_eq!(digest(value), digest(of_text));
    }

    #[test]
    fn canonical_texts_differ_where_values_differ(a in document(), b in document()) {
        let (tree_a, tree_b): (Value, Value) =
            (serde_json::from_str(&a).expect("valid"), serde_json::from_str(&b).expect("valid"));
        if tree_a != tree_b {
            prop_assert_ne!(canonical(&a), canonical(&b));
        }
    }

    #[test]
    fn mutated_documents_are_valid_exactly_where_a_parser_says_so(
        document in document(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..3usize, prop::sample::select(HOSTILE)), 1..3),
    ) {
        let mut bytes = document.into_bytes();
        for (place, removed, inserted) in cuts {
            let start = place.index(bytes.len() + 1);
            let end = (start + removed).min(bytes.len());
            bytes.splice(start..end, inserted.iter().copied());
        }
        prop_assert!(agrees_with_the_reference(&bytes), "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(prop::sample::select(ALPHABET), 0..24)) {
        prop_assert!(agrees_with_the_reference(&bytes), "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn pointers_find_what_a_parser_finds(document in document(), steps in prop::collection::vec("[a-c0-2]{0,2}", 0..4)) {
        let pointer: String = steps.iter().map(|step| format!("/{step}")).collect();
        let tree: Value = serde_json::from_str(&document).expect("valid");
        let found = captured(&pointer, &document).map(|text| serde_json::from_str::<Value>(&text).expect("valid"));
        prop_assert_eq!(found.as_ref(), tree.pointer(&pointer));
    }
}

const HOSTILE: &[&[u8]] = &[
    b"",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"0",
    b"-",
    b".",
    b"e",
    b"\0",
    b"\x1f",
    b"\x7f",
    b"\xff",
    b"\xc3",
    b"\\u",
    b"\\ud800",
    b"\\udc00",
    b"\\u0000",
    b"null",
    b" ",
    b"\x0c",
    b"\xef\xbb\xbf",
    b"\"a\":1,",
    b"00",
];

const ALPHABET: &[u8] = b"{}[]\",:\\u0d8cen1-.+ tru\n\xc3\xa9\0";
