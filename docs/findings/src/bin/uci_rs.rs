//! uci_rs 0.1.2: a file that ends early, libuci's own quoting, and a value with a quote in it.

use std::io::BufWriter;

use findings::watched;
use uci_rs::{Uci, UciCommand, parse_raw_to_uci};

fn read(what: &str, text: &'static str) {
    let seen = watched("STILL RUNNING", move || {
        let parsed = parse_raw_to_uci("demo", text.to_string());
        match parsed.map(|uci| uci.get_option("s", "o").map(|(_, v)| format!("s.o = {v:?}"))) {
            Ok(Ok(option)) => option,
            Ok(Err(_)) => "read, without an option s.o".to_string(),
            Err(e) => format!("rejected: {}", e.message),
        }
    });
    println!("{what:40} {seen}");
}

fn main() {
    read("control: an ordinary file", "config t 's'\n\toption o 'it'\n");
    read("ends in `config x`, no newline", "config x");
    read("ends in `option o`, no newline", "config t 's'\n\toption o");
    read("ends in an unquoted value, no newline", "config t 's'\n\toption o it");
    read("'it'\\''s', as `uci export` writes it", "config t 's'\n\toption o 'it'\\''s'\n");
    read("adjacent quoted parts 'a'\"b\"", "config t 's'\n\toption o 'a'\"b\"\n");

    let mut uci = Uci::new("demo");
    uci.add_section("t", "s").expect("add section");
    let value = "x'\n\toption enabled '0";
    uci.set_option("s", "o", vec![value]).expect("set option");
    let mut out = BufWriter::new(Vec::new());
    uci.write_in(&mut out).expect("write");
    println!("\none option set to {value:?}, written as:");
    println!("{}", String::from_utf8_lossy(out.buffer()).trim());
}
