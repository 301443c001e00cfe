//! Holds the configuration reader to the real libuci: the same texts accepted and rejected, and the
//! same sections and options read from them, except where the reader refuses on purpose.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "that is how a test fails"
)]
#![cfg(target_env = "gnu")]

mod libuci;
mod texts;

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use vpn_killswitch::config::uci::{self, SyntaxError, Value};

/// What both readers say about a text, without lines and messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    kind: String,
    name: Option<String>,
    options: Vec<(String, Read)>,
}

/// A value.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// From `option`.
    One(Vec<u8>),
    /// From `list`.
    List(Vec<Vec<u8>>),
}

fn ours(text: &[u8]) -> Result<Vec<Section>, SyntaxError> {
    let section = |section: uci::Section| Section {
        kind: section.kind,
        name: section.name,
        options: section
            .options
            .into_iter()
            .map(|option| {
                let value = match option.value {
                    Value::One(bytes) => Read::One(bytes),
                    Value::List(items) => {
                        Read::List(items.into_iter().map(|item| item.bytes).collect())
                    }
                };
                (option.name, value)
            })
            .collect(),
    };
    Ok(uci::parse(text)?.sections.into_iter().map(section).collect())
}

/// The deliberate differences: the reader refuses, whatever libuci does.
fn refused_on_purpose(error: &SyntaxError) -> bool {
    // Needs a NUL byte or a large text in the input; neither is generated.
    error.message.starts_with("UCI ignores what follows ';'")
}

/// Whether libuci reads the text as if what follows some `;` in its line (or some of them) were
/// not there: the reason for the refusal.
fn drops_text(text: &[u8], theirs: &[Section], depth: u32) -> bool {
    let semicolons = (0..text.len()).filter(|&at| text[at] == b';');
    semicolons.into_iter().any(|at| {
        let (kept, dropped) = text.split_at(at);
        let line_end = dropped.iter().position(|&byte| byte == b'\n').unwrap_or(dropped.len());
        let shorter = [kept, &dropped[line_end..]].concat();
        match ours(&shorter) {
            Ok(ours) => ours == theirs,
            Err(error) => {
                depth > 0 && refused_on_purpose(&error) && drops_text(&shorter, theirs, depth - 1)
            }
        }
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Rejected,
    RefusedOnPurpose,
}

fn compare(text: &[u8]) -> Result<Outcome, String> {
    let shown = || String::from_utf8_lossy(text).escape_debug().to_string();
    let reference = libuci::load(text);
    match (ours(text), reference) {
        (Err(error), theirs)
            if refused_on_purpose(&error)
                && theirs.as_ref().ok().is_none_or(|theirs| drops_text(text, theirs, 3)) =>
        {
            Ok(Outcome::RefusedOnPurpose)
        }
        (Err(_), Err(_)) => Ok(Outcome::Rejected),
        (Ok(ours), Ok(theirs)) if ours == theirs => Ok(Outcome::Accepted),
        (ours, theirs) => {
            Err(format!("text:   \"{}\"\nours:   {ours:?}\nlibuci: {theirs:?}", shown()))
        }
    }
}

/// Runs the body in a thread: libuci may hang, and then the test has to fail.
fn bounded(body: impl FnOnce(&Mutex<Vec<u8>>) -> Result<(), String> + Send + 'static) {
    let current = Arc::new(Mutex::new(Vec::new()));
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::clone(&current);
    let thread = std::thread::spawn(move || {
        let result = body(&shared);
        sender.send(()).ok();
        result
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = receiver.recv_timeout(Duration::from_secs(120)) {
        panic!("hangs on {:?}", String::from_utf8_lossy(&current.lock().unwrap()));
    }
    if let Err(message) = thread.join().unwrap() {
        panic!("{message}");
    }
}

#[rustfmt::skip]
const TABLE: &[&[u8]] = &[
    // Files as they are.
    b"", b"\n", b"\r\n", b"   ", b"# only a comment", b"\t\n  \n# x\n",
    b"config killswitch 'main'\n\toption enabled '1'\n\tlist tunnel_device 'tun0'\n\tlist tunnel_device 'tun0'\n",
    b"config a\nconfig a\nconfig b\n\toption x 1\n",
    b"config killswitch 'main'\r\n\toption enabled '1'\r\n",
    b"# caf\xe9 \xff\nconfig a 'b'\n\toption x '\xff\xfe'\n\toption y \xc3\xa9\n",
    // Final newline missing.
    b"config a", b"config a b", b"config a 'b'", b"config a\noption x 1", b"config a\noption x '1'",
    b"config a\noption x", b"config", b"config ", b"option", b"config a\noption", b"config a\nlist x", b"package", b"package x",
    // Quotes.
    b"config a\noption x 'it'\\''s'\n", b"config a\noption x \"it's\"\n", b"config a\noption x 'a'\"b\"c\n",
    b"config a\noption x a'b'c\"d\"\n", b"config a\noption x \"a\\\"b\\\\c\\n\"\n", b"config a\noption x 'a\\b'\n",
    b"config a\noption x 'a\\'\n", b"config a\noption 'x' '1'\n", b"config 'a' \"b\"\n", b"config a\noption x ''\n",
    b"config a\noption x ''''\n", b"config a\noption x ''a''\n", b"config a\noption x \"\"\n", b"config a\noption \"\" 1\n", b"config ''\n",
    b"config a ''\n", b"config '' b\n", b"config a\noption x '#;'\n", b"config a\noption x 'a;b'; \n", b"'config' a\n", b"config a\n\"option\" x 1\n",
    b"config a\noption x 'a\nb'\n", b"config a\noption x 'a\r\nb\r\n'\r\n", b"config a\noption x \"a\nb\n\"\n", b"config a\noption x '\n\n'\noption y 2\n",
    b"config a\noption x 'a", b"config a\noption x \"a", b"config a\noption x 'a\n", b"config a\noption x \"a\\", b"config a\noption x \"a\\\n", b"config a\noption x '", b"config a\noption x \"",
    b"config a\noption x a'b\nc'd\n",
    // Escapes and continuation.
    b"config a\noption x a\\ b\n", b"config a\noption x \\#\n", b"config a\noption x \\;\n", b"config a\noption x \\'\n", b"config a\noption x \\\\\n",
    b"config a\noption x a\\\nb\n", b"config a\noption x a\\\n b\n", b"config a\noption x \\\nb\n", b"config a\noption x \\\n  b\n", b"config a\noption x \\\n\nlist y 1\n",
    b"config a\noption \\\n x 1\n", b"config a\noption x 1 \\\noption y 2\n", b"config a\noption x 1 \\\n option y 2\n", b"config a\noption x 1 \\\n\n", b"config a\noption x 1 \\\n\r\n",
    b"config a\noption x a\\\r\nb\r\n", b"config a\noption x a\\\r", b"config a\noption x a\\\rb\n", b"config a\noption x \"a\\\nb\"\n", b"config a\noption x \"a\\\r\nb\"\n", b"config a\noption x 'a\\\nb'\n",
    b"config a\noption x a\\", b"config a\noption x \\", b"config a\\\n b\n", b"config a \\", b"\\\nconfig a\n", b"con\\\nfig a\n", b"config\\\n a\n", b"config a\noption x 1 \\\n", b"config a\noption x \\\n#c\n",
    b"config a\noption x a\\\n;\n", b"config a\noption x a\\\n;option y 2\n", b"config a\noption x a\\\n#;\n",
    // Comments.
    b"config a # b\n", b"config a#b\n", b"config a b#c\n", b"config a b #c 'd\n", b"config a\noption x 1#2\n", b"config a\noption x '1'#2\n", b"config a\noption x #\n", b"config a\noption #x\n",
    b"# comment \\\nconfig a\n", b"#config a\n", b"  #\n", b"config #\n", b"#'\nconfig a\n", b"config a\noption x 1 # a ; option y 2\n", b"config a\noption x '1' ;# c\n", b"config a\noption x '1' ; # c\n",
    // Semicolons.
    b"config a b ; option x 1\n", b"config a 'b'; option x 1\n", b"config a ; ; option x 1\n", b"config 'a'; option x 1\n", b"config 'a'; ; option x 1\n", b"config 'a' ; ; option x 1 ; option y 2",
    b"config a b ;option x '1';option y '2';option z 3\n", b"config a b ;\n", b"config a b ; \n", b"config a b ;\r\n", b"config a b ;", b"config a b ; ", b"config a b ;;\n", b";\n", b"; config a\n", b" ;", b"config a;\n", b"config a b;\n", b"config a b; \t\n", b"config a b;\r\n", b"config a b;#c\n", b"config a b; # c d\n", b"config a b;",
    b"config a\noption x;\n", b"config a\noption x ;\n", b"config a\noption x ; \n", b"config a\noption x ;;\n", b"config a\noption x ; ; option y 1\n", b"config a\noption ; x\n", b"config ; a\n", b"config a\noption x 'y'z; option w 1\n",
    b"config a b ;\x0boption x 1\n", b"config a b ;\toption x 1\n", b"config a b '' option x 1\n", b"config a b ''option x 1\n", b"config a b ''\n", b"config a b '' ''\n", b"config a b '' '' option x 1\n", b"config a\noption x 1 '' option y 2 '' list z 3\n", b"config a\noption x 1 '';option y 2\n", b"config a\noption x 1 '' ;option y 2\n", b"config a\noption x 1 '' #\n",
    // White space.
    b"\x0b\x0cconfig a\n", b"config\x0ba\n", b"config \x0b a\x0cb\n", b"config a\rb\n", b"config\ta\tb\n", b"\rconfig a\n", b"config a\n\x0boption x 1\n", b"config\r\n", b"config \r\n", b"option x 1\r", b"config a\noption x 1\r", b"config a\noption x 1\r2\n", b"config\xa0a\n", b"config a \xa0\n",
    // Keywords.
    b"c a b\no x 1\nl y 2\np z\n", b"conf a\n", b"Config a\n", b"configs a\n", b"o x 1\n", b"co a\n", b"cc a\n", b"x\n", b"foo bar\n", b"\xef\xbb\xbfconfig a\n", b"config a\nopt x 1\n", b"config a\noptions x 1\n", b"config a\nlists x 1\n",
    b"package foo\nconfig a\n", b"package foo-bar_1\n", b"package foo.bar\n", b"package 'x'\nconfig a\noption y 1\npackage z\noption y 2\n", b"package\n", b"package \n", b"package ''\n", b"package a b\n", b"package a ;config b\n", b"package a; config b\n", b"package 'a';config b\n", b"p 'a' ; ; config b\n",
    // Number of words.
    b"config a b c\n", b"config a\noption x 1 2\n", b"config a\nlist x 1 2\n", b"config a\noption x 'a' 'b'\n", b"config\n", b"config \n", b"config a\noption \n", b"config a\nlist \n", b"config a\noption\n",
    // Names and types.
    b"config a-b\n", b"config a.b c\n", b"config a@[0]! c_1\n", b"config a\xff\n", b"config 'a b'\n", b"config 'a\tb'\n", b"config \"a'b\"\n", b"config a-b c-d\n", b"config a 'b c'\n", b"config a \xff\n", b"config a b.c\n", b"config a\x7f\n", b"config a\x01\n", b"config ~\n", b"config _ _\n", b"config 1 2\n",
    b"config a\noption x-y 1\n", b"config a\noption x.y 1\n", b"config a\noption 'x y' 1\n", b"config a\noption x\xff 1\n", b"config a\nlist x-y 1\n", b"config a\noption 1 1\n", b"config a\noption x_1 1\n", b"config a\noption X 1\noption x 2\n", b"config a\noption 'x\ny' 1\n", b"config 'a\nb'\n", b"config a 'b\nc'\n",
    // Order.
    b"option x 1\n", b"list x 1\n", b"package a\noption x 1\n", b"config a\noption x 1\noption x 2\n", b"config a\noption x 1\noption y 2\noption x 3\n", b"config a\noption x 1\noption y 2\noption x 1\n",
    b"config a\noption x 1\noption x ''\n", b"config a\noption x ''\noption x 1\n", b"config a\noption x\n", b"config a\nlist x\n", b"config a\nlist x ''\nlist x 1\nlist x ''\n", b"config a\nlist x 1\noption x ''\n",
    b"config a\noption x 1\nlist x 2\n", b"config a\noption x 1\noption y 0\nlist x 2\nlist x 2\n", b"config a\nlist x 1\noption x 2\n", b"config a\nlist x 1\noption y 0\noption x 1\n", b"config a\nlist x 1\noption x 2\nlist x 3\nlist x\n", b"config a\nlist x 1\nlist y 2\nlist x 3\n", b"config a\noption x ''\nlist x 1\n", b"config a\noption x 1\nlist x ''\n",
    // Repeated sections.
    b"config a n\noption x 1\nconfig a n\noption x 2\noption y 3\n", b"config a n\nconfig b n\n", b"config a n\nconfig a n\nconfig a n\n", b"config a n\nconfig a n\nconfig a n\noption x 1\n", b"config a n\nconfig a n\nconfig a n\nlist x 1\n", b"config a n\nconfig a n\nconfig a n\nconfig a m\noption x 1\n",
    b"config a n\noption x 1\nconfig a n\nconfig a n\nconfig b\noption x 1\n", b"config a n\nconfig a m\noption x 1\nconfig a n\noption y 1\nconfig a\noption z 1\nconfig a m\noption w 1\n", b"config a n\noption x 1\nconfig a n\nlist x 1\nconfig a n\nconfig a n\n", b"config a n\nconfig a n\nconfig b n\n",
];

#[test]
fn the_table_reads_like_libuci() {
    bounded(|current| {
        let mut differences = Vec::new();
        for &text in TABLE {
            *current.lock().unwrap() = text.to_vec();
            match compare(text) {
                Ok(Outcome::RefusedOnPurpose) => {
                    if ours(text).unwrap_err().message.is_empty() {
                        differences.push("refused without a reason".to_owned());
                    }
                }
                Ok(_) => {}
                Err(difference) => differences.push(difference),
            }
        }
        if differences.is_empty() { Ok(()) } else { Err(differences.join("\n\n")) }
    });
}

#[test]
fn what_libuci_drops_behind_a_bare_word_is_refused() {
    for text in [
        "config a b\noption x strict;option y 1\n",
        "config a b;option x 1\n",
        "config a b\noption x;1\n",
        "package a; config b\n",
    ] {
        assert_eq!(compare(text.as_bytes()), Ok(Outcome::RefusedOnPurpose), "{text}");
        // The difference is worth it: libuci accepts, and the second half is gone.
        let theirs = libuci::load(text.as_bytes()).unwrap();
        let (kept, _) = text.split_once(';').unwrap();
        assert_eq!(Ok(theirs), ours(format!("{kept}\n").as_bytes()), "{text}");
    }
}

#[test]
fn hidden_names_of_unnamed_sections_are_libucis() {
    for (before, kind) in [("", "a"), ("config x\nconfig y z\n", "kill-switch!")] {
        let hidden = libuci::name_of_last_section(format!("{before}config {kind}\n").as_bytes());
        assert!(hidden.starts_with("cfg0"), "{hidden}");
        for text in [
            format!("{before}config {kind}\noption x 1\nconfig {kind} {hidden}\noption y 2\n"),
            format!("{before}config {kind}\nconfig other {hidden}\n"),
            format!("config {kind} {hidden}\n{before}config {kind}\nconfig {kind} {hidden}\n"),
        ] {
            compare(text.as_bytes()).unwrap();
        }
        let merged = format!("{before}config {kind}\nconfig {kind} {hidden}\noption y 2\n");
        let merged = ours(merged.as_bytes()).unwrap();
        assert_eq!(merged.last().map(|s| (s.name.is_none(), s.options.len())), Some((true, 1)));
    }
}

#[test]
fn many_sections_of_every_kind_have_libucis_names() {
    // More than 255, so that the number in the hidden name grows.
    let mut text = "config a\n".repeat(300);
    let hidden = libuci::name_of_last_section(text.as_bytes());
    text += &format!("config a {hidden}\noption x 1\n");
    assert_eq!(compare(text.as_bytes()), Ok(Outcome::Accepted));
    assert_eq!(ours(text.as_bytes()).unwrap()[299].options.len(), 1);
}

#[test]
fn long_lines_read_like_libuci() {
    // Around the sizes at which libuci's buffer grows.
    for length in (1..140).chain([255, 256, 257, 4095, 4096, 4097, 70_000]) {
        for (before, fill, after) in [
            ("config a\noption x ", "y", ""),
            ("config a\noption x '", "y", "'\n"),
            ("config a\noption x '", "\n", "'\noption z 1"),
            ("config a\noption x \"", "\\\n", "\"\n"),
            ("config a\noption x y", "\\\n", "z\n"),
            ("config a\noption x y", " ", "#\n"),
            ("#", "-", "\nconfig a"),
        ] {
            let text = [before, &fill.repeat(length), after].concat();
            compare(text.as_bytes()).unwrap();
        }
    }
}

#[test]
fn generated_texts_read_like_libuci() {
    const CASES: u32 = 20_000;
    bounded(|current| {
        let config =
            ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
        let counts = Mutex::new([0; 4]);
        TestRunner::new(config)
            .run(&texts::text(), |text| {
                current.lock().unwrap().clone_from(&text);
                let outcome = compare(&text).map_err(TestCaseError::fail)?;
                let mut counts = counts.lock().unwrap();
                counts[outcome as usize] += 1;
                if outcome == Outcome::Accepted {
                    let read = ours(&text).unwrap_or_default();
                    counts[3] += u32::from(read.iter().any(|section| section.options.len() > 1));
                }
                Ok(())
            })
            .map_err(|error| error.to_string())?;
        // The generator has to reach all of it, or the comparison says little.
        let [accepted, rejected, on_purpose, rich] = counts.into_inner().unwrap();
        println!("{accepted} accepted ({rich} rich), {rejected} rejected, {on_purpose} on purpose");
        if accepted < CASES / 4 || rejected < CASES / 4 || rich < CASES / 10 {
            return Err(format!("one-sided: {accepted} {rejected} {rich}"));
        }
        if on_purpose > CASES / 5 { Err(format!("{on_purpose} refused")) } else { Ok(()) }
    });
}
