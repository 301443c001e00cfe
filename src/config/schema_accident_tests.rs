//! Accidents that should be refused, each of which opens more than its author meant.

use super::{errors, errors_as_written, with};

#[test]
fn an_option_without_a_value_does_not_make_an_exemption_wider() {
    // UCI: `option src_mac ''` sets nothing, so this would exempt everyone's way to 203.0.113.7.
    for blank in ["option src_mac ''", "option src_ip", "option dest_port ''", "option proto ''"] {
        let text = with(&format!("config exempt\nlist dest_ip '203.0.113.7'\n{blank}\n"));
        assert!(errors(&text)[0].starts_with(":8: exempt: "), "{blank}");
    }
    for blank in ["option mark ''", "option user ''", "option source_port ''"] {
        let text = with(&format!(
            "config endpoint\noption host '192.0.2.1'\noption port '1194'\n{blank}\n"
        ));
        assert!(errors(&text)[0].starts_with(":9: endpoint: "), "{blank}");
    }
    assert_eq!(errors("config killswitch 'main'\n\toption router ''\n").len(), 1);
}

#[test]
fn everything_in_two_halves_is_everything() {
    for halves in [["0.0.0.0/1", "128.0.0.0/1"], ["::/1", "8000::/1"]] {
        for option in ["src_ip", "dest_ip"] {
            let [a, b] = halves.map(|h| format!("list {option} '{h}'"));
            assert_eq!(errors(&with(&format!("config exempt\n{a}\n{b}\n"))).len(), 2, "{a} {b}");
        }
    }
}

#[test]
fn all_ports_of_everyone_is_everything() {
    assert_eq!(errors(&with("config exempt\nlist dest_port '1-65535'\n")).len(), 1);
}

#[test]
fn an_endpoint_with_the_pass_mark_would_be_no_endpoint() {
    for mark in ["0x10000000", "0x1000ca6c"] {
        let text = format!(
            "config endpoint\noption host '192.0.2.1'\noption port '1194'\noption mark '{mark}'\n"
        );
        assert_eq!(errors(&with(&text)).len(), 1, "{mark}");
    }
}

#[test]
fn a_mapped_address_is_not_a_host() {
    let text = "config endpoint\noption host '::ffff:192.0.2.1'\noption port '1194'\n";
    assert_eq!(errors(&with(text)).len(), 1);
}

#[test]
fn names_hold_nothing_that_reorders_the_line_they_stand_in() {
    let text = "config exempt\noption name 'TV\u{202e}gpj'\nlist src_ip '192.0.2.1'\n";
    assert_eq!(errors(&with(text)).len(), 1);
}

#[test]
fn words_that_people_try_lead_to_the_right_one() {
    for (wrong, right) in [("exemption", "exempt"), ("server", ""), ("endpoints", "endpoint")] {
        let found = errors(&with(&format!("config {wrong}\n")));
        assert_eq!(found[0].contains(&format!("did you mean '{right}'")), !right.is_empty());
    }
    let found = errors(&with(
        "config endpoint\noption host '192.0.2.1'\noption port 1\noption protocol udp\n",
    ));
    assert!(found[0].contains("did you mean 'proto'"));
}

/// A file that lost its end (power cut, full flash) must not switch protection off.
#[test]
fn a_file_cut_before_the_switch_is_not_a_file_that_says_off() {
    assert_eq!(
        errors_as_written("config killswitch 'main'\n"),
        [":1: killswitch 'main': enabled: missing; say 1 for on or 0 for off"]
    );
}

/// mwan3 and pbr set these bits on the router's own packets: they would all be exempt.
#[test]
fn the_pass_mark_is_none_of_the_bits_of_pbr_and_mwan3() {
    for bit in (0..32).filter(|b| (0x00ff_3f00_u32 >> b) & 1 == 1) {
        let mark =
            format!("config killswitch\noption enabled 0\noption pass_mark {:#x}\n", 1_u32 << bit);
        assert_eq!(errors(&mark).len(), 1, "bit {bit}");
    }
}
