//! Texts for the configuration reader: the grammar's own, and damaged ones.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A value, as a person or a fuzzer would write it.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let plain = select(vec![&b"a"[..], b"b", b"x", b"1", b"_", b"n", b"'a'", b"'x y'", b"\"b\""]);
    let quoted = select(vec![
        &b"'#;'"[..],
        b"\"x\\\"y\"",
        b"'1\n2'",
        b"\"1\\\n2\"",
        b"''",
        b"\"\"",
        b"\\ ",
        b"\\'",
        b"\\\\",
        b"\\#",
        b"\\;",
        b"'it'\\''s'",
        b"\xff",
        b"-",
        b"'\r\n'",
    ]);
    let broken = select(vec![
        &b"'"[..],
        b"\"",
        b"\\",
        b"\\\n",
        b"\\\r\n",
        b"\\\n ",
        b"#",
        b";",
        b"\r",
        b"\x0b",
        b"\\\r",
    ]);
    vec(prop_oneof![20 => plain, 8 => quoted, 1 => broken], 0..4).prop_map(|parts| parts.concat())
}

/// The name of an option or section, mostly a good one out of few.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        30 => select(vec![&b"a"[..], b"b", b"x", b"'a'", b"\"b\"", b"x'_'", b"\\a", b"x\\\n"])
            .prop_map(<[u8]>::to_vec),
        1 => value(),
    ]
}

fn statement() -> impl Strategy<Value = Vec<u8>> {
    let words = |keyword: &'static [&'static [u8]], words: BoxedStrategy<Vec<Vec<u8>>>| {
        (select(keyword), words).prop_map(|(keyword, mut words)| {
            words.insert(0, keyword.to_vec());
            words
        })
    };
    let words = prop_oneof![
        14 => words(&[b"option", b"option", b"o", b"list", b"list", b"l"], (name(), value()).prop_map(|(n, v)| vec![n, v]).boxed()),
        4 => words(&[b"config", b"config", b"c"], vec(name(), 1..3).boxed()),
        1 => words(&[b"package", b"p", b"option", b"list", b"config", b"cfg"], vec(value(), 0..4).boxed()),
    ];
    let blank = prop_oneof![
        30 => Just(&b" "[..]),
        3 => select(vec![&b"\t"[..], b"  ", b"\t ", b" \\\n", b"\x0c"]),
    ];
    let end = prop_oneof![
        25 => select(vec![&b"\n"[..], b"\n", b"\r\n", b" # c\n", b"#\n"]),
        4 => select(vec![&b" ; "[..], b" ;", b" '' ", b" \\\n"]),
        1 => select(vec![&b";"[..], b";\n", b"", b" ; ; ", b" ;\n"]),
    ];
    let indent = select(vec![&b""[..], b"\t", b"  "]);
    (indent, words, blank, end)
        .prop_map(|(indent, words, blank, end)| [indent, &words.join(blank), end].concat())
}

/// Mostly statements, with a section in front of them, sometimes damaged.
pub fn text() -> impl Strategy<Value = Vec<u8>> {
    let fragment = select(vec![
        &b"config "[..],
        b"option ",
        b"list ",
        b"a",
        b" ",
        b"\t",
        b"\n",
        b"\r\n",
        b"'",
        b"\"",
        b"\\",
        b"\\\n",
        b";",
        b"#",
        b"''",
        b"\xc3",
        b"\x0b",
        b"cfg01",
        b"1",
    ]);
    let start =
        select(vec![&b"config a\n"[..], b"config a 'n'\n", b"c a b ; ", b"# x\nconfig b\n", b""]);
    let damage = prop_oneof![
        9 => Just(None),
        2 => (any::<prop::sample::Index>(), fragment.clone()).prop_map(|(at, f)| Some((at, Some(f)))),
        1 => any::<prop::sample::Index>().prop_map(|at| Some((at, None))),
    ];
    let statements = (start, vec(statement(), 0..7), damage).prop_map(|(start, rest, damage)| {
        let mut text = [start.to_vec(), rest.concat()].concat();
        match damage {
            Some((at, Some(fragment))) => {
                let at = at.index(text.len() + 1);
                text.splice(at..at, fragment.iter().copied());
            }
            Some((at, None)) if !text.is_empty() => {
                text.remove(at.index(text.len()));
            }
            _ => {}
        }
        text
    });
    prop_oneof![
        8 => statements,
        1 => vec(fragment, 0..14).prop_map(|parts| [&b"config a\n"[..], &parts.concat()].concat()),
        1 => vec(1..=255u8, 0..60),
    ]
}
