//! The decision, entry by entry.

use std::collections::HashMap;

use super::*;
use crate::config;
use crate::observe::Observed;
use crate::ruleset::{Content, build, build::PAUSED};
use crate::types::left_aligned;

const CONFIG: &str = "
config killswitch
	option enabled 1
	list tunnel_device wg0
	list local_device br-lan
	list local_device br-guest
config endpoint
	option host 203.0.113.10
	option port 1194
	option proto tcp
	option mark 0x77
config exempt
	list src_ip 192.168.1.9
config exempt
	list src_mac 02:00:00:00:00:08
	list dest_port 443
	option proto tcp
";

/// Networks by the beginning of their addresses.
struct Routes {
    ways: Vec<(&'static str, Way)>,
    marked: Vec<(&'static str, Way)>,
    macs: HashMap<IpAddr, Mac>,
}

impl Oracle for Routes {
    fn route(&mut self, question: &Question) -> Way {
        let text = question.dest.to_string();
        let table = if question.mark == 0 { &self.ways } else { &self.marked };
        let found = table.iter().find(|(start, _)| text.starts_with(start));
        // Like the kernel with layer 2: nothing else is forwarded, and the router's own goes out.
        let otherwise = if question.from == 0 { device("wan0") } else { Way::Nowhere };
        found.map_or(otherwise, |(_, way)| way.clone())
    }

    fn mac(&mut self, addr: &IpAddr) -> Option<Mac> {
        self.macs.get(addr).copied()
    }
}

fn device(name: &str) -> Way {
    Way::Device(name.to_owned())
}

fn routes() -> Routes {
    Routes {
        ways: vec![
            ("192.168.1.1", Way::Here),
            ("192.168.1.", device("br-lan")),
            ("192.168.2.", device("br-guest")),
            ("192.168.3.", device("br-iot")),
            ("10.9.0.2", Way::Here),
            ("10.9.", device("wg0")),
            ("100.64.7.2", Way::Here),
            ("127.", Way::Here),
            ("2001:db8:1:1::1", Way::Here),
            ("2001:db8:1:1:", device("br-lan")),
            ("2001:db8:1:2:", device("br-guest")),
            ("fd09:", device("wg0")),
        ],
        marked: vec![("", device("wan0"))],
        macs: HashMap::from([("192.168.1.8".parse().unwrap(), Mac([2, 0, 0, 0, 0, 8]))]),
    }
}

fn links() -> Vec<Link> {
    let link = |index, name: &str, addrs: &[&str]| Link {
        name: name.to_owned(),
        index,
        addrs: addrs.iter().map(|a| a.parse().unwrap()).collect(),
        ..Link::default()
    };
    vec![
        link(1, "br-lan", &["192.168.1.1", "2001:db8:1:1::1"]),
        link(2, "br-guest", &["192.168.2.1"]),
        link(3, "br-iot", &["192.168.3.1"]),
        link(4, "wan0", &["100.64.7.2"]),
        link(5, "wg0", &["10.9.0.2"]),
    ]
}

/// `tcp 192.168.1.2:1000 192.0.2.80:7 192.0.2.80:7 100.64.7.2:1000`: protocol, then source and
/// destination of both directions; without the second they are the first, turned round.
fn entry(text: &str) -> Entry {
    let words: Vec<&str> = text.split(' ').collect();
    let proto = match words[0] {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        other => panic!("{other}"),
    };
    let side = |word: &str| {
        let (addr, port) = word.rsplit_once('/').unwrap_or((word, "0"));
        (addr.parse::<IpAddr>().unwrap(), port.parse::<u16>().unwrap())
    };
    let tuple = |from: &str, to: &str| {
        let ((source, source_port), (dest, dest_port)) = (side(from), side(to));
        Tuple { source, dest, proto, source_port, dest_port, icmp_type: 0 }
    };
    let orig = tuple(words[1], words[2]);
    let (from, to) = (words.get(3).unwrap_or(&words[2]), words.get(4).unwrap_or(&words[1]));
    let reply = tuple(from, to);
    let dnat = (orig.dest, orig.dest_port) != (reply.source, reply.source_port);
    Entry { orig, reply, dnat, mark: 0 }
}

struct Case {
    policy: Policy,
    rules: Ruleset,
    routes: Routes,
}

fn case(more: &str) -> Case {
    let text = CONFIG.replacen("\toption enabled 1\n", &format!("\toption enabled 1\n{more}"), 1);
    let config = config::parse(text.as_bytes()).unwrap();
    let policy = crate::policy::derive(&config, &Observed::default()).unwrap().0;
    Case { rules: build(&policy), policy, routes: routes() }
}

impl Case {
    fn doomed(&mut self, entry: &Entry) -> bool {
        let links = links();
        let world = World { policy: &self.policy, rules: &self.rules, links: &links };
        doomed(entry, &world, &mut self.routes)
    }

    fn judge(&mut self, table: &[(&str, bool, &str)]) {
        for (text, expected, why) in table {
            assert_eq!(self.doomed(&entry(text)), *expected, "{why}: {text}");
        }
    }
}

#[test]
fn a_connection_that_left_by_an_uplink_goes() {
    case("").judge(&[
        ("tcp 192.168.1.2/1 192.0.2.80/7 192.0.2.80/7 100.64.7.2/1", true, "masqueraded there"),
        ("udp 192.168.1.2/1 192.0.2.80/7 192.0.2.80/7 100.64.7.2/1", true, "likewise"),
        ("icmp 192.168.1.2 192.0.2.80 192.0.2.80 100.64.7.2", true, "likewise"),
        (
            "udp 192.168.1.2/1 192.0.2.80/7 192.0.2.80/7 100.64.7.9/1",
            true,
            "an address that is gone",
        ),
        ("udp 192.168.1.2/1 192.0.2.80/7", true, "not translated, and no way"),
        ("udp 2001:db8:1:1::2/1 2001:db8:80::80/7", true, "likewise"),
        ("tcp 192.168.3.2/1 192.0.2.80/7 192.0.2.80/7 100.64.7.2/1", true, "nobody's network"),
        ("tcp 10.9.0.1/1 192.0.2.80/7 192.0.2.80/7 100.64.7.2/1", true, "from the tunnel"),
        ("udp 192.168.1.2/1 203.0.113.10/51820 203.0.113.10/51820 100.64.7.2/1", true, "endpoint"),
    ]);
}

#[test]
fn a_connection_that_stays_inside_stays() {
    case("").judge(&[
        ("tcp 192.168.1.2/1 192.0.2.80/7 192.0.2.80/7 10.9.0.2/1", false, "through the tunnel"),
        ("tcp 192.168.1.2/1 10.9.0.1/7", false, "to the tunnel's network"),
        ("tcp 10.9.0.1/1 192.168.1.2/7", false, "from there"),
        ("tcp 10.9.0.1/1 192.168.1.1/22", false, "from there to the router"),
        ("udp 2001:db8:1:1::2/1 fd09::1/7", false, "IPv6"),
        ("tcp 192.168.1.2/1 192.168.1.1/22", false, "to the router"),
        ("tcp 192.168.1.2/1 100.64.7.2/22", false, "to its address outside"),
        ("tcp 192.168.1.2/1 192.168.2.2/22", false, "between local networks"),
        ("tcp 2001:db8:1:2::2/1 2001:db8:1:1::2/22", false, "IPv6"),
        ("udp 192.168.1.2/1 100.64.7.2/8080 192.168.1.3/7 192.168.1.1/1", false, "hairpin"),
        ("udp 192.168.1.2/1 100.64.7.2/8080 192.168.1.3/7 192.168.1.2/1", false, "without SNAT"),
        ("udp 192.168.1.2/5353 224.0.0.251/5353", false, "multicast"),
        ("udp 0.0.0.0/68 255.255.255.255/67", false, "DHCP"),
        ("tcp fe80::2/1 fe80::1/22", false, "link-local"),
        ("tcp 127.0.0.1/1 127.0.0.1/80", false, "the router with itself"),
        ("udp 192.168.1.1/1 192.168.1.2/7", false, "to a client"),
    ]);
}

#[test]
fn of_the_routers_own_only_tcp_goes_and_not_to_an_endpoint() {
    case("").judge(&[
        ("tcp 100.64.7.2/1 192.0.2.80/443", true, "mode strict"),
        ("udp 100.64.7.2/1 192.0.2.80/443", false, "would come back as one from outside"),
        ("icmp 100.64.7.2 192.0.2.80", false, "likewise"),
        ("tcp 100.64.7.2/1 203.0.113.10/1194", false, "an endpoint, whatever its mark"),
        ("tcp 100.64.7.2/1 203.0.113.10/443", true, "another port"),
        ("tcp 100.64.7.2/1 203.0.113.11/1194", true, "another address"),
    ]);
    case("\toption router dns\n").judge(&[
        ("tcp 100.64.7.2/1 192.0.2.80/443", false, "mode dns"),
        ("tcp 100.64.7.2/1 192.0.2.80/53", true, "names"),
    ]);
}

#[test]
fn one_from_outside_stays_while_its_answers_may_leave() {
    let to_router = entry("tcp 192.0.2.80/1 100.64.7.2/22");
    let forwarded = entry("udp 192.0.2.80/1 100.64.7.2/8080 192.168.1.2/7 192.0.2.80/1");
    let unmarked = entry("udp 192.0.2.80/1 100.64.7.2/22");
    let (mut without, mut with) = (case(""), case("\toption port_forward_replies 1\n"));
    let origin = without.policy.origin_mark();
    let marked = |entry: &Entry| Entry { mark: origin, ..entry.clone() };

    assert!(without.doomed(&to_router) && !without.doomed(&marked(&to_router)));
    assert!(!without.doomed(&unmarked), "the next packet would mark it");
    assert!(without.doomed(&forwarded) && without.doomed(&marked(&forwarded)));
    assert!(with.doomed(&forwarded) && !with.doomed(&marked(&forwarded)));

    // The default route leads into the tunnel; where it came in says what it was sent to.
    for case in [&mut without, &mut with] {
        case.routes.ways.push(("192.0.2.", device("wg0")));
    }
    assert!(without.doomed(&to_router) && without.doomed(&marked(&forwarded)));
    assert!(!with.doomed(&marked(&forwarded)));
}

#[test]
fn an_exempt_or_paused_client_keeps_its_connections() {
    let mut case = case("");
    case.judge(&[
        ("udp 192.168.1.9/1 192.0.2.80/7 192.0.2.80/7 100.64.7.2/1", false, "by address"),
        ("udp 192.168.1.9/1 192.0.2.80/7", false, "not translated"),
        ("tcp 192.168.1.8/1 192.0.2.80/443 192.0.2.80/443 100.64.7.2/1", false, "by MAC, port"),
        ("tcp 192.168.1.8/1 192.0.2.80/80 192.0.2.80/80 100.64.7.2/1", true, "another port"),
        ("tcp 192.168.1.7/1 192.0.2.80/443 192.0.2.80/443 100.64.7.2/1", true, "another MAC"),
    ]);
    let flow = entry("udp 192.168.1.2/1 192.0.2.80/7 192.0.2.80/7 100.64.7.2/1");
    assert!(case.doomed(&flow));
    let set = case.rules.sets.iter_mut().find(|s| s.name == PAUSED[0]).unwrap();
    assert_eq!(set.content, Content::Timed);
    set.fill([left_aligned(&[192, 168, 1, 2])].into_iter());
    assert!(!case.doomed(&flow));
    case.judge(&[("udp 192.168.1.3/1 192.0.2.80/7 192.0.2.80/7 100.64.7.2/1", true, "another")]);
}

#[test]
fn an_address_that_an_uplink_has_too_lies_outside() {
    let mut case = case("");
    let flow = entry("udp 192.168.1.2/1 192.0.2.80/7 192.0.2.80/7 10.9.0.2/1");
    assert!(!case.doomed(&flow));
    let mut links = links();
    links[3].addrs.push("10.9.0.2".parse().unwrap());
    let world = World { policy: &case.policy, rules: &case.rules, links: &links };
    assert!(doomed(&flow, &world, &mut case.routes));
}
