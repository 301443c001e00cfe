use super::*;
use crate::config;
use crate::observe::Observed;
use crate::policy;
use crate::types::Mac;

const CONFIG: &str = "
config killswitch
 option enabled 1
 list tunnel_device wg0
 list local_device br-lan
config endpoint
 option host 203.0.113.10
 option port 51820
 option mark 0xca6c
config exempt
 option name TV
 list src_ip 192.168.1.7
config exempt
 option name Console
 list src_mac 00:11:22:aa:bb:cc
";

/// Two layers in force, or neither, and routes that prefer the tunnel.
struct Place1 {
    tunnel_up: bool,
    layers: bool,
    pass: u32,
    mac: Option<Mac>,
}

impl Oracle for Place1 {
    fn route(&mut self, q: &Question) -> Way {
        let device = |name: &str| Way::Device(name.to_owned());
        let IpAddr::V4(dest) = q.dest else { return Way::Nowhere };
        match dest.octets() {
            [192, 168, 1, 1] | [10, 9, 0, 2] => Way::Here,
            [192, 168, 1, _] => device("br-lan"),
            [203, 0, 113, 10] => device("wan0"),
            // Of this network nobody knows.
            [198, 51, 100, _] if self.layers && q.from != 0 => device(SINK),
            _ if self.tunnel_up && q.mark & self.pass == 0 => device("wg0"),
            _ if self.layers && q.from != 0 && q.mark & self.pass == 0 => device(SINK),
            _ => device("wan0"),
        }
    }

    fn mac(&mut self, _: &IpAddr) -> Option<Mac> {
        self.mac
    }
}

fn place() -> Place1 {
    Place1 { tunnel_up: false, layers: true, pass: config::DEFAULT_PASS_MARK, mac: None }
}

fn ask(oracle: &mut Place1, source: &str, target: &str) -> Explanation {
    let config = config::parse(CONFIG.as_bytes()).unwrap();
    let link = |name: &str, index, addr: &str| Link {
        name: name.into(),
        index,
        up: true,
        addrs: vec![addr.parse().unwrap()],
        ..Link::default()
    };
    let links = [
        link("br-lan", 1, "192.168.1.1"),
        link("wg0", 2, "10.9.0.2"),
        link("wan0", 3, "100.64.7.2"),
    ];
    let observed = Observed { links: links.to_vec(), ..Observed::default() };
    let (policy, _) = policy::derive(&config, &observed).unwrap();
    let rules = ruleset::build(&policy);
    let (installed, in_force) = (oracle.layers, oracle.layers);
    let layers = ["netfilter", "routing"].map(|name| Layer {
        name,
        installed,
        in_force,
        detail: String::new(),
    });
    let world = World { policy: &policy, rules: &rules, links: &links, layers: &layers };
    explain(&Asked::read(source, target, None).unwrap(), &world, oracle).unwrap()
}

#[test]
fn through_the_tunnel_it_passes_and_without_it_both_layers_refuse() {
    let mut up = Place1 { tunnel_up: true, ..place() };
    let e = ask(&mut up, "192.168.1.2", "192.0.2.80:443/tcp");
    assert_eq!(
        (e.verdict, e.place, e.rule.as_str()),
        (Verdict::Passes, Place::Tunnel, "fwd_tunnel")
    );
    assert_eq!((e.guarantee.as_str(), e.output.as_str()), ("G1", "wg0"));
    assert!(e.layers.iter().all(|l| l.says == Says::Passes));

    let e = ask(&mut place(), "192.168.1.2", "192.0.2.80:443/tcp");
    assert_eq!((e.verdict, e.rule.as_str()), (Verdict::Refused, "fwd_reject_tcp_1"));
    assert_eq!((e.place, e.output.as_str()), (Place::Outside, "wan0"));
    assert!(e.layers.iter().all(|l| l.says == Says::Refuses), "{e}");
}

#[test]
fn an_exemption_is_named() {
    let e = ask(&mut place(), "192.168.1.7", "192.0.2.80:443/tcp");
    assert_eq!((e.verdict, e.reason.as_str()), (Verdict::Passes, "exempt: TV"));
    assert_eq!((e.guarantee.as_str(), e.place), ("G8", Place::Outside));
    // That nobody refuses it does not make a route.
    let e = ask(&mut place(), "192.168.1.7", "198.51.100.1:443/tcp");
    assert_eq!((e.verdict, e.place), (Verdict::Unreachable, Place::Nowhere), "{e}");
    let e = ask(&mut place(), "192.168.1.2", "198.51.100.1:443/tcp");
    assert_eq!((e.verdict, e.place), (Verdict::Refused, Place::Nowhere), "{e}");
}

#[test]
fn without_the_senders_ethernet_address_a_refusal_is_not_certain() {
    let e = ask(&mut place(), "192.168.1.2", "192.0.2.80/icmp");
    assert!(!e.certain && e.notes.iter().any(|n| n.code == "mac-unknown"), "{e}");
    let mut known = Place1 { mac: Mac::parse("00:11:22:aa:bb:cc").ok(), ..place() };
    let e = ask(&mut known, "192.168.1.2", "192.0.2.80/icmp");
    assert!(e.certain && e.reason == "exempt: Console", "{e}");
}

#[test]
fn where_nothing_is_in_force_nothing_is_said_to_be() {
    let mut off = Place1 { layers: false, ..place() };
    let e = ask(&mut off, "192.168.1.2", "192.0.2.80:443/tcp");
    assert_eq!((e.verdict, e.place), (Verdict::Passes, Place::Outside));
    assert_eq!((e.reason.as_str(), e.rule.as_str()), ("protection is off", ""));
    assert!(e.layers.iter().all(|l| l.says != Says::Refuses && !l.in_force));
}

#[test]
fn the_router_is_judged_by_its_own_rules() {
    let e = ask(&mut place(), "router", "192.0.2.80:53/udp");
    assert_eq!((e.verdict, e.guarantee.as_str()), (Verdict::Refused, "G3"));
    // To its server, the VPN's own packets only.
    let e = ask(&mut place(), "192.168.1.1", "203.0.113.10:51820/udp");
    assert_eq!((e.verdict, e.rule.as_str()), (Verdict::Refused, "out_drop"));
    assert!(e.notes.iter().any(|n| n.code == "vpn-may"), "{e}");
    assert!(e.input.is_empty() && e.layers[1].says == Says::Nothing);
}

#[test]
fn what_is_for_the_router_is_not_refused() {
    let e = ask(&mut place(), "192.168.1.2", "192.168.1.1:22/tcp");
    assert_eq!((e.verdict, e.place), (Verdict::Passes, Place::Router));
    // But not by the tunnel's address (G9): from a local network that is what a stranger would do.
    let e = ask(&mut place(), "192.168.1.2", "10.9.0.2:22/tcp");
    assert_eq!((e.verdict, e.guarantee.as_str()), (Verdict::Refused, "G9"));
}

#[test]
fn questions_are_read_strictly() {
    let read = |source: &str, target: &str| Asked::read(source, target, None);
    let v6 = read("2001:db8::7", "[2001:db8::1]:443/udp").unwrap();
    assert_eq!((v6.port, v6.dest.to_string().as_str()), (Some(443), "2001:db8::1"));
    assert_eq!(read("2001:db8::7", "2001:db8::1/icmp").unwrap().proto, Proto::Icmpv6);
    for (source, target) in [
        ("192.168.1.7", "192.0.2.1"),
        ("192.168.1.7", "192.0.2.1/tcp"),
        ("192.168.1.7", "192.0.2.1:0/tcp"),
        ("192.168.1.7", "192.0.2.1:7/icmp"),
        ("192.168.1.7", "192.0.2.1:80/x"),
        ("192.168.1.7", "example.org:80/tcp"),
        ("192.168.1.7", "2001:db8::1/icmp"),
        ("192.168.1.7", "224.0.0.1/icmp"),
        ("192.168.1.7", "[2001:db8::1]443/tcp"),
        ("laptop", "192.0.2.1:80/tcp"),
    ] {
        assert!(read(source, target).is_err(), "{source} {target}");
    }
}
