use super::*;

/// One line per section and option; the shape of the result in a readable form.
fn shape(text: &[u8]) -> String {
    let bytes = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut lines = Vec::new();
    for section in parse(text).unwrap().sections {
        let name = section.name.unwrap_or_else(|| "-".into());
        lines.push(format!("{}: {} {name}", section.line, section.kind));
        for option in section.options {
            let value = match option.value {
                Value::One(value) => bytes(&value),
                Value::List(items) => {
                    let item = |item: &Item| format!("{}@{}", bytes(&item.bytes), item.line);
                    format!("[{}]", items.iter().map(item).collect::<Vec<_>>().join(" "))
                }
            };
            lines.push(format!("{}: .{}={value}", option.line, option.name));
        }
        lines.extend(section.blank.iter().map(|blank| format!("{}: !{}", blank.line, blank.name)));
    }
    lines.join("\n")
}

/// The value of option x.
fn value(spelled: &str) -> Vec<u8> {
    let text = format!("config a\noption x {spelled}\n");
    match parse(text.as_bytes()).unwrap().sections[0].options[0].value.clone() {
        Value::One(value) => value,
        Value::List(_) => panic!("a list"),
    }
}

fn error(text: &[u8]) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn an_ordinary_file() {
    let text =
        b"# VPN\n\nconfig killswitch 'main'\n\toption enabled '1'\n\tlist tunnel_device 'tun0'\n\
        \tlist tunnel_device 'tun0' # again\n\nconfig exempt\n\toption name 'TV'\n";
    assert_eq!(
        shape(text),
        "3: killswitch main\n4: .enabled=1\n5: .tunnel_device=[tun0@5 tun0@6]\n\
         8: exempt -\n9: .name=TV"
    );
    let crlf = String::from_utf8(text.to_vec()).unwrap().replace('\n', "\r\n");
    assert_eq!(shape(crlf.as_bytes()), shape(text));
    assert_eq!(shape(text.trim_ascii_end()), shape(text));
}

#[test]
fn quotes_in_all_mixtures() {
    assert_eq!(value("'it'\\''s'"), b"it's");
    assert_eq!(value("\"it's\""), b"it's");
    assert_eq!(value("a'b c'\"d e\"f"), b"ab cd ef");
    assert_eq!(value("'a\\b'"), b"a\\b");
    assert_eq!(value("\"a\\\"b\\\\\""), b"a\"b\\");
    assert_eq!(value("'#;'"), b"#;");
    assert_eq!(value("a''"), b"a");
}

#[test]
fn a_backslash_keeps_the_next_byte() {
    assert_eq!(value("a\\ b"), b"a b");
    assert_eq!(value("\\n\\t"), b"nt");
    assert_eq!(value("\\#\\;\\'"), b"#;'");
}

#[test]
fn lines_continue() {
    assert_eq!(value("a\\\nb"), b"ab");
    assert_eq!(value("a\\\r\nb"), b"ab");
    assert_eq!(value("\"a\\\nb\""), b"ab");
    assert_eq!(value("'a\\\nb'"), b"a\\\nb");
    assert_eq!(value("'a\nb'"), b"a\nb");
    assert_eq!(value("'a\r\nb'"), b"a\r\nb");
    // The line that continues counts, also for what comes behind.
    assert_eq!(
        shape(b"config a\noption x 'a\n\nb'\noption \\\ny 1\nlist z 2"),
        "1: a -\n2: .x=a\\n\\nb\n5: .y=1\n7: .z=[2@7]"
    );
}

#[test]
fn comments_begin_in_a_word_too() {
    assert_eq!(value("a#b"), b"a");
    assert_eq!(value("'a'# b ; option y 1"), b"a");
    assert_eq!(shape(b"# c\xff\nconfig a # \xe9 '\n"), "2: a -");
    assert_eq!(shape(b"# not continued \\\nconfig a"), "2: a -");
}

#[test]
fn semicolons() {
    assert_eq!(
        shape(b"config a b ; option x 1 ; list y '2'; list y 3"),
        "1: a b\n1: .x=1\n1: .y=[2@1 3@1]"
    );
    assert_eq!(shape(b"config a b;\n"), "1: a b");
    assert_eq!(shape(b"config a b; # c\n"), "1: a b");
    // It takes the place of the name, and then a second one ends the statement.
    assert_eq!(shape(b"config 'a'; ; option x 1"), "1: a -\n1: .x=1");
    assert!(error(b"config 'a'; option x 1").contains("unexpected \"option\""));
    assert_eq!(error(b"config a b ;\n"), "line 1: nothing follows ';'");
    assert_eq!(error(b"\n;\n"), "line 2: ';' without a statement before it");
    assert!(error(b"config a b;option x 1").starts_with("line 1: UCI ignores what follows ';'"));
}

#[test]
fn bytes_that_are_not_utf8() {
    assert_eq!(shape(b"config a\noption x '\xff\xfe'\nlist y \xc3"), {
        "1: a -\n2: .x=\\xff\\xfe\n3: .y=[\\xc3@3]"
    });
}

#[test]
fn an_option_without_value_sets_nothing() {
    assert_eq!(
        shape(b"config a\noption x ''\noption y 1\noption y \"\"\noption z\n"),
        "1: a -\n3: .y=1\n2: !x\n4: !y\n5: !z"
    );
    assert_eq!(shape(b"config a\nlist x ''\nlist x"), "1: a -\n2: .x=[@2 @3]");
}

#[test]
fn the_last_option_wins_and_moves_to_the_end() {
    assert_eq!(
        shape(b"config a\noption x 1\noption y 2\noption x 3\n"),
        "1: a -\n3: .y=2\n4: .x=3"
    );
    assert_eq!(
        shape(b"config a\noption x 1\noption y 2\noption x 1\n"),
        "1: a -\n2: .x=1\n3: .y=2"
    );
}

#[test]
fn option_and_list_of_the_same_name() {
    assert_eq!(
        shape(b"config a\noption x 1\noption y 0\nlist x 1\nlist x 2\n"),
        "1: a -\n3: .y=0\n2: .x=[1@2 1@4 2@5]"
    );
    assert_eq!(shape(b"config a\nlist x 1\noption x 2\n"), "1: a -\n3: .x=2");
    assert_eq!(shape(b"config a\nlist x 1\noption x 2\nlist x 3\n"), "1: a -\n3: .x=[2@3 3@4]");
}

#[test]
fn a_repeated_section_is_merged_once() {
    let twice = b"config a n\noption x 1\nconfig b\nconfig a n\noption x 2\n";
    assert_eq!(shape(twice), "1: a n\n5: .x=2\n3: b -");
    assert_eq!(shape(b"config a n\nconfig a n\nconfig a n\n"), "1: a n");
    assert_eq!(
        error(b"config a n\nconfig a n\nconfig a n\noption x 1\n"),
        "line 4: option in a section that appears for the third time"
    );
    assert_eq!(
        error(b"config a n\n\nconfig b n\n"),
        "line 3: section 'n' of type 'b' has type 'a' in line 1"
    );
    assert_eq!(shape(b"config a\nconfig a\n"), "1: a -\n2: a -");
}

#[test]
fn an_unnamed_section_has_libucis_hidden_name() {
    assert_eq!(hidden_name(1, "dnsmasq"), "cfg01411c");
    let text = b"config dnsmasq\noption x 1\nconfig dnsmasq cfg01411c\noption y 2\n";
    assert_eq!(shape(text), "1: dnsmasq -\n2: .x=1\n4: .y=2");
}

#[test]
fn keywords_may_be_one_letter() {
    assert_eq!(shape(b"p z-1\nc a b\no x 1\nl y 2\n"), "2: a b\n3: .x=1\n4: .y=[2@4]");
    assert_eq!(error(b"conf a\n"), "line 1: \"conf\" is not 'config', 'option' or 'list'");
    assert!(error(b"config\n").contains("\"config\" is not"));
    assert!(error(b"\xef\xbb\xbfconfig a\n").contains("byte order mark"));
}

#[test]
fn package_lines_have_no_effect() {
    assert_eq!(shape(b"package a\nconfig b\noption x 1\npackage c\noption y 2\n"), {
        "2: b -\n3: .x=1\n5: .y=2"
    });
}

#[test]
fn wrong_numbers_of_words() {
    assert_eq!(error(b"config '' a\n"), "line 1: 'config' without a section type");
    assert_eq!(error(b"config a\noption "), "line 2: 'option' without a name");
    assert_eq!(error(b"config a\n\nlist ''\n"), "line 3: 'list' without a name");
    assert_eq!(error(b"package #x"), "line 1: 'package' without a name");
    assert!(error(b"config a\noption x b c").starts_with("line 2: unexpected \"c\" at the end"));
    assert!(error(b"package a b").contains("unexpected \"b\" at the end of 'package'"));
    // An empty word more is none, and a statement may follow it.
    assert_eq!(shape(b"config a b '' option x 1 \"\"\n"), "1: a b\n1: .x=1");
}

#[test]
fn options_need_a_section() {
    assert_eq!(error(b"\noption x 1\n"), "line 2: option before the first section");
}

#[test]
fn names_and_types() {
    assert_eq!(shape(b"config a-b!.c\n"), "1: a-b!.c -");
    assert_eq!(error(b"config 'a b'"), "line 1: invalid character in section type \"a b\"");
    assert_eq!(error(b"config a b-c"), "line 1: invalid character in section name \"b-c\"");
    assert_eq!(
        error(b"config a\noption 'x\n-' 1"),
        "line 2: invalid character in option name \"x\\n-\""
    );
    assert_eq!(error(b"package a.b"), "line 1: invalid character in package name \"a.b\"");
    assert!(error(&[b"config ", [0xe9; 60].as_slice()].concat()).ends_with("�…\""));
}

#[test]
fn open_quotes_are_reported_where_they_begin() {
    assert_eq!(error(b"config a\noption x 'b\n\n\n"), "line 2: unterminated '");
    assert_eq!(error(b"config a\noption x \"b\\"), "line 2: unterminated \"");
    assert_eq!(error(b"config a\noption 'x\ny''\n"), "line 3: unterminated '");
}

#[test]
fn not_a_text_file() {
    assert_eq!(error(b"config a\n#\0\n"), "line 2: NUL byte: this is not a text file");
    let comment = vec![b'#'; MAX_SIZE + 1];
    assert_eq!(parse(&comment[1..]), Ok(Package::default()));
    assert_eq!(error(&comment), "1048577 bytes; a UCI file has at most 1048576");
}
