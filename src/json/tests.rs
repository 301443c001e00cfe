//! JSON against serde_json, which reads and writes it as everybody does.

use proptest::prelude::*;
use serde_json::Value as Theirs;

use super::*;

/// What of it ours keeps.
fn ours(value: &Theirs) -> Value {
    match value {
        Theirs::Null => Value::Null,
        Theirs::Bool(value) => Value::Bool(*value),
        Theirs::Number(_) => Value::Number,
        Theirs::String(text) => Value::Text(text.clone()),
        Theirs::Array(items) => Value::List(items.iter().map(ours).collect()),
        Theirs::Object(fields) => {
            Value::Object(fields.iter().map(|(k, v)| (k.clone(), ours(v))).collect())
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".*", "[\\x00-\\x7f]*", "[a-z/\"\\\\]*"]
}

fn values() -> impl Strategy<Value = Theirs> {
    let leaf = prop_oneof![
        Just(Theirs::Null),
        any::<bool>().prop_map(Theirs::from),
        any::<i64>().prop_map(Theirs::from),
        any::<f64>().prop_map(Theirs::from),
        text().prop_map(Theirs::from),
    ];
    leaf.prop_recursive(4, 32, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Theirs::from),
            proptest::collection::btree_map(text(), inner, 0..8)
                .prop_map(|fields| Theirs::Object(fields.into_iter().collect())),
        ]
    })
}

/// Whether serde_json takes it. It does not say of numbers that it cannot hold, such as 1e999.
fn accepted(text: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Theirs>(text) {
        Err(e) if e.to_string().starts_with("number out of range") => None,
        other => Some(other.is_ok()),
    }
}

fn agree(text: &[u8]) -> Result<(), TestCaseError> {
    let theirs = accepted(text);
    prop_assume!(theirs.is_some());
    prop_assert_eq!(Some(read(text).is_ok()), theirs, "{}", String::from_utf8_lossy(text));
    Ok(())
}

proptest! {
    #[test]
    fn what_others_write_is_read(value in values(), pretty: bool) {
        let write = if pretty { serde_json::to_string_pretty } else { serde_json::to_string };
        prop_assert_eq!(read(write(&value).unwrap().as_bytes()), Ok(ours(&value)));
    }

    #[test]
    fn what_is_no_json_is_refused(value in values(), cut: prop::sample::Index, with in ".?") {
        let mut broken: Vec<char> = value.to_string().chars().collect();
        let at = cut.index(broken.len());
        broken.splice(at..=at, with.chars());
        let broken = String::from_iter(broken);
        agree(broken.as_bytes())?;
    }

    #[test]
    fn so_is_anything_else(text in "[\\[\\]{}:,\"\\\\ud8c0-9.eE+tn -]{0,12}") {
        agree(text.as_bytes())?;
    }

    #[test]
    fn escapes_are_read(units in proptest::collection::vec(any::<u16>(), 1..4)) {
        let escapes: String = units.iter().map(|u| format!("\\u{u:04X}")).collect();
        let text = format!("\"{escapes}\"");
        let theirs = serde_json::from_str::<Theirs>(&text).ok().map(|v| ours(&v));
        prop_assert_eq!(read(text.as_bytes()).ok(), theirs);
    }

    #[test]
    fn bytes_do_no_harm(bytes: Vec<u8>) {
        agree(&bytes)?;
    }

    #[test]
    fn strings_are_written_as_by_others(text in text()) {
        let mut out = String::new();
        text.as_str().write(&mut out);
        prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }
}

#[test]
fn an_object_keeps_its_order() {
    struct Thing {
        word: &'static str,
        input: Option<u16>,
        list: Vec<bool>,
        addr: IpAddr,
    }
    fields!(Thing: word, input "in", list, addr);
    let addr = IpAddr::from([192, 0, 2, 1]);
    let thing = Thing { word: "a\"\n\u{1}", input: None, list: vec![true, false], addr };
    assert_eq!(
        super::text(&[("b", &thing), ("a", &7_u64), ("c", &Vec::<String>::new())]),
        "{\"b\":{\"word\":\"a\\\"\\n\\u0001\",\"in\":null,\"list\":[true,false],\
         \"addr\":\"192.0.2.1\"},\"a\":7,\"c\":[]}"
    );
}

#[test]
fn of_equal_keys_the_last_counts() {
    let value = read(b" {\"a\": 1, \"a\": true} ").unwrap();
    assert!(value.get("a").is_some_and(Value::is_true));
    assert_eq!((value.get("b"), value.text()), (None, None));
}

#[test]
fn an_error_says_where() {
    assert_eq!(read(b"[1, }"), Err(4));
    assert_eq!(read(b"{} {}"), Err(3));
    assert_eq!(read(b"\"\xff\""), Err(1));
    assert_eq!(read(b""), Err(0));
}

#[test]
fn depth_has_a_limit() {
    let nested = |n| read(&[vec![b'['; n], vec![b']'; n]].concat());
    assert!(nested(64).is_ok());
    assert!(nested(65).is_err() && nested(1_000_000).is_err());
}
