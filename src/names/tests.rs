use super::*;
use crate::resolve::Found;

fn good(name: &str, addrs: &[&str], ttl: u64) -> Answer {
    let addrs = addrs.iter().map(|a| a.parse().unwrap()).collect();
    Answer { name: name.to_owned(), result: Ok(Found { addrs, ttl: Duration::from_secs(ttl) }) }
}

fn bad(name: &str, why: &str) -> Answer {
    Answer { name: name.to_owned(), result: Err(why.to_owned()) }
}

fn addrs(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|a| a.parse().unwrap()).collect()
}

#[test]
fn old_addresses_stay_until_new_ones_are_there_and_a_day_longer() {
    let mut known = Known::default();
    assert!(known.take(&[good("a", &["192.0.2.1"], 300)], 1000));
    assert!(known.take(&[bad("a", "no answer")], 1300));
    assert_eq!(known.addrs("a"), addrs(&["192.0.2.1"]));
    assert_eq!(known.problem("a"), "no answer");

    assert!(known.take(&[good("a", &["192.0.2.2"], 300)], 1400));
    assert_eq!(known.addrs("a"), addrs(&["192.0.2.2", "192.0.2.1"]));
    assert_eq!(known.current("a"), addrs(&["192.0.2.2"]));
    assert_eq!(known.problem("a"), "");

    assert!(known.take(&[good("a", &["192.0.2.2"], 300)], 1400 + KEEP_SECS));
    assert_eq!(known.addrs("a"), addrs(&["192.0.2.2"]));
    assert!(!known.take(&[good("a", &["192.0.2.2"], 300)], 1500 + KEEP_SECS));
}

#[test]
fn two_answers_in_one_second_are_told_apart() {
    let mut known = Known::default();
    known.take(&[good("a", &["192.0.2.1"], 60)], 5);
    known.take(&[good("a", &["192.0.2.2"], 60)], 5);
    assert_eq!(known.current("a"), addrs(&["192.0.2.2"]));
}

#[test]
fn a_name_is_asked_by_its_lifetime_within_limits() {
    let names = ["a".to_owned()];
    for (ttl, wait) in [(0, 60), (90, 90), (86400, 600)] {
        let mut known = Known::default();
        assert_eq!(known.due(&names, 7, false), names);
        assert_eq!(known.next(&names, 7), Some(0));
        known.take(&[good("a", &["192.0.2.1"], ttl)], 1000);
        assert_eq!(known.next(&names, 1000), Some(wait));
        assert!(known.due(&names, 1000 + wait - 1, false).is_empty());
        assert_eq!(known.due(&names, 1000 + wait, false), names);
    }
    assert_eq!(Known::default().next(&[], 7), None);
}

#[test]
fn failures_are_retried_less_and_less_often() {
    let mut known = Known::default();
    let mut now = 1000;
    let mut waits = Vec::new();
    for _ in 0..8 {
        known.take(&[bad("a", "no")], now);
        let wait = known.next(&["a".to_owned()], now).unwrap();
        waits.push(wait);
        now += wait;
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn what_was_saved_is_what_is_loaded() {
    let mut known = Known::default();
    known
        .take(&[good("a", &["192.0.2.1", "2001:db8::1"], 300), bad("b", "no answer from x")], 1000);
    assert_eq!(Known::parse(&known.text(), 1000), known);
    known.keep_only(&["b".to_owned()]);
    assert!(known.addrs("a").is_empty());
    assert_eq!(known.problem("b"), "no answer from x");
}

#[test]
fn times_of_another_start_of_the_kernel_are_due_now() {
    let mut known = Known::default();
    known.take(&[good("a", &["192.0.2.1"], 300)], 100_000);
    let after_reboot = Known::parse(&known.text(), 50);
    assert_eq!(after_reboot.next(&["a".to_owned()], 50), Some(0));
    assert_eq!(after_reboot.addrs("a"), addrs(&["192.0.2.1"]));
}

#[test]
fn a_broken_file_is_no_knowledge() {
    for text in
        ["", "addr 192.0.2.1 5\n", "name\naddr x y\n", "\u{fffd}\n", "problem x\nname a x y z\n"]
    {
        let known = Known::parse(text, 10);
        assert!(known.addrs("a").is_empty(), "{text:?}");
    }
}

#[test]
fn the_list_of_addresses_has_an_end() {
    let mut known = Known::default();
    for n in 0..100 {
        known.take(&[good("a", &[&format!("192.0.2.{n}")], 60)], 1000 + n * 60);
    }
    assert_eq!(known.addrs("a").len(), ADDRS_MAX);
    assert_eq!(known.current("a"), addrs(&["192.0.2.99"]));
}
