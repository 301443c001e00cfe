//! Whatever the file looks like, changing an option changes this option only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "that is how a test fails"
)]

mod texts;

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use vpn_killswitch::config::edit::{EditError, set_option};
use vpn_killswitch::config::uci::{self, Package, Value};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Sections with all that they contain as text, without the named option of the first section of
/// that type; and its value.
fn without(package: &Package, kind: &str, option: &str) -> (Vec<String>, Option<Value>) {
    let mut lines = Vec::new();
    let mut value = None;
    let mut seen = false;
    for section in &package.sections {
        lines.push(format!("config {} {:?}", section.kind, section.name));
        let first = section.kind == kind && !seen;
        seen |= first;
        for found in &section.options {
            if first && found.name == option {
                value = Some(found.value.clone());
                continue;
            }
            lines.push(match &found.value {
                Value::One(bytes) => format!("option {} {bytes:?}", found.name),
                Value::List(items) => {
                    let items: Vec<_> = items.iter().map(|item| &item.bytes).collect();
                    format!("list {} {items:?}", found.name)
                }
            });
        }
    }
    (lines, value)
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("0".to_owned()),
        Just("1".to_owned()),
        vec(select("ab1 '\"\\#;\n\r\té".chars().collect::<Vec<_>>()), 1..8)
            .prop_map(|chars| chars.into_iter().collect()),
    ]
}

#[test]
fn nothing_else_changes_in_any_text() {
    const CASES: u32 = 10_000;
    let (done, no_place) = (AtomicU32::new(0), AtomicU32::new(0));
    let option = select(vec!["a", "b", "x", "x_", "new"]);
    TestRunner::new(config(CASES))
        .run(&(texts::text(), option, value()), |(text, option, value)| {
            let new = match set_option(&text, "a", option, &value) {
                Ok(new) => new,
                Err(EditError::Syntax(error)) => {
                    prop_assert_eq!(uci::parse(&text), Err(error));
                    return Ok(());
                }
                Err(error) => {
                    let old = uci::parse(&text).unwrap();
                    let (_, before) = without(&old, "a", option);
                    let has_section = old.sections.iter().any(|section| section.kind == "a");
                    match error {
                        EditError::NoSection(_) => prop_assert!(!has_section),
                        EditError::IsList(_) => {
                            prop_assert!(matches!(before, Some(Value::List(_))));
                        }
                        error => {
                            prop_assert!(matches!(error, EditError::NoPlace(_)), "{error:?}");
                            no_place.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    return Ok(());
                }
            };
            done.fetch_add(1, Ordering::Relaxed);
            let (old_rest, _) = without(&uci::parse(&text).unwrap(), "a", option);
            let (new_rest, set) = without(&uci::parse(&new).unwrap(), "a", option);
            prop_assert_eq!(old_rest, new_rest);
            prop_assert_eq!(set, Some(Value::One(value.clone().into())));
            // A second time there is nothing to do.
            prop_assert_eq!(&set_option(&new, "a", option, &value).unwrap(), &new);
            // Nothing but one place of the text is different.
            let same = |mut pairs: std::iter::Zip<_, _>| {
                Iterator::take_while(&mut pairs, |(old, new): &(&u8, &u8)| old == new).count()
            };
            let before = same(text.iter().zip(new.iter()));
            let limit = text.len().min(new.len()) - before;
            let behind = text
                .iter()
                .rev()
                .zip(new.iter().rev())
                .take(limit)
                .take_while(|(old, new)| old == new)
                .count();
            let removed = &text[before..text.len() - behind];
            // A quote at either end may be the old value's as well as the new one's.
            let ends: [&[u8]; 3] = [b"", b"'", b"\""];
            let fits = ends.iter().any(|front| {
                ends.iter().any(|back| {
                    uci::parse(&[b"c a\no x ", *front, removed, *back, b"\n"].concat()).is_ok()
                })
            });
            prop_assert!(
                fits,
                "removed more than a value: {:?}",
                removed.escape_ascii().to_string()
            );
            Ok(())
        })
        .unwrap();
    let (done, no_place) = (done.into_inner(), no_place.into_inner());
    println!("{done} changed, {no_place} without a place");
    assert!(done > CASES / 6, "only {done} of {CASES} texts could be edited");
    assert!(no_place < done / 20, "{no_place} of {done}");
}

/// Lines that belong to no option called `enabled` of the section in question.
fn lines() -> impl Strategy<Value = String> {
    let line = select(vec![
        "",
        "# option enabled '5'",
        "\toption other '1'",
        "\tlist device 'tun*' # 'x",
        "o p \"\\\"\" ; list l ''",
        "\toption mul \"x\\\ny\"",
        "\toption long 'one\ntwo'",
    ]);
    (vec(line, 0..5), select(vec!["\n", "\r\n"]))
        .prop_map(|(lines, newline)| lines.iter().map(|line| format!("{line}{newline}")).collect())
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn the_bytes_around_the_value_stay(
        before in lines(),
        between in lines(),
        behind in lines(),
        header in select(vec!["config killswitch 'main'\n", "c killswitch #'\r\n", "\tconfig  killswitch main ; "]),
        keyword in select(vec!["\toption enabled ", "o 'enabled'\t", "  option \"enabled\"  "]),
        old in select(vec!["1", "'1'", "\"1\"", "'5'\\''5'", "'a\nb'", "''", "x\\ y", "\"\""]),
        end in select(vec!["\n", "\r\n", " # c\n", "#c\r\n", "", " "]),
        new in value(),
    ) {
        let head = format!("# x\nconfig other\noption enabled '7'\n{before}{header}{between}{keyword}");
        let tail = if end.ends_with('\n') { format!("{end}{behind}config killswitch\n\toption enabled '8'") } else { end.to_owned() };
        let text = format!("{head}{old}{tail}");
        prop_assume!(uci::parse(text.as_bytes()).is_ok());
        let edited = set_option(text.as_bytes(), "killswitch", "enabled", &new).unwrap();
        let edited = String::from_utf8(edited).unwrap();
        prop_assert!(edited.len() >= head.len() + tail.len());
        prop_assert!(edited.starts_with(&head) && edited.ends_with(&tail), "{edited:?}");
    }

    #[test]
    fn the_bytes_around_a_new_line_stay(
        before in lines(),
        behind in lines(),
        header in select(vec!["config killswitch 'main'\n", "c killswitch #'\r\n", "\tconfig  killswitch main \n"]),
        new in value(),
    ) {
        let head = format!("config other\noption enabled '7'\n{before}{header}");
        let tail = format!("{behind}config killswitch\n\toption enabled '8'");
        let edited = set_option(format!("{head}{tail}").as_bytes(), "killswitch", "enabled", &new).unwrap();
        let edited = String::from_utf8(edited).unwrap();
        let line = edited.strip_prefix(&head).and_then(|rest| rest.strip_suffix(&tail));
        let line = line.unwrap();
        prop_assert!(line.trim_start().starts_with("option enabled "), "{line:?}");
        prop_assert_eq!(line.ends_with("\r\n"), header.ends_with("\r\n"), "{:?}", line);
    }

    #[test]
    fn switching_there_and_back_restores_the_file(
        before in lines(),
        behind in lines(),
        keyword in select(vec!["\toption enabled ", "o 'enabled'\t"]),
        quote in select(vec!["", "'", "\""]),
        end in select(vec!["\n", "\r\n", " # c\n", "#c\r\n", ";", " ; option x 1\n"]),
    ) {
        let text = format!("config other\n{before}config killswitch 'main'\n{keyword}{quote}0{quote}{end}");
        // The first line ends in a `;` that swallows the end of the text, so nothing goes behind it.
        let text = if end.ends_with('\n') { text + &behind } else { text };
        prop_assume!(uci::parse(text.as_bytes()).is_ok());
        let on = set_option(text.as_bytes(), "killswitch", "enabled", "1").unwrap();
        prop_assert_eq!(on.len(), text.len());
        prop_assert_ne!(&on, text.as_bytes());
        prop_assert_eq!(set_option(&on, "killswitch", "enabled", "0").unwrap(), text.into_bytes());
    }
}
