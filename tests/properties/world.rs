//! A small universe of devices, addresses and ports, and random policies and packets in it.
//!
//! Small on purpose: policies and packets draw from the same few names, so that they meet. A packet
//! can also be *aimed* at something that a policy lets out, and then miss it in a single field.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use vpn_killswitch::config::{DNS_PORTS, ExemptConfig, RouterMode};
use vpn_killswitch::names::Bootstrap;
use vpn_killswitch::policy::{Endpoint, Policy};
use vpn_killswitch::ruleset::Ruleset;
use vpn_killswitch::ruleset::eval::{Packet, Path, Trace, eval};
use vpn_killswitch::types::{DevicePattern, Mac, Net, Ports, Proto};

pub const DEVICES: [&str; 12] =
    ["lan", "guest", "usb0", "wg0", "tun0", "tun1", "ppp0", "wan", "wan2", "lanx", "eth0.2", "lo"];
pub const TUNNELS: [&str; 5] = ["wg0", "tun0", "tun1", "tun*", "ppp0"];
pub const LOCALS: [&str; 5] = ["lan", "guest", "usb0", "gu*", "l*"];
pub const V4: [&str; 11] = [
    "10.8.0.2",
    "10.9.0.2",
    "192.168.1.1",
    "192.168.1.50",
    "192.168.1.51",
    "192.168.2.7",
    "203.0.113.5",
    "203.0.113.6",
    "198.51.100.1",
    "224.0.0.251",
    "255.255.255.255",
];
pub const V6: [&str; 11] = [
    "fd08::2",
    "fd09::2",
    "2001:db8:1::1",
    "2001:db8:1::50",
    "2001:db8:1::51",
    "2001:db8:2::7",
    "2001:db8:ff::5",
    "2001:db8:ff::6",
    "fe80::1",
    "ff02::1:2",
    "ff02::16",
];
const NETS: [&str; 10] = [
    "192.168.1.50",
    "192.168.1.0/24",
    "192.168.0.0/16",
    "203.0.113.0/24",
    "198.51.100.1",
    "2001:db8:1::50",
    "2001:db8:1::/64",
    "2001:db8::/33",
    "2001:db8:ff::5",
    "fe80::/10",
];
pub const PASS_MARKS: [u32; 4] = [1, 1 << 28, 1 << 30, 1 << 31];
pub const PORTS: [u16; 16] =
    [53, 853, 5353, 5355, 123, 67, 68, 546, 547, 443, 444, 1194, 51820, 40000, 54, 0];
const PROTOS: [u8; 8] = [6, 17, 17, 1, 58, 47, 50, 132];
pub const USER: u32 = 1001;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn addr(v6: bool, n: usize) -> IpAddr {
    ip(if v6 { V6[n] } else { V4[n] })
}

pub fn any_addr() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0..V4.len()).prop_map(|(v6, n)| addr(v6, n))
}

pub fn patterns(universe: &'static [&'static str]) -> impl Strategy<Value = Vec<DevicePattern>> {
    subsequence(universe, 0..=3)
        .prop_map(|names| names.iter().map(|n| DevicePattern::parse(n).unwrap()).collect())
}

pub fn mac() -> impl Strategy<Value = Mac> {
    (1..=3u8).prop_map(|n| Mac([2, 0, 0, 0, 0, n]))
}

fn ports() -> impl Strategy<Value = Ports> {
    (select(&PORTS[..15]), 0..2u16).prop_map(|(first, more)| Ports { first, last: first + more })
}

/// Names as people write them, up to what the configuration allows.
fn name() -> impl Strategy<Value = String> {
    select(&["TV", "Büro", "Fernseher im Wohnzimmer oben 234", "\"; accept #", "日本"][..])
        .prop_map(str::to_owned)
}

/// Protocol, destination port and source port.
pub fn service() -> impl Strategy<Value = (Proto, Option<u16>, Option<u16>)> {
    let with_ports =
        (any::<bool>(), select(&PORTS[..14]), option::weighted(0.2, select(&PORTS[..14])));
    prop_oneof![
        4 => with_ports.prop_map(|(tcp, port, source)| {
            (if tcp { Proto::Tcp } else { Proto::Udp }, Some(port), source)
        }),
        1 => select(&PROTOS[3..]).prop_map(|n| (Proto::from_number(n), None, None)),
    ]
}

pub fn endpoint() -> impl Strategy<Value = Endpoint> {
    let who =
        (option::weighted(0.3, select(&[0xca6c_u32, 7][..])), option::weighted(0.3, Just(USER)));
    (name(), any::<bool>(), vec(any_addr(), 0..3), service(), who).prop_map(
        |(name, by_name, addrs, (proto, port, source_port), (mut mark, uid))| {
            // The configuration refuses an endpoint on a DNS port that anybody could use.
            if port.is_some_and(|p| DNS_PORTS.contains(&p)) && uid.is_none() {
                mark = mark.or(Some(7));
            }
            let host = "vpn.example.net".to_owned();
            let (source, problem) = Default::default();
            Endpoint {
                name,
                source,
                problem,
                host,
                by_name,
                addrs,
                proto,
                port,
                source_port,
                mark,
                uid,
            }
        },
    )
}

pub fn exempt() -> impl Strategy<Value = ExemptConfig> {
    let nets = || {
        prop_oneof![2 => Just(vec![]), 1 => subsequence(&NETS[..], 1..4)]
            .prop_map(|n| n.iter().map(|n| Net::parse(n).unwrap()).collect::<Vec<_>>())
    };
    let macs = prop_oneof![2 => Just(vec![]), 1 => vec(mac(), 1..3)];
    let dest_port = prop_oneof![2 => Just(vec![]), 1 => vec(ports(), 1..3)];
    let proto = option::weighted(0.4, select(&PROTOS[..]).prop_map(Proto::from_number));
    // Mostly from every local network.
    let devices = prop_oneof![3 => Just(vec![]), 1 => patterns(&LOCALS)];
    (name(), any::<bool>(), macs, nets(), nets(), dest_port, proto, devices)
        .prop_filter("names something", |e| !(e.2.is_empty() && e.3.is_empty() && e.4.is_empty()))
        .prop_map(
            |(name, enabled, src_mac, src_ip, dest_ip, mut dest_port, proto, local_devices)| {
                if proto.is_some_and(|p| !p.has_ports()) {
                    dest_port.clear();
                }
                let local_interfaces = Vec::new();
                ExemptConfig {
                    name,
                    enabled,
                    local_interfaces,
                    local_devices,
                    src_mac,
                    src_ip,
                    dest_ip,
                    dest_port,
                    proto,
                    line: 0,
                }
            },
        )
}

pub fn mode() -> impl Strategy<Value = RouterMode> {
    prop_oneof![3 => Just(RouterMode::Strict), 2 => Just(RouterMode::Dns), 1 => Just(RouterMode::Open)]
}

pub fn policy() -> impl Strategy<Value = Policy> {
    let tunnel_addrs =
        subsequence(vec!["10.8.0.2", "10.9.0.2", "fd08::2", "2001:db8:ff::6"], 0..=4)
            .prop_map(|a| a.into_iter().map(ip).collect::<Vec<_>>());
    (
        (patterns(&TUNNELS), patterns(&LOCALS), tunnel_addrs, mode()),
        (any::<bool>(), any::<bool>(), any::<bool>(), select(&PASS_MARKS[..]), any::<bool>()),
        (vec(endpoint(), 0..4), vec(any_addr(), 0..3), vec(exempt(), 0..4)),
    )
        .prop_map(|((tunnels, locals, tunnel_addrs, router), flags, lists)| Policy {
            tunnels,
            locals,
            tunnel_addrs,
            ipsec: flags.4,
            router,
            reject: flags.0,
            port_forward_replies: flags.1,
            log: flags.2,
            pass_mark: flags.3,
            endpoints: lists.0,
            time_servers: lists.1,
            bootstrap: Bootstrap::default(),
            exempts: lists.2,
        })
}

/// A packet of a connection, and the packet that opened the connection.
#[derive(Clone, Debug)]
pub struct Flow {
    pub packet: Packet,
    /// The opening packet as it came in; none when this packet opens, or the router opened.
    pub opener: Option<Packet>,
}

impl Flow {
    /// Runs the opening packet and then this one, which finds the connection's mark as left.
    pub fn judge<'a>(&self, ruleset: &'a Ruleset) -> Trace<'a> {
        eval(ruleset, &self.marked_by(ruleset))
    }

    /// The packet with the mark that `ruleset` left on its connection.
    pub fn marked_by(&self, ruleset: &Ruleset) -> Packet {
        let mut packet = self.packet.clone();
        if let Some(opener) = &self.opener {
            packet.conn_mark = eval(ruleset, opener).conn_mark;
        }
        packet
    }

    pub fn from(&self) -> Option<&str> {
        match &self.packet.path {
            Path::Forward { from, .. } | Path::Input { from } => Some(from),
            Path::Output { .. } => None,
        }
    }

    pub fn to(&self) -> Option<&str> {
        match &self.packet.path {
            Path::Forward { to, .. } | Path::Output { to } => Some(to),
            Path::Input { .. } => None,
        }
    }

    /// The device by which the connection came to be, if it came from outside the router.
    pub fn opened_at(&self) -> Option<&str> {
        match &self.opener {
            Some(Packet { path: Path::Input { from }, .. }) => Some(from),
            Some(_) => None,
            None if self.packet.conn_new => self.from(),
            None => None,
        }
    }
}

/// What a packet is aimed at.
#[derive(Clone, Copy, Debug)]
enum Aim {
    Nothing,
    Endpoint(usize),
    Exempt(usize),
    TunnelAddr(usize),
    Time(usize),
    Dns(u8),
    Dhcp,
    Neighbour(u8),
    Listener(u8),
}

/// The fields that aiming sets; one of them may stay as it was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    None,
    Source,
    Dest,
    Proto,
    SourcePort,
    DestPort,
    Icmp,
    Hops,
    Mac,
    Mark,
    User,
    Device,
}

#[derive(Clone, Debug)]
struct Draw {
    way: u8,
    from: usize,
    to: usize,
    opened_at: usize,
    state: u8,
    v6: bool,
    source: usize,
    dest: usize,
    proto: u8,
    ports: (u16, u16),
    icmp: u8,
    syn: bool,
    via: usize,
    dnat: bool,
    hops: u8,
    mac: Option<Mac>,
    mark: u8,
    uid: Option<u32>,
    foreign: u32,
    ipsec: Ipsec,
    aim: Aim,
    miss: Field,
}

/// What IPsec has to do with a packet, and with the one that opened its connection.
#[derive(Clone, Copy, Debug)]
struct Ipsec {
    into: bool,
    snat_out: bool,
    from: bool,
    opener_from: bool,
}

fn ipsec() -> impl Strategy<Value = Ipsec> {
    let flag = prop::bool::weighted;
    (flag(0.25), flag(0.3), flag(0.25), flag(0.25))
        .prop_map(|(into, snat_out, from, opener_from)| Ipsec { into, snat_out, from, opener_from })
}

fn aim() -> impl Strategy<Value = (Aim, Field)> {
    let aim = prop_oneof![
        3 => Just(Aim::Nothing),
        3 => (0..4usize).prop_map(Aim::Endpoint),
        3 => (0..4usize).prop_map(Aim::Exempt),
        1 => (0..4usize).prop_map(Aim::TunnelAddr),
        1 => (0..3usize).prop_map(Aim::Time),
        2 => (0..8u8).prop_map(Aim::Dns),
        1 => Just(Aim::Dhcp),
        1 => (133..=137u8).prop_map(Aim::Neighbour),
        1 => select(&[130_u8, 131, 132, 143][..]).prop_map(Aim::Listener),
    ];
    use Field::{Dest, DestPort, Device, Hops, Icmp, Mark, Proto, Source, SourcePort, User};
    let fields =
        [Source, Dest, Proto, SourcePort, DestPort, Icmp, Hops, Field::Mac, Mark, User, Device];
    let miss = prop_oneof![1 => Just(Field::None), 2 => select(fields.to_vec())];
    (aim, miss)
}

fn draw() -> impl Strategy<Value = Draw> {
    let device = || 0..DEVICES.len();
    let hops = select(&[1_u8, 64, 255][..]);
    let icmp = select(&[1_u8, 3, 8, 11, 12, 128, 131, 132, 133, 134, 135, 136, 137, 143][..]);
    // Most connections are opened properly, and most sources live where they came from.
    let extra = (prop::bool::weighted(0.8), device(), any::<bool>(), ipsec());
    let uid = option::weighted(0.5, select(&[0, USER, 65534][..]));
    (
        (0..5u8, device(), device(), device(), 0..4u8, any::<bool>()),
        (0..V4.len(), 0..V4.len(), select(&PROTOS[..]), select(&PORTS[..]), select(&PORTS[..])),
        (icmp, hops, option::weighted(0.8, mac()), 0..6u8, uid, any::<u32>()),
        aim(),
        extra,
    )
        .prop_map(|((way, from, to, opened_at, state, v6), b, c, (aim, miss), extra)| Draw {
            way,
            from,
            to,
            opened_at,
            state,
            v6,
            source: b.0,
            dest: b.1,
            proto: b.2,
            ports: (b.3, b.4),
            icmp: c.0,
            syn: extra.0,
            via: extra.1,
            dnat: extra.2,
            hops: c.1,
            mac: c.2,
            mark: c.3,
            uid: c.4,
            foreign: c.5,
            ipsec: extra.3,
            aim,
            miss,
        })
}

impl Draw {
    /// The packet in the world of `policy`.
    fn resolve(&self, policy: &Policy) -> Flow {
        let own = policy.pass_mark | policy.origin_mark();
        let foreign = self.foreign & !own;
        let mark = match self.mark {
            0 | 1 => 0,
            2 => policy.pass_mark,
            3 => policy.pass_mark | foreign,
            4 => policy.origin_mark(),
            _ => foreign,
        };
        let (from, to) = (DEVICES[self.from].to_owned(), DEVICES[self.to].to_owned());
        let mut packet = Packet {
            path: match self.way {
                0 | 1 => Path::Forward { from, to },
                2 => Path::Input { from },
                _ => Path::Output { to },
            },
            source: addr(self.v6, self.source),
            dest: addr(self.v6, self.dest),
            proto: self.proto,
            source_port: self.ports.0,
            dest_port: self.ports.1,
            icmp_type: self.icmp,
            tcp_syn: self.syn,
            source_via: Some(DEVICES[self.via].to_owned()),
            hop_limit: self.hops,
            source_mac: self.mac,
            mark,
            uid: self.uid,
            conn_new: self.state == 0,
            conn_reply: self.state > 1,
            conn_dnat: self.dnat,
            // The origin bit is never drawn: only the model puts it there.
            conn_mark: foreign,
            into_ipsec: self.ipsec.into,
            snat_out_of_ipsec: self.ipsec.into && self.ipsec.snat_out,
            from_ipsec: self.ipsec.from,
        };
        match &mut packet.path {
            Path::Output { .. } => (packet.source_mac, packet.from_ipsec) = (None, false),
            _ => packet.uid = None,
        }
        self.take_aim(policy, &mut packet);

        let opened_here = match packet.path {
            Path::Forward { .. } => false,
            Path::Input { .. } => packet.conn_reply,
            Path::Output { .. } => !packet.conn_reply,
        };
        let opener = (!packet.conn_new && !opened_here).then(|| Packet {
            path: Path::Input { from: DEVICES[self.opened_at].to_owned() },
            conn_new: true,
            conn_reply: false,
            source: if packet.conn_reply { packet.dest } else { packet.source },
            dest: if packet.conn_reply { packet.source } else { packet.dest },
            from_ipsec: self.ipsec.opener_from,
            ..packet.clone()
        });
        Flow { packet, opener }
    }

    /// Makes `p` fit what it is aimed at, except in the field that is to miss.
    fn take_aim(&self, policy: &Policy, p: &mut Packet) {
        let drawn = p.clone();
        let mut family = None;
        match self.aim {
            Aim::Nothing => return,
            Aim::Endpoint(n) => {
                let Some(e) = nth(&policy.endpoints, n) else { return };
                let Some(addr) = nth(&e.addrs, self.dest) else { return };
                p.dest = *addr;
                p.proto = e.proto.number();
                p.dest_port = e.port.unwrap_or(p.dest_port);
                p.source_port = e.source_port.unwrap_or(p.source_port);
                p.mark = e.mark.unwrap_or(p.mark);
                p.uid = e.uid.or(p.uid).filter(|_| matches!(p.path, Path::Output { .. }));
            }
            Aim::Exempt(n) => {
                let Some(e) = nth(&policy.exempts, n) else { return };
                let v6 = e
                    .src_ip
                    .iter()
                    .chain(&e.dest_ip)
                    .next()
                    .map_or(self.v6, |n| n.addr().is_ipv6());
                let of = |nets: &[Net]| nets.iter().find(|n| n.addr().is_ipv6() == v6).copied();
                family = Some(v6);
                p.source = of(&e.src_ip).map_or(addr(v6, self.source), |n| n.addr());
                p.dest = of(&e.dest_ip).map_or(addr(v6, self.dest), |n| n.addr());
                p.proto = e.proto.map_or(p.proto, Proto::number);
                p.dest_port = nth(&e.dest_port, self.dest).map_or(p.dest_port, |r| r.last);
                p.source_mac = nth(&e.src_mac, self.source).copied().or(p.source_mac);
            }
            Aim::TunnelAddr(n) => match nth(&policy.tunnel_addrs, n) {
                Some(addr) => p.dest = *addr,
                None => return,
            },
            Aim::Time(n) => {
                let Some(addr) = nth(&policy.time_servers, n) else { return };
                (p.dest, p.proto, p.dest_port) = (*addr, 17, 123);
            }
            Aim::Dns(n) => {
                p.proto = if n & 4 == 0 { 17 } else { 6 };
                p.dest_port = DNS_PORTS[usize::from(n & 3)];
            }
            Aim::Dhcp => {
                let (source, from, to) =
                    if self.v6 { ("fe80::1", 546, 547) } else { ("192.168.2.7", 68, 67) };
                (p.source, p.proto, p.source_port, p.dest_port) = (ip(source), 17, from, to);
            }
            Aim::Neighbour(kind) => {
                family = Some(true);
                (p.proto, p.icmp_type, p.hop_limit) = (58, kind, 255);
            }
            Aim::Listener(kind) => {
                family = Some(true);
                p.dest = ip("ff02::16");
                (p.proto, p.icmp_type, p.hop_limit) = (58, kind, 1);
            }
        }
        match self.miss {
            Field::None => {}
            Field::Source => p.source = drawn.source,
            Field::Dest => p.dest = drawn.dest,
            Field::Proto => p.proto = drawn.proto,
            Field::SourcePort => p.source_port = drawn.source_port,
            Field::DestPort => p.dest_port = drawn.dest_port,
            Field::Icmp => p.icmp_type = drawn.icmp_type,
            Field::Hops => p.hop_limit = drawn.hop_limit,
            Field::Mac => p.source_mac = drawn.source_mac,
            Field::Mark => p.mark = drawn.mark,
            Field::User => p.uid = drawn.uid,
            Field::Device => {}
        }
        // One family: the one aimed at, else the destination's.
        let v6 = family.unwrap_or(p.dest.is_ipv6());
        if p.dest.is_ipv6() != v6 {
            p.dest = addr(v6, self.dest);
        }
        if p.source.is_ipv6() != v6 {
            p.source = addr(v6, self.source);
        }
    }
}

fn nth<T>(list: &[T], n: usize) -> Option<&T> {
    list.get(n % list.len().max(1))
}

/// Packets, to be placed in the world of a policy.
#[derive(Clone, Debug)]
pub struct Traffic(Vec<Draw>);

impl Traffic {
    pub fn on<'a>(&'a self, policy: &'a Policy) -> impl Iterator<Item = Flow> + 'a {
        self.0.iter().map(|d| d.resolve(policy))
    }
}

pub fn traffic() -> impl Strategy<Value = Traffic> {
    vec(draw(), 24).prop_map(Traffic)
}
