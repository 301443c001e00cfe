use super::*;

fn set(text: &str, value: &str) -> Result<String, EditError> {
    set_option(text.as_bytes(), "killswitch", "enabled", value)
        .map(|new| String::from_utf8(new).unwrap())
}

#[track_caller]
fn check(old: &str, value: &str, new: &str) {
    assert_eq!(set(old, value).as_deref(), Ok(new));
}

#[test]
fn only_the_value_changes_in_its_own_quotes() {
    for (quoted, new) in [("'1'", "'0'"), ("\"1\"", "\"0\""), ("1", "0"), ("'1'''", "'0'")] {
        check(
            &format!(
                "# a\n\nconfig  killswitch 'main' # b\n  option\tenabled  {quoted}# c\n\n\toption x ''\r\n"
            ),
            "0",
            &format!(
                "# a\n\nconfig  killswitch 'main' # b\n  option\tenabled  {new}# c\n\n\toption x ''\r\n"
            ),
        );
    }
}

#[test]
fn values_that_need_quotes_get_them() {
    let old = "config killswitch\n\toption enabled 1\n";
    check(old, "it's", "config killswitch\n\toption enabled 'it'\\''s'\n");
    check(old, "a b\n", "config killswitch\n\toption enabled 'a b\n'\n");
    check("c killswitch\no enabled \"1\"", "a\\\"b", "c killswitch\no enabled \"a\\\\\\\"b\"");
}

#[test]
fn the_last_of_several_is_the_one_in_force() {
    check(
        "config killswitch\n\toption enabled 1\n\toption x 2\n\toption enabled 1\n\toption enabled ''\n",
        "0",
        "config killswitch\n\toption enabled 1\n\toption x 2\n\toption enabled 0\n\toption enabled ''\n",
    );
    // In a later part of the same section.
    check(
        "config killswitch a\noption enabled 1\nconfig b\noption enabled 5\nconfig killswitch a\noption enabled 2\n",
        "0",
        "config killswitch a\noption enabled 1\nconfig b\noption enabled 5\nconfig killswitch a\noption enabled 0\n",
    );
}

#[test]
fn a_blank_value_is_filled_in() {
    check(
        "config killswitch\n\toption enabled ''\n",
        "1",
        "config killswitch\n\toption enabled '1'\n",
    );
    check(
        "config killswitch\n\toption enabled \"\"\n",
        "1",
        "config killswitch\n\toption enabled \"1\"\n",
    );
    check(
        "config killswitch\n\toption enabled\n",
        "1",
        "config killswitch\n\toption enabled '1'\n\toption enabled\n",
    );
}

#[test]
fn values_of_several_lines_are_replaced_whole() {
    check(
        "config killswitch\n\toption enabled 'a\nb\n' # c\n\tlist x 1\n\tlist x 2\n",
        "0",
        "config killswitch\n\toption enabled '0' # c\n\tlist x 1\n\tlist x 2\n",
    );
    check(
        "config killswitch\n\toption \\\nenabled \\\n1\\\n2\n",
        "0",
        "config killswitch\n\toption \\\nenabled '0'\n",
    );
}

#[test]
fn statements_joined_by_semicolons() {
    check(
        "config killswitch a ; option enabled 1 ; option x 2\n",
        "0",
        "config killswitch a ; option enabled 0 ; option x 2\n",
    );
    check(
        "config killswitch a ; option enabled '1';option x 2\n",
        "0",
        "config killswitch a ; option enabled '0';option x 2\n",
    );
    check(
        "config killswitch a\noption enabled 1;\n",
        "0",
        "config killswitch a\noption enabled 0;\n",
    );
    check(
        "config killswitch a ; option x 'y\nz'\noption v 1\n",
        "0",
        "config killswitch a ; option x 'y\nz'\noption enabled '0'\noption v 1\n",
    );
    check(
        "config killswitch a ; config b c ; option enabled 5\n",
        "0",
        "config killswitch a ; option enabled '0' ; config b c ; option enabled 5\n",
    );
}

#[test]
fn a_missing_option_gets_a_line_in_the_sections_style() {
    check("config killswitch 'main'\n", "1", "config killswitch 'main'\n\toption enabled '1'\n");
    check("config killswitch 'main'", "1", "config killswitch 'main'\n\toption enabled '1'");
    check("config killswitch # c", "1", "config killswitch # c\n\toption enabled '1'");
    check(
        "config x\r\nconfig killswitch\r\n# c\r\n    list tunnel \"wg0\"\r\n",
        "1",
        "config x\r\nconfig killswitch\r\n    option enabled \"1\"\r\n# c\r\n    list tunnel \"wg0\"\r\n",
    );
    check("#\r\nconfig killswitch", "1", "#\r\nconfig killswitch\r\n\toption enabled '1'");
    check(
        "config killswitch\no x 1\nconfig killswitch\n\toption enabled '5'\n",
        "1",
        "config killswitch\noption enabled 1\no x 1\nconfig killswitch\n\toption enabled '5'\n",
    );
}

#[test]
fn there_and_back_again() {
    for text in [
        "config killswitch 'main'\r\n\toption enabled '0'\r\n",
        "config killswitch;\no enabled 0",
        "config killswitch a ; option enabled \"0\" # x\n",
    ] {
        let on = set(text, "1").unwrap();
        assert_ne!(on, text);
        check(&on, "0", text);
        check(text, "0", text);
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    assert_eq!(set("config other\n", "1"), Err(EditError::NoSection("killswitch".into())));
    assert!(
        matches!(set("config killswitch\nfoo\n", "1"), Err(EditError::Syntax(error)) if error.line == 2)
    );
    assert_eq!(set("config killswitch\n\n\tlist enabled 1\n", "1"), Err(EditError::IsList(3)));
    for value in ["", "a\0"] {
        assert_eq!(set("config killswitch\n", value), Err(EditError::Unwritable));
    }
    assert_eq!(set_option(b"config a\n", "a", "x y", "1"), Err(EditError::Unwritable));
    assert_eq!(set_option(b"config a\n", "a", "", "1"), Err(EditError::Unwritable));
    // Quotes would bring the bare `;` to life, and the line's end behind it is an error.
    assert_eq!(set("#\nconfig killswitch\noption enabled 1;\n", "a b"), Err(EditError::NoPlace(2)));
    // Two words in this line would have to change.
    assert_eq!(set("config killswitch ; ; config b c\n", "1"), Err(EditError::NoPlace(1)));
}

#[test]
fn a_change_that_alters_more_is_noticed() {
    let parse = |text: &str| uci::parse(text.as_bytes()).unwrap();
    let old =
        parse("config a\noption x 1\noption y 2\nlist z 1\nconfig b\noption x 5\noption w ''\n");
    let good = "config a\noption y 2\nlist z 1\n\noption x 0\nconfig b\noption x 5\noption w ''\n";
    assert!(only_change(&old, &parse(good), 0, "x", "0"));
    for (from, to) in [
        ("x 0", "x 1"),
        ("option x 0", "list x 0"),
        ("y 2", "y 3"),
        ("y 2", "v 2"),
        ("z 1", "z 1\nlist z 1"),
        ("config a", "config a n"),
        ("config a", "config c"),
        ("config b", "config d\nconfig b"),
        ("x 5", "x 6"),
        ("w ''", "w 1"),
        ("option w ''", ""),
        ("option y 2\nlist z 1", "list z 1\noption y 2"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(!only_change(&old, &parse(&bad), 0, "x", "0"), "{from} → {to}");
    }
}
