use super::super::{Policy, derive};
use super::*;
use crate::config::parse;
use crate::names::tests_known;
use crate::observe::{Link, TimeSources};
use crate::types::Proto;

/// A configuration with one local network and one tunnel; `more` are further lines.
fn config(more: &str) -> Config {
    let text = format!(
        "config killswitch\n option enabled 1\n list local_device br-lan\n\
         list tunnel_device wg0\n{more}"
    );
    parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
}

fn derived(more: &str, observed: &Observed) -> (Policy, Vec<Warning>) {
    derive(&config(more), observed).unwrap()
}

/// A server that a VPN's configuration names.
fn found(host: &str, device: Option<&str>) -> Found {
    Found {
        name: format!("peer at {host}"),
        host: Host::parse(host).unwrap(),
        port: Some(51820),
        proto: Proto::Udp,
        source_port: None,
        mark: None,
        user: Some("0".to_owned()),
        interface: None,
        device: device.and_then(|d| DevicePattern::parse(d).ok()),
        source: format!("/etc/{host}"),
        running: None,
    }
}

fn interface(name: &str, device: &str, dns: &[&str]) -> Interface {
    Interface {
        name: name.to_owned(),
        up: true,
        device: device.to_owned(),
        dns: addrs(dns),
        time: Vec::new(),
    }
}

fn addrs(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|a| a.parse().unwrap()).collect()
}

fn with_vpn(vpn: Vec<Found>) -> Observed {
    Observed { vpn, ..Observed::default() }
}

fn codes(warnings: &[Warning]) -> Vec<&'static str> {
    let mut codes: Vec<_> = warnings.iter().map(|w| w.code).collect();
    codes.retain(|c| !matches!(*c, "local-missing" | "clock-early"));
    codes
}

fn message<'a>(warnings: &'a [Warning], code: &str) -> &'a str {
    let of_code = warnings.iter().find(|w| w.code == code);
    &of_code.unwrap_or_else(|| panic!("no {code}: {warnings:?}")).message
}

#[test]
fn only_the_servers_of_listed_tunnels_may_be_reached() {
    let mut of_interface = found("192.0.2.3", None);
    of_interface.interface = Some("vpn".to_owned());
    let vpn = vec![
        found("192.0.2.1", Some("wg0")),
        found("192.0.2.2", Some("wg1")),
        found("192.0.2.2", Some("wg1")),
        of_interface,
    ];
    let (policy, warnings) = derived("", &with_vpn(vpn.clone()));
    let hosts: Vec<_> = policy.endpoints.iter().map(|e| e.host.as_str()).collect();
    assert_eq!(hosts, ["192.0.2.1"]);
    // Each VPN is named once, whatever number of servers it has.
    assert_eq!(codes(&warnings), ["vpn-unlisted", "vpn-unlisted"]);
    assert!(
        message(&warnings, "vpn-unlisted").contains("/etc/192.0.2.2 is not listed as a tunnel")
    );

    let (policy, warnings) = derived(" list tunnel_interface vpn\n", &with_vpn(vpn));
    assert_eq!(policy.endpoints.len(), 2);
    assert!(policy.endpoints.iter().any(|e| e.source == "/etc/192.0.2.3"));
    assert_eq!(codes(&warnings), ["interface-unknown", "vpn-unlisted"]);
}

#[test]
fn a_pattern_holds_for_the_devices_that_it_covers() {
    let text = "config killswitch\n option enabled 1\n list local_device br-lan\n\
                list tunnel_device 'tun*'\n";
    let config = parse(text.as_bytes()).unwrap();
    let vpn = vec![found("192.0.2.1", Some("tun3")), found("192.0.2.2", Some("tap0"))];
    let (policy, warnings) = derive(&config, &with_vpn(vpn)).unwrap();
    assert_eq!(policy.endpoints.len(), 1);
    assert_eq!(codes(&warnings), ["vpn-unlisted"]);
}

#[test]
fn ipsec_without_a_device_is_a_tunnel_only_where_that_is_said() {
    let vpn = || with_vpn(vec![found("192.0.2.1", None)]);
    let (policy, warnings) = derived("", &vpn());
    assert!(policy.endpoints.is_empty() && !policy.ipsec);
    assert_eq!(codes(&warnings), ["vpn-unlisted", "no-endpoint"]);
    let (policy, warnings) = derived(" option ipsec 1\n", &vpn());
    assert!(policy.endpoints.len() == 1 && policy.ipsec);
    assert!(codes(&warnings).is_empty());
    // One with a device that is not listed is none of its business.
    let (policy, _) =
        derived(" option ipsec 1\n", &with_vpn(vec![found("192.0.2.1", Some("wg1"))]));
    assert!(policy.endpoints.is_empty());
}

#[test]
fn what_would_open_more_than_the_tunnel_is_left_out() {
    let unsafe_ones = |change: fn(&mut Found)| {
        let mut one = found("192.0.2.1", Some("wg0"));
        change(&mut one);
        let (policy, warnings) = derived("", &with_vpn(vec![one]));
        (policy.endpoints.len(), codes(&warnings).contains(&"endpoint-unsafe"))
    };
    // The pass mark would open every layer for the tunnel's packets.
    assert_eq!(unsafe_ones(|f| f.mark = Some(0x1000_0001)), (0, true));
    assert_eq!(unsafe_ones(|f| f.mark = Some(0xca6c)), (1, false));
    // Nothing tells a tunnel's packets to port 53 from questions.
    assert_eq!(unsafe_ones(|f| (f.port, f.user) = (Some(53), None)), (0, true));
    assert_eq!(unsafe_ones(|f| f.port = Some(53)), (1, false));
    assert_eq!(
        unsafe_ones(|f| (f.port, f.user, f.source_port) = (Some(53), None, Some(7))),
        (1, false)
    );
}

#[test]
fn there_are_not_endlessly_many() {
    let vpn = (1..=ENDPOINT_MAX + 3).map(|n| {
        let mut one = found("192.0.2.1", Some("wg0"));
        one.port = u16::try_from(n).ok();
        one
    });
    let (policy, warnings) = derived("", &with_vpn(vpn.collect()));
    assert_eq!(policy.endpoints.len(), ENDPOINT_MAX);
    let told = message(&warnings, "endpoints-too-many");
    assert!(told.contains("67 VPN servers") && told.contains("first 64"), "{told}");
}

#[test]
fn each_name_is_asked_for_once() {
    let endpoint =
        "config endpoint\n option host B.example.net\n option port 1\n option proto udp\n";
    let mut observed = with_vpn(vec![
        found("b.example.net", Some("wg0")),
        found("a.example.net", Some("wg0")),
        found("192.0.2.1", Some("wg0")),
        found("unlisted.example.net", Some("wg1")),
        found("in-hosts.example.net", Some("wg0")),
    ]);
    observed.hosts.insert("in-hosts.example.net".to_owned(), addrs(&["192.0.2.9"]));
    observed.time.servers =
        ["time.example.net", "a.example.net"].iter().filter_map(|h| Host::parse(h)).collect();
    let names = ["a.example.net", "b.example.net", "time.example.net"];
    assert_eq!(derived(endpoint, &observed).0.bootstrap.names, names);
    // Where the router's programs may ask for themselves, nobody has to.
    let asked = |mode: &str| {
        derived(&format!(" option router {mode}\n{endpoint}"), &observed).0.bootstrap.names.len()
    };
    assert_eq!((asked("strict"), asked("dns"), asked("open")), (3, 3, 0));
}

#[test]
fn a_name_has_all_its_addresses_and_tells_the_latest() {
    let mut observed = with_vpn(vec![found("a.example.net", Some("wg0"))]);
    let (policy, warnings) = derived("", &observed);
    assert!(policy.endpoints[0].addrs.is_empty() && policy.endpoints[0].by_name);
    let told = message(&warnings, "endpoint-unresolved");
    assert!(told.contains("no uplink is up with a name server"), "{told}");
    assert_eq!(policy.bootstrap.addrs, [("a.example.net".to_owned(), Vec::new())]);

    observed.known = tests_known(&[("a.example.net", &["2001:db8::1", "192.0.2.1"])]);
    let (policy, warnings) = derived("", &observed);
    assert_eq!(policy.endpoints[0].addrs, addrs(&["192.0.2.1", "2001:db8::1"]));
    assert_eq!(policy.bootstrap.addrs[0].1, addrs(&["2001:db8::1", "192.0.2.1"]));
    assert!(codes(&warnings).is_empty());

    // What /etc/hosts says is not asked for, and counts alone.
    observed.hosts.insert("a.example.net".to_owned(), addrs(&["192.0.2.9"]));
    let (policy, _) = derived("", &observed);
    assert_eq!(policy.endpoints[0].addrs, addrs(&["192.0.2.9"]));
    assert!(policy.bootstrap.addrs.is_empty());
}

#[test]
fn why_there_is_no_address_is_told() {
    let mut observed = with_vpn(vec![found("a.example.net", Some("wg0"))]);
    observed.uplinks = vec!["wan".to_owned()];
    observed.resolvers = addrs(&["192.0.2.53"]);
    let told =
        |observed: &Observed| message(&derived("", observed).1, "endpoint-unresolved").to_owned();
    assert!(told(&observed).contains("it was not asked for yet"));
    let answer = crate::resolve::Answer {
        name: "a.example.net".to_owned(),
        result: Err("no answer from 192.0.2.53".to_owned()),
    };
    observed.known.take(&[answer], 1);
    assert!(told(&observed).contains("tunnel cannot reach it: no answer from 192.0.2.53."));
    assert_eq!(derived("", &observed).0.endpoints[0].problem, "no answer from 192.0.2.53");
    // In mode open nobody was asked, so that is no reason.
    let (_, warnings) = derived(" option router open\n", &observed);
    assert!(!message(&warnings, "endpoint-unresolved").contains("no answer"));
}

fn servers(more: &str, observed: &Observed) -> Vec<String> {
    let servers = derived(more, observed).0.bootstrap.servers;
    servers.iter().map(|(addr, device)| format!("{addr} {device}")).collect()
}

#[test]
fn the_uplinks_own_servers_are_asked_in_their_order_over_their_device() {
    let mut down = interface("wan2", "wan2", &["192.0.2.4"]);
    down.up = false;
    let observed = Observed {
        uplinks: vec!["wan".to_owned()],
        netifd: vec![
            interface("loopback", "lo", &["192.0.2.1"]),
            interface("lan", "br-lan", &["192.0.2.2"]),
            // Some network that nobody listed, with a server of its own.
            interface("iot", "br-iot", &["192.168.3.9"]),
            interface("vpn", "wg0", &["10.64.0.1"]),
            interface("wan", "wan", &["192.0.2.53", "127.0.0.1", "0.0.0.0", "192.0.2.54"]),
            interface("wan6", "wan", &["2001:db8::53", "192.0.2.53"]),
            interface("later", "", &["192.0.2.3"]),
            down,
        ],
        // Never where netifd knows better.
        resolvers: addrs(&["192.0.2.99"]),
        ..Observed::default()
    };
    let own = ["192.0.2.53 wan", "192.0.2.54 wan", "2001:db8::53 wan", "192.168.3.9 br-iot"];
    assert_eq!(servers("", &observed), own);
    // Chosen ones are asked instead, over the uplinks only.
    let chosen = " list bootstrap_dns 9.9.9.9\n list bootstrap_dns 2620:fe::fe\n";
    assert_eq!(servers(chosen, &observed), ["9.9.9.9 wan", "2620:fe::fe wan"]);
}

#[test]
fn without_netifd_those_of_resolv_conf_are_asked_over_every_uplink() {
    let observed = Observed {
        uplinks: ["br-lan", "lte0", "wan", "wg0"].map(str::to_owned).to_vec(),
        resolvers: addrs(&["192.0.2.53", "192.0.2.53"]),
        ..Observed::default()
    };
    assert_eq!(servers("", &observed), ["192.0.2.53 lte0", "192.0.2.53 wan"]);
}

#[test]
fn time_is_asked_of_those_who_are_listed_or_given() {
    let mut wan = interface("wan", "wan", &[]);
    wan.time = addrs(&["192.0.2.124"]);
    let mut lan = interface("lan", "br-lan", &[]);
    lan.time = addrs(&["192.0.2.125"]);
    let mut observed = Observed {
        netifd: vec![wan, lan],
        known: tests_known(&[("time.example.net", &["192.0.2.123"])]),
        time: TimeSources {
            servers: ["time.example.net", "gone.example.net", "192.0.2.126"]
                .iter()
                .filter_map(|h| Host::parse(h))
                .collect(),
            from_dhcp: true,
        },
        ..Observed::default()
    };
    let of = |more: &str, observed: &Observed| derived(more, observed).0.time_servers;
    assert_eq!(of("", &observed), addrs(&["192.0.2.123", "192.0.2.124", "192.0.2.126"]));
    assert!(of(" option ntp 0\n", &observed).is_empty());
    // Open anyway.
    assert!(of(" option router dns\n", &observed).is_empty());
    observed.time.from_dhcp = false;
    assert_eq!(of("", &observed), addrs(&["192.0.2.123", "192.0.2.126"]));
}

#[test]
fn a_clock_in_the_past_is_told_with_what_can_be_done() {
    let mut observed = Observed { clock_is_early: true, ..Observed::default() };
    let told = |more: &str, observed: &Observed| {
        message(&derived(more, observed).1, "clock-early").to_owned()
    };
    assert!(told("", &observed).contains("no time server is known"));
    assert!(told(" option router dns\n", &observed).contains("wait for the time service"));
    observed.time.servers = vec![Host::parse("192.0.2.123").unwrap()];
    assert!(told("", &observed).contains("1 time servers may be asked"));
    observed.clock_is_early = false;
    assert!(!derived("", &observed).1.iter().any(|w| w.code == "clock-early"));
}

#[test]
fn an_endpoint_of_nobody_is_no_endpoint() {
    let mut one = found("192.0.2.1", Some("wg0"));
    one.user = Some("openvpn".to_owned());
    let mut observed = with_vpn(vec![one]);
    observed.links = vec![Link { name: "br-lan".to_owned(), ..Link::default() }];
    let (policy, warnings) = derived("", &observed);
    assert!(policy.endpoints.is_empty());
    assert_eq!(codes(&warnings), ["user-unknown", "no-endpoint"]);
    observed.users.insert("openvpn".to_owned(), 110);
    assert_eq!(derived("", &observed).0.endpoints[0].uid, Some(110));
}
