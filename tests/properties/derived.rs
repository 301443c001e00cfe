//! The same from one step earlier: random configurations and observations, through `derive`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use vpn_killswitch::config::{self, Config, EndpointConfig, Host, RouterMode};
use vpn_killswitch::observe::{Link, Observed, TimeSources};
use vpn_killswitch::policy::{Policy, derive};
use vpn_killswitch::ruleset::build;
use vpn_killswitch::types::{DevicePattern, Sorted};

use crate::oracle::passes;
use crate::world::{self, DEVICES, Traffic, any_addr, patterns, traffic};
use crate::{lives, runs};

const INTERFACES: [&str; 6] = ["lan", "guest", "vpn", "wan", "odd", "nowhere"];
const DEVICES_OF: [(&str, &[&str]); 5] = [
    ("lan", &["lan"]),
    ("guest", &["guest", "usb0"]),
    ("vpn", &["wg0", "tun1"]),
    ("wan", &["wan", "lo"]),
    ("odd", &["tun0", "lan"]),
];
const NAMES: [&str; 2] = ["vpn.example.net", "gone.example.net"];

fn endpoint() -> impl Strategy<Value = EndpointConfig> {
    let host = prop_oneof![
        any_addr().prop_map(Host::Addr),
        select(&NAMES[..]).prop_map(|n| Host::Name(n.to_owned())),
    ];
    let user = option::weighted(
        0.4,
        prop_oneof![5 => Just("openvpn"), 5 => Just("1001"), 1 => Just("nobody-here")],
    );
    (world::endpoint(), host, user).prop_map(|(e, host, user)| EndpointConfig {
        name: e.name,
        host,
        proto: e.proto,
        port: e.port,
        source_port: e.source_port,
        // A mark also where the drawn endpoint had a user: it may have none now.
        mark: e.mark.or(e.uid.map(|_| 7)),
        user: user.map(str::to_owned),
        line: 0,
    })
}

fn config() -> impl Strategy<Value = Config> {
    let names = |of: &'static [&'static str]| {
        subsequence(of, 0..=2).prop_map(|n| n.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    (
        (names(&INTERFACES[2..]), patterns(&world::TUNNELS), names(&INTERFACES[..4])),
        (patterns(&world::LOCALS), world::mode(), any::<[bool; 5]>()),
        (vec(endpoint(), 0..3), vec(world::exempt(), 0..3), select(&world::PASS_MARKS[..])),
    )
        .prop_map(|(a, (local_devices, router, flags), (endpoints, exempts, pass_mark))| {
            Config {
                ipsec: false,
                enabled: flags[0],
                tunnel_interfaces: a.0,
                tunnel_devices: a.1,
                local_interfaces: a.2,
                local_devices,
                router,
                reject: flags[1],
                port_forward_replies: flags[2],
                ntp: flags[3],
                bootstrap_dns: Vec::new(),
                log: flags[4],
                pass_mark,
                survive_sysupgrade: false,
                endpoints,
                exempts,
            }
        })
}

fn observed() -> impl Strategy<Value = Observed> {
    let links = subsequence(&DEVICES[..11], 0..=11).prop_flat_map(|names| {
        vec((any::<bool>(), vec(any_addr(), 0..3)), names.len()).prop_map(move |seen| {
            let link = |(name, (up, addrs)): (&&str, _)| Link {
                name: (*name).to_owned(),
                up,
                addrs,
                ..Link::default()
            };
            names.iter().zip(seen).map(link).collect::<Vec<_>>()
        })
    });
    (links, subsequence(&DEVICES_OF[..], 0..=5), vec(any_addr(), 0..3), vec(any_addr(), 0..4))
        .prop_map(|(links, interfaces, vpn_addrs, time_servers)| Observed {
            links,
            uplinks: vec!["wan".to_owned()],
            interfaces: interfaces
                .into_iter()
                .map(|(name, of)| (name.to_owned(), of.iter().map(|d| (*d).to_owned()).collect()))
                .collect(),
            hosts: Sorted::from_iter([(NAMES[0].to_owned(), vpn_addrs)]),
            time: TimeSources {
                servers: time_servers.into_iter().map(Host::Addr).collect(),
                from_dhcp: false,
            },
            users: Sorted::from_iter([("openvpn".to_owned(), world::USER)]),
            ..Observed::default()
        })
}

/// The patterns that a configuration asks for here, as text.
fn wanted(devices: &[DevicePattern], interfaces: &[String], seen: &Observed) -> BTreeSet<String> {
    let resolved = interfaces.iter().flat_map(|i| seen.interfaces.get(i).into_iter().flatten());
    let mut all: BTreeSet<_> = devices.iter().map(ToString::to_string).collect();
    all.extend(resolved.filter(|d| *d != "lo").cloned());
    all
}

fn text(patterns: &[DevicePattern]) -> BTreeSet<String> {
    patterns.iter().map(ToString::to_string).collect()
}

/// Whether one device name could fit both.
fn collide(a: &str, b: &str) -> bool {
    match (a.strip_suffix('*'), b.strip_suffix('*')) {
        (Some(a), Some(b)) => a.starts_with(b) || b.starts_with(a),
        (Some(a), None) => b.starts_with(a),
        (None, Some(b)) => a.starts_with(b),
        (None, None) => a == b,
    }
}

fn check(config: &Config, seen: &Observed, traffic: &Traffic) -> Result<(), TestCaseError> {
    let tunnels = wanted(&config.tunnel_devices, &config.tunnel_interfaces, seen);
    let locals = wanted(&config.local_devices, &config.local_interfaces, seen);
    let collision = tunnels.iter().any(|t| locals.iter().any(|l| collide(t, l)));
    let locked_out = config.enabled && locals.is_empty();

    let (policy, warnings) = match derive(config, seen) {
        Ok(derived) => derived,
        Err(errors) => {
            prop_assert!(collision || locked_out, "{errors:?}");
            return Ok(());
        }
    };
    prop_assert!(!collision && !locked_out);
    prop_assert_eq!(text(&policy.tunnels), tunnels);
    prop_assert_eq!(text(&policy.locals), locals);

    let links = || seen.links.iter();
    let on_tunnel = |a: &IpAddr| links().any(|l| policy.is_tunnel(&l.name) && l.addrs.contains(a));
    let elsewhere = |a: &IpAddr| links().any(|l| policy.is_local(&l.name) && l.addrs.contains(a));
    for n in 0..world::V4.len() * 2 {
        let addr = world::addr(n % 2 == 1, n / 2);
        let link_local = addr == world::ip("fe80::1");
        let guarded = on_tunnel(&addr) && !elsewhere(&addr) && !link_local;
        prop_assert_eq!(policy.tunnel_addrs.contains(&addr), guarded, "{}", addr);
        prop_assert_eq!(
            policy.time_servers.contains(&addr),
            config.ntp
                && config.router == RouterMode::Strict
                && seen.time.servers.contains(&Host::Addr(addr))
        );
    }
    prop_assert_eq!(policy.exempts.len(), config.exempts.iter().filter(|e| e.enabled).count());
    prop_assert!(policy.exempts.iter().all(|e| e.enabled));
    // An endpoint for a user who does not exist is for nobody.
    let known = |e: &&EndpointConfig| e.user.as_deref() != Some("nobody-here");
    for (got, asked) in policy.endpoints.iter().zip(config.endpoints.iter().filter(known)) {
        let addrs: BTreeSet<_> = match &asked.host {
            Host::Addr(a) => BTreeSet::from([*a]),
            Host::Name(n) => seen.hosts.get(n).into_iter().flatten().copied().collect(),
        };
        prop_assert_eq!(got.addrs.iter().copied().collect::<BTreeSet<_>>(), addrs);
        prop_assert_eq!(got.uid, asked.user.as_ref().map(|_| world::USER));
        prop_assert_eq!((got.proto, got.port, got.mark), (asked.proto, asked.port, asked.mark));
    }
    prop_assert_eq!(policy.endpoints.len(), config.endpoints.iter().filter(known).count());
    let leaky_local = policy.is_local("wan");
    let warned = warnings.iter().any(|w| w.code == "local-is-uplink" && w.degrades);
    prop_assert_eq!(warned, leaky_local);

    // What is in force when the file says "disabled" is not the policy's business.
    let rules = build(&policy);
    for flow in traffic.on(&policy) {
        prop_assert_eq!(lives(&rules, &flow), passes(&policy, &flow), "{:#?}", flow);
    }
    same_for_the_same(config, seen, &policy)
}

/// An apply compares what it wants with what is there: the order in which things were seen is
/// nothing that may differ.
fn same_for_the_same(
    config: &Config,
    seen: &Observed,
    policy: &Policy,
) -> Result<(), TestCaseError> {
    let mut seen = seen.clone();
    seen.links.reverse();
    seen.time.servers.reverse();
    for addrs in seen.hosts.values_mut() {
        addrs.reverse();
        addrs.extend_from_within(..);
    }
    for devices in seen.interfaces.values_mut() {
        devices.reverse();
        devices.extend_from_within(..);
    }
    let again = derive(config, &seen).map(|(policy, _)| policy);
    prop_assert_eq!(again.as_ref(), Ok(policy));
    Ok(())
}

proptest! {
    #![proptest_config(runs(1500))]

    #[test]
    fn a_policy_holds_what_was_asked_for_and_nothing_else(
        config in config(), seen in observed(), traffic in traffic()
    ) {
        check(&config, &seen, &traffic)?;
    }
}

fn link(name: &str, addr: &str) -> Link {
    Link { name: name.to_owned(), up: true, addrs: vec![addr.parse().unwrap()], ..Link::default() }
}

/// The provider's DHCP server hands the router the tunnel's own address: G9 must not go away.
#[test]
fn an_uplink_with_the_tunnels_address_does_not_open_it() {
    let config = config::parse(
        b"config killswitch\noption enabled 1\nlist tunnel_device tun0\nlist local_device lan\n",
    );
    let seen = Observed {
        links: vec![link("tun0", "10.8.0.2"), link("wan", "10.8.0.2"), link("lan", "192.168.1.1")],
        uplinks: vec!["wan".to_owned()],
        ..Observed::default()
    };
    let (policy, _) = derive(&config.unwrap(), &seen).unwrap();
    assert!(policy.tunnel_addrs.contains(&"10.8.0.2".parse().unwrap()));
}
