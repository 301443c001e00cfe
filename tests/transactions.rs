//! Transactions with a real kernel: the smallest change leads where a fresh install leads, keeps what
//! is to be kept, and repairs whatever somebody else did to the table.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test code: a wrong index is a failed test"
)]

mod lab;
mod listing;
mod random;

use lab::Res;
use lab::ns::Ns;
use random::Rng;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use vpn_killswitch::backend::nft::{Applied, Change, Error, Nft, read, text};
use vpn_killswitch::config::{ExemptConfig, RouterMode};
use vpn_killswitch::names::Bootstrap;
use vpn_killswitch::netlink::Socket;
use vpn_killswitch::policy::{Endpoint, Policy};
use vpn_killswitch::ruleset::{self, Content, Guarantee, Match, Rule, Ruleset, Verdict};
use vpn_killswitch::types::{DevicePattern, Family, Net, Proto, left_aligned};

/// Whatever the library fails with, as a test's failure.
fn said<T>(result: Result<T, Error>) -> Res<T> {
    result.map_err(|e| e.to_string().into())
}

/// Runs `work` with the nftables of a namespace.
fn nft<T: Send>(ns: &Ns, work: impl FnOnce(&mut Nft) -> Result<T, Error> + Send) -> Res<T> {
    ns.enter(|| Nft::open().and_then(|mut nft| work(&mut nft)).map_err(|e| e.to_string()))?
        .map_err(Into::into)
}

fn apply(ns: &Ns, rules: &Ruleset) -> Res<Applied> {
    nft(ns, |nft| nft.apply(rules))
}

fn check(ns: &Ns, rules: &Ruleset) -> Res<Vec<String>> {
    Ok(nft(ns, |nft| nft.check(rules))?.iter().map(ToString::to_string).collect())
}

/// The kernel's number for the state of the namespace's rules: it changes with every transaction.
fn generation(ns: &Ns) -> Res<u32> {
    ns.enter(|| -> Result<u32, String> {
        let mut socket = Socket::open(libc::NETLINK_NETFILTER as u16).map_err(|e| e.to_string())?;
        read::generation(&mut socket).map_err(|e| e.to_string())
    })?
    .map_err(Into::into)
}

fn counters(ns: &Ns) -> Res<BTreeMap<String, (u64, u64)>> {
    let counters = nft(ns, Nft::counters)?;
    Ok(counters.into_iter().map(|c| (c.name, (c.packets, c.bytes))).collect())
}

/// A policy of which the tests below know every part.
fn plain() -> Policy {
    let device = |name| DevicePattern::parse(name).unwrap();
    Policy {
        tunnels: vec![device("tun*"), device("wg0")],
        locals: vec![device("br-lan"), device("br-guest")],
        tunnel_addrs: vec![Ipv4Addr::new(10, 64, 0, 2).into()],
        ipsec: false,
        router: RouterMode::Strict,
        reject: true,
        port_forward_replies: false,
        log: true,
        pass_mark: 0x1000_0000,
        endpoints: vec![Endpoint {
            name: "server".to_owned(),
            source: String::new(),
            problem: String::new(),
            host: "203.0.113.10".to_owned(),
            by_name: false,
            addrs: vec![Ipv4Addr::new(203, 0, 113, 10).into()],
            proto: Proto::Udp,
            port: Some(51820),
            source_port: None,
            mark: None,
            uid: None,
        }],
        time_servers: Vec::new(),
        bootstrap: Bootstrap::default(),
        exempts: vec![exempt(vec![Net::parse("192.168.1.50").unwrap()])],
    }
}

fn exempt(src_ip: Vec<Net>) -> ExemptConfig {
    ExemptConfig {
        local_interfaces: Vec::new(),
        local_devices: Vec::new(),
        name: "TV".to_owned(),
        enabled: true,
        src_mac: Vec::new(),
        src_ip,
        dest_ip: Vec::new(),
        dest_port: Vec::new(),
        proto: None,
        line: 1,
    }
}

/// The table as text whose counters have counted already; packets of the n-th: n, bytes: 100 n.
fn counted(rules: &Ruleset) -> String {
    let mut text = text::table(rules);
    for (n, (_, rule)) in rules.rules().enumerate() {
        let n = n + 1;
        let empty = format!("counter {} {{\n\t}}", rule.id);
        assert!(text.contains(&empty), "{}", rule.id);
        let full = format!("counter {} {{ packets {n} bytes {}; }}", rule.id, 100 * n);
        text = text.replace(&empty, &full.replace("; }", " }"));
    }
    text
}

#[test]
fn a_change_leads_where_a_fresh_install_leads_and_keeps_what_was_counted() -> Res<()> {
    let (seed, count) = random::parameters(60);
    let (ns, fresh) = (Ns::new("changed")?, Ns::new("fresh")?);
    for n in 0..count as u64 {
        let mut rng = Rng::new(seed.wrapping_add(n));
        let (a, b) = (random::policy(&mut rng), random::policy(&mut rng));
        // Most changes are small: an address, a tunnel, one exemption.
        let b = if rng.chance(60) { small_change(&a, b, &mut rng) } else { b };
        let (a, b) = (ruleset::build(&a), ruleset::build(&b));
        let fail = |what: String| format!("KERNEL_SEED={}: {what}", seed.wrapping_add(n));

        nft(&ns, Nft::remove)?;
        ns.nft(&counted(&a))?;
        // nft joins some comparisons, so a few rules are replaced by ours; the counters stay.
        apply(&ns, &a)?;
        ns.nft(
            "add element inet vpn_killswitch blocked4 { 10.2.0.9 timeout 20h expires 3h }
             add element inet vpn_killswitch blocked6 { 2001:db8::9 }
             add element inet vpn_killswitch paused4 { 10.2.0.8 timeout 1h }
             add element inet vpn_killswitch paused6 { 2001:db8::8 timeout 2h }
             add element inet vpn_killswitch paused_devices { \"lan0\" timeout 30m }",
        )?;
        let old = counters(&ns)?;

        let applied = apply(&ns, &b).map_err(|e| fail(e.to_string()))?;
        assert_eq!(applied.unavailable, Vec::<String>::new());
        assert_eq!(check(&ns, &b)?, Vec::<String>::new());
        let before = generation(&ns)?;
        assert_eq!(apply(&ns, &b)?, Applied::default());
        assert_eq!(generation(&ns)?, before, "sent something though the kernel agreed");

        for (id, now) in counters(&ns)? {
            let expected = old.get(&id).copied().unwrap_or_default();
            assert_eq!(now, expected, "{}", fail(format!("counter {id}")));
        }
        for (set, key, life, left) in [
            ("blocked4", left_aligned(&[10, 2, 0, 9]), 20 * 3600, 3 * 3600),
            ("blocked6", "2001:db8::9".parse::<Ipv6Addr>()?.octets(), 24 * 3600, 24 * 3600),
            ("paused4", left_aligned(&[10, 2, 0, 8]), 3600, 3600),
            ("paused6", "2001:db8::8".parse::<Ipv6Addr>()?.octets(), 7200, 7200),
            ("paused_devices", left_aligned(b"lan0"), 1800, 1800),
        ] {
            let elements = nft(&ns, |nft| nft.elements(set))?;
            assert_eq!(elements.len(), 1, "{}", fail(format!("{set} {elements:?}")));
            assert_eq!(elements[0].key, key);
            // A default timeout is not repeated in the element.
            let whole = elements[0].timeout.map_or(24 * 3600, |t| t.as_secs());
            assert_eq!(whole, life, "{set}");
            let expires = elements[0].expires.ok_or("no end")?;
            let all = Duration::from_secs(left);
            assert!(expires <= all && expires + Duration::from_secs(30) > all, "{set} {expires:?}");
        }

        nft(&fresh, Nft::remove)?;
        apply(&fresh, &b)?;
        let differences = listing::differences(&listing::of(&ns)?, &listing::of(&fresh)?);
        assert!(differences.is_empty(), "{}", fail(differences.join("\n")));
    }
    Ok(())
}

fn small_change(a: &Policy, other: Policy, rng: &mut Rng) -> Policy {
    let mut b = a.clone();
    match rng.below(9) {
        0 => b.tunnels = other.tunnels,
        1 => b.locals = other.locals,
        2 => b.tunnel_addrs = other.tunnel_addrs,
        3 => b.router = other.router,
        4 => b.endpoints = other.endpoints,
        5 => b.exempts = other.exempts,
        6 => b.pass_mark = other.pass_mark,
        7 => b.port_forward_replies = !b.port_forward_replies,
        _ => {
            if let Some(e) = b.exempts.first_mut() {
                let family = random::family(rng);
                let len = if rng.chance(50) { 128 } else { 24 };
                e.src_ip.push(Net::new(random::address(rng, family), len));
            }
            if let Some(e) = b.endpoints.first_mut() {
                e.addrs.push(random::address(rng, Family::V4));
            }
        }
    }
    b
}

#[test]
fn the_text_form_installs_the_same_table_as_netlink() -> Res<()> {
    let (seed, count) = random::parameters(60);
    let (by_text, by_netlink) = (Ns::new("text")?, Ns::new("netlink")?);
    for n in 0..count as u64 {
        let rules = ruleset::build(&random::policy(&mut Rng::new(seed.wrapping_add(n))));
        nft(&by_text, Nft::remove)?;
        nft(&by_netlink, Nft::remove)?;
        by_text.nft(&text::table(&rules))?;
        apply(&by_netlink, &rules)?;
        let differences = listing::differences(&listing::of(&by_text)?, &listing::of(&by_netlink)?);
        let seed = seed.wrapping_add(n);
        assert!(differences.is_empty(), "KERNEL_SEED={seed}: {}", differences.join("\n"));
        // The words that a person sees, too: same order, because both make objects in one order.
        let list = |ns: &Ns| ns.sh("nft -s list table inet vpn_killswitch");
        let (a, b) = (sorted_lines(&list(&by_text)?), sorted_lines(&list(&by_netlink)?));
        assert_eq!(a, b, "KERNEL_SEED={seed}");
    }
    Ok(())
}

/// The lines of a listing with the words of each sorted: the elements of a hash set come in an order
/// that differs from table to table, over several lines.
fn sorted_lines(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut open: Option<Vec<&str>> = None;
    for line in text.lines() {
        let words = line.split_whitespace().map(|w| w.trim_end_matches(','));
        if line.trim_start().starts_with("elements = {") {
            open = Some(Vec::new());
        }
        match &mut open {
            Some(elements) => {
                elements.extend(words);
                if line.trim_end().ends_with('}') {
                    elements.sort_unstable();
                    out.push(elements.join(" "));
                    open = None;
                }
            }
            None => out.push(line.to_owned()),
        }
    }
    out
}

/// What somebody else may do to the table, and a word that the difference must name.
const DAMAGE: [(&str, &str); 33] = [
    ("add element inet vpn_killswitch paused4 { 192.168.1.5 }", "paused4 has 192.168.1.5"),
    (
        "add element inet vpn_killswitch paused_devices { \"br-lan\" }
      add element inet vpn_killswitch paused_devices { \"br-guest\" timeout 1h }",
        "paused_devices has \"br-lan\"",
    ),
    ("insert rule inet vpn_killswitch forward accept", "without a name"),
    (
        "insert rule inet vpn_killswitch forward oifname eth0 accept comment \"G1 fwd_tunnel: x\"",
        "G1 fwd_tunnel: x",
    ),
    ("add rule inet vpn_killswitch marks meta mark set 0x10000000", "chain marks has a rule"),
    (
        "insert rule inet vpn_killswitch forward tcp dport { 80, 443 } accept",
        "chain forward has a rule",
    ),
    (
        "insert rule inet vpn_killswitch forward tcp dport vmap { 80 : accept, 443 : drop }",
        "chain forward has a rule",
    ),
    ("add element inet vpn_killswitch tunnels_range { \"eth0\" }", "tunnels_range has \"eth0\""),
    ("add element inet vpn_killswitch locals { \"eth1\" }", "locals has \"eth1\""),
    ("add element inet vpn_killswitch endpoint_1_4 { 198.51.100.1 }", "198.51.100.1"),
    ("delete element inet vpn_killswitch tunnels_range { \"wg0\" }", "tunnels_range lacks \"wg0\""),
    (
        "flush set inet vpn_killswitch tunnels_range
      add element inet vpn_killswitch tunnels_range { \"wg0\" }",
        "tunnels_range lacks \"tun*\"",
    ),
    ("flush set inet vpn_killswitch locals", "locals lacks"),
    (
        "add chain inet vpn_killswitch forward { policy accept; }",
        "chain forward has the wrong policy",
    ),
    (
        "add chain inet vpn_killswitch leaving { policy accept; }",
        "chain leaving has the wrong policy",
    ),
    (
        "add chain inet vpn_killswitch inbound { policy drop; }",
        "chain inbound has the wrong policy",
    ),
    ("add table inet vpn_killswitch { flags dormant; }", "dormant"),
    ("add chain inet vpn_killswitch extra", "extra"),
    (
        "add chain inet vpn_killswitch extra
      add rule inet vpn_killswitch extra accept
      insert rule inet vpn_killswitch forward jump extra",
        "extra",
    ),
    (
        "add chain inet vpn_killswitch one
      add chain inet vpn_killswitch two
      add rule inet vpn_killswitch one jump two
      add rule inet vpn_killswitch forward goto one",
        "chain two is not ours",
    ),
    (
        "add chain inet vpn_killswitch early { type filter hook forward priority -10; policy accept; }",
        "early",
    ),
    (
        "add chain inet vpn_killswitch nat { type nat hook postrouting priority 100; }
      add rule inet vpn_killswitch nat masquerade",
        "chain nat is not ours",
    ),
    ("add set inet vpn_killswitch foo { type ipv4_addr; elements = { 1.2.3.4 }; }", "foo"),
    (
        "add map inet vpn_killswitch foo { type ipv4_addr : verdict; elements = { 1.2.3.4 : accept }; }",
        "foo",
    ),
    (
        "add set inet vpn_killswitch foo { type ipv4_addr; }
      insert rule inet vpn_killswitch forward ip daddr @foo accept",
        "foo",
    ),
    ("add counter inet vpn_killswitch foo", "foo"),
    (
        "add chain inet vpn_killswitch target
      insert rule inet vpn_killswitch forward tcp dport vmap { 80 : jump target }",
        "target",
    ),
    ("flush chain inet vpn_killswitch forward", "chain forward lacks the rule 'G1 fwd_drop"),
    ("flush table inet vpn_killswitch", "chain leaving lacks the rule"),
    ("delete table inet vpn_killswitch", "the table is missing"),
    ("flush ruleset", "the table is missing"),
    (
        "delete table inet vpn_killswitch
      add table inet vpn_killswitch
      add chain inet vpn_killswitch forward { type filter hook input priority 0; }",
        "another version",
    ),
    (
        "delete table inet vpn_killswitch
      add table inet vpn_killswitch
      add set inet vpn_killswitch tunnels_range { type ipv4_addr; }",
        "another version",
    ),
];

#[test]
fn what_others_did_to_the_table_is_named_and_repaired() -> Res<()> {
    let (ns, fresh) = (Ns::new("damaged")?, Ns::new("fresh")?);
    let rules = ruleset::build(&plain());
    apply(&fresh, &rules)?;
    let expected = listing::of(&fresh)?;
    let mut failures = Vec::new();
    for (script, word) in DAMAGE {
        nft(&ns, Nft::remove)?;
        apply(&ns, &rules)?;
        ns.nft(script)?;
        repaired(&ns, &rules, &expected, script, word, &mut failures)?;
    }
    // A rule gone, one changed under its old name, and one twice.
    let drop =
        "counter name \"fwd_drop\" accept comment \"G1 fwd_drop: every other way out is closed\"";
    for (command, word) in [
        (
            "delete rule inet vpn_killswitch forward handle HANDLE".to_owned(),
            "lacks the rule 'G1 fwd_drop",
        ),
        (
            format!("replace rule inet vpn_killswitch forward handle HANDLE {drop}"),
            "lacks the rule 'G1 fwd_drop",
        ),
        (
            format!("insert rule inet vpn_killswitch forward {}", drop.replace("accept", "drop")),
            "should not be there: 'G1 fwd_drop",
        ),
    ] {
        nft(&ns, Nft::remove)?;
        apply(&ns, &rules)?;
        let list = ns.sh("nft -a list chain inet vpn_killswitch forward")?;
        let line = list.lines().find(|l| l.contains("\"fwd_drop\"")).ok_or("no fwd_drop")?;
        let handle = line.rsplit(' ').next().ok_or("no handle")?;
        ns.nft(&command.replace("HANDLE", handle))?;
        repaired(&ns, &rules, &expected, &command, word, &mut failures)?;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

/// Named by `check`, repaired by `apply`: otherwise says so in `failures`.
fn repaired(
    ns: &Ns,
    rules: &Ruleset,
    expected: &BTreeMap<String, Vec<serde_json::Value>>,
    script: &str,
    word: &str,
    failures: &mut Vec<String>,
) -> Res<()> {
    let found = check(ns, rules)?;
    if !found.iter().any(|f| f.contains(word)) {
        failures.push(format!("{script}: not named ('{word}'): {found:?}"));
    }
    match apply(ns, rules) {
        Err(e) => {
            failures.push(format!("{script}: not repaired: {e}"));
            ns.nft("delete table inet vpn_killswitch")?;
        }
        Ok(_) => {
            let left = listing::differences(&listing::of(ns)?, expected);
            if !left.is_empty() {
                failures.push(format!("{script}: not repaired: {}", left.join("\n")));
                ns.nft("delete table inet vpn_killswitch")?;
            }
        }
    }
    Ok(())
}

#[test]
fn objects_of_other_kinds_in_our_table_are_named_and_removed() -> Res<()> {
    let ns = Ns::new("objects")?;
    let rules = ruleset::build(&plain());
    let mut failures = Vec::new();
    for script in [
        "add quota inet vpn_killswitch foo { over 10 mbytes }",
        "add limit inet vpn_killswitch foo { rate 10/second }",
        "add ct helper inet vpn_killswitch foo { type \"ftp\" protocol tcp; }",
        "add flowtable inet vpn_killswitch foo { hook ingress priority 0; devices = { lo }; }",
    ] {
        apply(&ns, &rules)?;
        // What this kernel cannot do nobody can do to the table.
        if let Err(e) = ns.nft(script) {
            println!("not possible here: {script}: {e}");
            continue;
        }
        let found = check(&ns, &rules)?;
        if !found.iter().any(|f| f.contains("foo")) {
            failures.push(format!("{script}: not named: {found:?}"));
        }
        apply(&ns, &rules)?;
        if listing::of(&ns)?.keys().any(|k| k.ends_with(" foo")) {
            failures.push(format!("{script}: not removed"));
        }
        ns.nft("delete table inet vpn_killswitch")?;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn another_writer_neither_stops_an_apply_nor_gets_into_it() -> Res<()> {
    let ns = Ns::new("busy")?;
    let (a, mut b) = (plain(), plain());
    b.tunnels.push(DevicePattern::parse("ppp*")?);
    b.router = RouterMode::Dns;
    b.exempts.clear();
    let (a, b) = (ruleset::build(&a), ruleset::build(&b));
    let (stop, writes) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| -> Res<()> {
        let writer = scope.spawn(|| -> Result<(), String> {
            while !stop.load(Ordering::Acquire) {
                ns.nft("add table inet other\nadd chain inet other c\ndelete table inet other")
                    .map_err(|e| e.to_string())?;
                writes.fetch_add(1, Ordering::Release);
            }
            Ok(())
        });
        let result = (|| {
            lab::wait_for("writer", 5.0, || writes.load(Ordering::Acquire) > 3)?;
            for n in 0..60 {
                let rules = if n % 2 == 0 { &a } else { &b };
                let applied = apply(&ns, rules)?;
                assert!(!applied.changes.is_empty());
                assert_eq!(check(&ns, rules)?, Vec::<String>::new());
            }
            Ok(())
        })();
        stop.store(true, Ordering::Release);
        writer.join().map_err(|_| "writer died")??;
        result
    })?;
    println!("{} foreign transactions", writes.load(Ordering::Acquire));
    let tables = ns.sh("nft list tables")?;
    assert_eq!(tables.trim(), "table inet vpn_killswitch");
    Ok(())
}

#[test]
fn tens_of_thousands_of_addresses_go_in_one_transaction() -> Res<()> {
    let ns = Ns::new("large")?;
    for count in [10_000u32, 60_000] {
        nft(&ns, Nft::remove)?;
        let mut policy = plain();
        let v4 = (0..count).map(|n| Net::host(Ipv4Addr::from(0x0b00_0000 + 3 * n).into()));
        // Networks side by side and with gaps, so that the set has ranges.
        let v6 = (0..count).map(|n| {
            let addr = u128::from(0x2001_0db8u32) << 96 | u128::from(n) << 64;
            Net::new(Ipv6Addr::from(addr).into(), if n % 3 == 0 { 64 } else { 80 })
        });
        policy.exempts[0].src_ip = v4.chain(v6).collect();
        let rules = ruleset::build(&policy);
        let before = generation(&ns)?;
        let began = Instant::now();
        apply(&ns, &rules)?;
        println!("{count} + {count} addresses in {:?}", began.elapsed());
        assert_eq!(generation(&ns)?, before + 1, "one transaction");
        assert_eq!(check(&ns, &rules)?, Vec::<String>::new());
        let held = nft(&ns, |nft| nft.elements("exempt_1_src4"))?;
        assert_eq!(held.len(), count as usize);

        // One address less and one more: one transaction again, which names only these.
        let gone = policy.exempts[0].src_ip.remove(7);
        policy.exempts[0].src_ip.push(Net::parse("198.51.100.7")?);
        let rules = ruleset::build(&policy);
        let changes = nft(&ns, |nft| nft.check(&rules))?;
        assert!(
            matches!(&changes[..], [Change::DelElements(_, d), Change::AddElements(_, a)]
                if d.len() == 1 && a.len() == 1),
            "{gone}"
        );
        apply(&ns, &rules)?;
        assert_eq!(check(&ns, &rules)?, Vec::<String>::new());

        // And all of them gone.
        policy.exempts[0].src_ip = vec![Net::host(IpAddr::from([192, 0, 2, 1]))];
        let rules = ruleset::build(&policy);
        apply(&ns, &rules)?;
        assert_eq!(check(&ns, &rules)?, Vec::<String>::new());
    }
    Ok(())
}

/// A rule that no kernel accepts: it looks into a set that does not exist.
fn impossible(id: &str, optional: bool) -> Rule {
    Rule {
        id: id.to_owned(),
        guarantee: Guarantee::G1,
        comment: "cannot be".to_owned(),
        matches: vec![Match::DestIn(Family::V4, "nowhere".to_owned())],
        actions: Vec::new(),
        verdict: Some(Verdict::Drop),
        optional,
    }
}

#[test]
fn what_the_kernel_refuses_is_attributed_and_changes_nothing() -> Res<()> {
    let ns = Ns::new("refusing")?;
    let good = ruleset::build(&plain());
    apply(&ns, &good)?;
    let (before, listed) = (generation(&ns)?, listing::of(&ns)?);

    let mut rule = good.clone();
    rule.chains[2].rules.insert(2, impossible("bad_rule", false));
    let mut name = good.clone();
    name.chains[2].rules.insert(0, Rule { matches: vec![], ..impossible(&"x".repeat(300), false) });
    let mut elements = good.clone();
    let ranges = [(1, 10), (5, 20)]
        .map(|(a, b)| (left_aligned(&[10, 0, 0, a]), left_aligned(&[10, 0, 0, b])));
    elements.sets.push(ruleset::Set {
        name: "overlapping".to_owned(),
        key: ruleset::KeyType::V4,
        ranges: true,
        content: Content::Fixed(ranges.to_vec()),
    });
    for (rules, word) in [
        (&rule, "'G1 bad_rule: cannot be'"),
        (&name, "counter xxx"),
        (&elements, "set overlapping"),
    ] {
        let error = ns.enter(|| Nft::open().and_then(|mut nft| nft.apply(rules)))?;
        match error {
            Err(Error::Refused { what, why }) => {
                assert!(what.contains(word), "{word}: {what}: {why}");
                println!("{}: {why}", what.chars().take(60).collect::<String>());
            }
            other => return Err(format!("{word}: {other:?}").into()),
        }
        assert_eq!(generation(&ns)?, before, "{word}");
        assert_eq!(listing::of(&ns)?, listed, "{word}");
    }

    // A rule that never decides is left out, and named.
    let mut optional = good;
    optional.chains[2].rules.insert(2, impossible("nice_to_have", true));
    let applied = apply(&ns, &optional)?;
    assert_eq!(applied.unavailable.len(), 1);
    assert!(applied.unavailable[0].contains("nice_to_have"), "{applied:?}");
    let left = nft(&ns, |nft| nft.check(&optional))?;
    assert!(left.len() == 1 && left[0].is_optional(), "{left:?}");
    let before = generation(&ns)?;
    let again = apply(&ns, &optional)?;
    assert_eq!(again.unavailable, applied.unavailable);
    assert_eq!(generation(&ns)?, before);
    said(ns.enter(|| Nft::open().and_then(|mut nft| nft.remove()))?)?;
    Ok(())
}
