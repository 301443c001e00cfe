//! Any input: the reader of UCI files neither panics nor takes more than linear time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "that is how a test fails"
)]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use vpn_killswitch::config::edit::set_option;
use vpn_killswitch::config::uci::{self, MAX_SIZE, Value};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..4096)) {
        uci::parse(&text).ok();
    }

    #[test]
    fn no_text_of_the_grammars_own_bytes_panics(
        text in proptest::collection::vec(
            proptest::sample::select(b"config option list package abx'\"\\#; \t\r\n\n\n\xff\0".to_vec()),
            0..2048,
        )
    ) {
        let text = [b"config a\n".as_slice(), &text].concat();
        if let Ok(package) = uci::parse(&text) {
            let lines = text.split(|&byte| byte == b'\n').count();
            for section in package.sections {
                prop_assert!((1..=lines).contains(&usize::try_from(section.line).unwrap()));
            }
        }
    }

    /// What libuci's own writer makes of a value reads as that value.
    #[test]
    fn quoted_values_read_back(value in proptest::collection::vec(1..=255u8, 1..64)) {
        let mut text = b"config a\n\toption x '".to_vec();
        for &byte in &value {
            text.extend_from_slice(if byte == b'\'' { b"'\\''" } else { std::slice::from_ref(&byte) });
        }
        text.extend_from_slice(b"'\n");
        let package = uci::parse(&text).unwrap();
        prop_assert_eq!(&package.sections[0].options[0].value, &Value::One(value));
    }
}

/// The shortest of some runs, so that what else the machine does counts for little.
fn time(text: &[u8]) -> Duration {
    let run = || {
        let text = std::hint::black_box(text);
        let start = Instant::now();
        std::hint::black_box(uci::parse(text).ok());
        // The first section has no such option, so the editor goes all the way.
        std::hint::black_box(set_option(text, "a", "new", "1").ok());
        start.elapsed()
    };
    (0..3).map(|_| run()).min().unwrap()
}

#[test]
fn time_grows_with_the_size_only() {
    let numbered = |prefix: &'static str, suffix: &'static str| {
        move |n: usize| format!("{prefix}{n:x}{suffix}").into_bytes()
    };
    type Shape = (&'static str, Box<dyn Fn(usize) -> Vec<u8>>);
    let same = |text: &'static str| move |_: usize| text.as_bytes().to_vec();
    let shapes: [Shape; 19] = [
        ("one section after the other", Box::new(same("c a\n"))),
        ("new options", Box::new(numbered("o x", " 1\n"))),
        ("the same option", Box::new(numbered("o x ", "\n"))),
        (
            "options that move to the end",
            Box::new(|n| format!("o x{} {n}\n", n % 4096).into_bytes()),
        ),
        ("one list", Box::new(same("l x 1\n"))),
        (
            "option and list in turn",
            Box::new(|n| format!("{} x {n}\n", ["o", "l"][n % 2]).into_bytes()),
        ),
        ("named sections", Box::new(numbered("c a n", "\n"))),
        (
            "sections behind a large one",
            Box::new(
                |n| if n < 9000 { format!("o x{n} 1\n").into_bytes() } else { b"c a\n".to_vec() },
            ),
        ),
        ("a repeated section", Box::new(same("c a n\n"))),
        ("hidden names", Box::new(numbered("c a cfg", "\n"))),
        (
            "an open quote",
            Box::new(|n| if n == 0 { b"o x 'a\n".to_vec() } else { b"a\n".to_vec() }),
        ),
        (
            "continued lines",
            Box::new(|n| if n == 0 { b"o x a\\\n".to_vec() } else { b"a\\\n".to_vec() }),
        ),
        (
            "continued in double quotes",
            Box::new(|n| if n == 0 { b"o x \"".to_vec() } else { b"\\\r\n".to_vec() }),
        ),
        ("one line joined by semicolons", Box::new(same("o x '1' ; "))),
        ("one line joined by empty words", Box::new(same("l x 1 '' "))),
        ("half words", Box::new(|n| if n == 0 { b"o x a".to_vec() } else { b"''\"\"".to_vec() })),
        ("comments", Box::new(same("#\n"))),
        ("blanks", Box::new(same(" \t"))),
        ("empty lines", Box::new(same("\n"))),
    ];
    const SMALL: usize = MAX_SIZE / 8;
    for (what, piece) in shapes {
        let mut text = b"config a\n".to_vec();
        let mut n = 0;
        let mut small = None;
        loop {
            let next = piece(n);
            if small.is_none() && text.len() + next.len() > SMALL {
                small = Some(text.clone());
            }
            if text.len() + next.len() > MAX_SIZE - 64 {
                break;
            }
            text.extend_from_slice(&next);
            n += 1;
        }
        // 8 times the text: 8 times the time if linear, 64 times if quadratic.
        let small = small.unwrap();
        let ratio = time(&text).as_secs_f64() / time(&small).as_secs_f64();
        println!("{ratio:5.1}  {what}");
        assert!(ratio < 24.0, "{what}: {ratio:.1} times the time for 8 times the text");
    }
}
