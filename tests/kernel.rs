//! The model held to a real kernel: random policies are installed in a namespace, random packets are
//! really sent through it, and what each packet did is compared with what `eval` says.
//!
//! For every packet: which devices it left by, which rules' counters advanced (exactly those of the
//! trace), and what its sender was told. Replies are sent too, so that the state of connections
//! counts. `KERNEL_SEED` and `KERNEL_COUNT` (policies) vary the run.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code: a wrong index is a failed test"
)]

mod lab;
mod random;
mod wire;

use lab::ns::Ns;
use lab::{Res, wait_for};
use random::{DEVICES, MACS, OTHER_PROTOCOLS, Rng, address, device_behind, host, is_own, own};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vpn_killswitch::backend::Backend;
use vpn_killswitch::backend::iptables::Iptables;
use vpn_killswitch::backend::nft::Nft;
use vpn_killswitch::config::DNS_PORTS;
use vpn_killswitch::policy::Policy;
use vpn_killswitch::ruleset::build::{BLOCKED, PAUSED, PAUSED_DEVICES};
use vpn_killswitch::ruleset::eval::{Packet, Path, eval};
use vpn_killswitch::ruleset::{self, Action, Content, Hook, Key, Match, Ruleset, Verdict};
use vpn_killswitch::types::{Family, Mac, left_aligned};
use wire::{ACK, SYN, SYN_ACK, Spec, Wire};

/// First packets of connections for each policy; replies come on top.
const PACKETS: usize = 60;
/// How long a packet may take to do what it should. It is a bound, not a pause: the next packet is
/// sent as soon as everything has happened.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Rules that a run of the usual length must have met, or it has proved too little. Digits stand for
/// any number.
const MUST_MEET: [&str; 45] = [
    "in_tunnel_addr#",
    "mark_clear",
    "mark_from_uplink",
    "mark_from_uplink_tcp",
    "mark_dns_udp",
    "mark_dns_tcp",
    "mark_replies",
    "pause_network",
    "pause_client#",
    "exempt_#",
    "exempt_#_#",
    "exempt_#_tcp",
    "exempt_#_udp",
    "exempt_#_#_tcp",
    "exempt_#_#_udp",
    "fwd_tunnel",
    "fwd_local",
    "fwd_pass",
    "fwd_record#",
    "fwd_log#",
    "fwd_reject_tcp_#",
    "fwd_reject_#",
    "fwd_drop",
    "out_loopback",
    "out_tunnel",
    "out_local",
    "out_pass",
    "endpoint_#_#",
    "out_dns_udp",
    "out_dns_tcp",
    "out_dhcp#",
    "out_nd_rs",
    "out_nd_ns",
    "out_nd_na",
    "out_mld_report",
    "out_mld_done",
    "out_mld#_report",
    "out_time#",
    "out_replies",
    "out_quote#_#",
    "out_log",
    "out_drop",
    "answer: reset",
    "answer: prohibited",
    "packets",
];

/// What iptables does not count where these packets come through, or what a shorter run may go without.
const MAY_MISS: [&str; 3] = ["mark_dns_udp", "mark_dns_tcp", "mark_replies"];

#[test]
fn the_kernel_does_what_the_model_says() {
    if let Err(e) = differential(Firewall::Nft, 200) {
        panic!("{e}");
    }
}

#[test]
fn so_does_iptables_legacy() {
    if let Err(e) = differential(Firewall::Iptables("legacy"), 40) {
        panic!("{e}");
    }
}

#[test]
fn so_does_iptables_nft() {
    if let Err(e) = differential(Firewall::Iptables("nft"), 40) {
        panic!("{e}");
    }
}

/// What holds the rules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Firewall {
    Nft,
    /// These programs, of Debian's two kinds.
    Iptables(&'static str),
}

impl Firewall {
    /// Whether its counter of a rule says how many packets the rule met.
    fn counts(self, id: &str, redirected: bool) -> bool {
        let limited = id.starts_with("fwd_log") || id == "out_log";
        let not_there = id.starts_with("fwd_record");
        // In front of DNAT they see another destination; behind it they are asked again, uncounted.
        let marks = ["exempt_", "mark_dns", "mark_replies"].iter().any(|p| id.starts_with(p));
        let again = id.starts_with("again_");
        self == Self::Nft || !(limited || not_there || again || (marks && redirected))
    }
}

fn differential(firewall: Firewall, usual: usize) -> Res<()> {
    let (seed, count) = random::parameters(usual);
    let (router, mut bench) = Bench::new(firewall)?;
    let mut met = BTreeMap::new();
    let began = Instant::now();
    for n in 0..count as u64 {
        router
            .enter(|| bench.round(Rng::new(seed.wrapping_add(n)), &mut met))?
            .map_err(|e| format!("KERNEL_SEED={} KERNEL_COUNT=1: {e}", seed.wrapping_add(n)))?;
    }
    println!("{count} policies, {} packets in {:?}", met["packets"], began.elapsed());
    for (what, times) in &met {
        println!("  {what}: {times}");
    }
    if count >= usual {
        let must = MUST_MEET.iter().filter(|m| {
            firewall == Firewall::Nft || (firewall.counts(m, false) && !MAY_MISS.contains(m))
        });
        let missed: Vec<_> = must.filter(|m| !met.contains_key(**m)).collect();
        assert!(missed.is_empty(), "never met: {missed:?}");
    }
    Ok(())
}

/// The router's namespace and what is around it.
struct Bench {
    firewall: Firewall,
    programs: PathBuf,
    memory: PathBuf,
    router: Ns,
    /// Far ends of all cables, and the router's loopback.
    outside: Wire,
    loopback: Wire,
    /// The router's own side, for fences.
    inside: Wire,
    near: Vec<u32>,
    far: Vec<u32>,
    users: Vec<u32>,
    next_id: u16,
}

impl Bench {
    fn new(firewall: Firewall) -> Res<(Ns, Self)> {
        let (router, outside) = (Ns::new("router")?, Ns::new("outside")?);
        outside.sysctls(&[
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
        ])?;
        // The router is to say nothing by itself: what it says would be counted.
        router.sysctls(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv4/icmp_ratemask", "0"),
            ("ipv4/icmp_msgs_per_sec", "1000000"),
            ("ipv4/icmp_msgs_burst", "1000000"),
            ("ipv6/icmp/ratelimit", "0"),
            ("ipv6/conf/default/addr_gen_mode", "1"),
            ("ipv6/conf/default/router_solicitations", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/dad_transmits", "0"),
        ])?;
        let mut lines = String::new();
        for (n, name) in DEVICES.iter().enumerate() {
            lines += &format!(
                "link add {name} address 02:00:00:00:00:{n:02x} type veth \
                 peer name far{n} netns {}\n\
                 link set {name} arp off multicast off\nlink set {name} up\n\
                 address add {}/32 dev {name}\naddress add {}/128 dev {name} nodad\n\
                 route add 10.{n}.0.0/16 dev {name}\nroute add 2001:db8:{n:x}::/48 dev {name}\n",
                outside.path(),
                own(n, Family::V4),
                own(n, Family::V6),
            );
        }
        lines += "route add default dev eth0\nroute add ::/0 dev eth0\n";
        router.ip(&lines)?;
        for n in 0..DEVICES.len() {
            outside.ip(&format!("link set far{n} up"))?;
        }
        // Marks cannot come over a cable, so the traffic class says which one a packet is to have.
        // Of neighbour discovery only the test's own packets may go; they all have a number.
        // What arrives for the router is noted and ends there: nothing answers. Behind conntrack's
        // last hook, so that the connection counts.
        let marks: String = (1..=32).map(|n| format!("{n} : {:#x}, ", mark_of(n))).collect();
        let forwards = |family| -> String {
            (0..DEVICES.len()).map(|d| format!("{} : {}, ", 40 + d, host(d, family, 77))).collect()
        };
        let (forwards4, forwards6) = (forwards(Family::V4), forwards(Family::V6));
        router.nft(&format!(
            "table inet probe {{
                set seen4 {{ typeof ip id; size 65535; }}
                set seen6 {{ typeof ip6 flowlabel; size 65535; }}
                chain marks {{
                    type filter hook prerouting priority -310;
                    iifname \"lo\" return
                    meta mark set ip dscp map {{ {marks} 33 : 0xffffffff }}
                    meta mark set ip6 dscp map {{ {marks} 33 : 0xffffffff }}
                }}
                chain silence {{
                    type filter hook output priority -400;
                    icmpv6 type {{ 130-137, 143 }} ip6 flowlabel 0 drop
                }}
                chain forwards {{
                    type nat hook prerouting priority -100;
                    dnat ip to ip dscp map {{ {forwards4} }}
                    dnat ip6 to ip6 dscp map {{ {forwards6} }}
                }}
                chain arrived {{
                    type filter hook input priority 2147483647;
                    ct state invalid counter
                    add @seen4 {{ ip id }}
                    add @seen6 {{ ip6 flowlabel }}
                    drop
                }}
            }}"
        ))?;
        let indexes = |ns: &Ns, name: fn(usize) -> String| -> Res<Vec<u32>> {
            (0..DEVICES.len()).map(|n| ns.index(&name(n))).collect()
        };
        let mut users = vec![0, 1000, 65534];
        users.retain(|u| router.enter(|| wire::can_be(*u)).unwrap_or(false));
        let programs = match firewall {
            Firewall::Nft => PathBuf::new(),
            Firewall::Iptables(kind) => lab::iptables(kind)?,
        };
        let bench = Self {
            firewall,
            programs,
            memory: lab::ns::directory("memory")?,
            outside: outside.enter(Wire::open)??,
            loopback: router.enter(Wire::open)??,
            inside: router.enter(Wire::open)??,
            near: indexes(&router, |n| DEVICES[n].to_owned())?,
            far: indexes(&outside, |n| format!("far{n}"))?,
            users,
            next_id: 1,
            router: router.clone(),
        };
        Ok((router, bench))
    }

    /// Installs a policy and sends packets, in the router's namespace.
    fn round(&mut self, mut rng: Rng, met: &mut BTreeMap<String, u64>) -> Res<()> {
        let mut policy = random::policy(&mut rng);
        let memory = self.memory.clone();
        let mut backend = match self.firewall {
            Firewall::Nft => Backend::Nft(Nft::open().map_err(|e| e.to_string())?),
            Firewall::Iptables(_) => {
                Backend::Iptables(Iptables::open_in(self.programs.as_os_str(), &memory)?)
            }
        };
        backend.remove(&memory).map_err(|e| e.to_string())?;
        if self.firewall != Firewall::Nft && policy.ipsec {
            // Behind source translation there is no place for a rule.
            match backend.apply(&ruleset::build(&policy), &memory) {
                Err(e) if e.to_string().contains("snat_ipsec") => policy.ipsec = false,
                other => return Err(format!("IPsec was not refused: {other:?}").into()),
            }
        }
        let rules = ruleset::build(&policy);
        backend.apply(&rules, &memory).map_err(|e| format!("apply: {e}\n{policy:#?}"))?;
        let mut model = Model {
            rules: paused(&rules, &mut rng, &mut backend)?,
            connections: HashMap::new(),
            entries: Vec::new(),
        };
        self.router.sh(
            "conntrack -F 2>&1; nft 'flush set inet probe seen4; flush set inet probe seen6'",
        )?;

        let found = backend.check(Some(&rules)).map_err(|e| e.to_string())?;
        if !found.installed || !found.differences.is_empty() {
            return Err(format!("read back: {found:?}\n{policy:#?}").into());
        }
        let interest = Interest::of(&policy);
        let mut counters = read(&mut backend)?;
        let (mut delivered, mut blocked) = (BTreeSet::new(), BTreeSet::new());
        let mut sent = 0u64;
        for _ in 0..PACKETS {
            let mut case = self.first(&mut rng, &rules, &interest);
            loop {
                let mut expected = model.expect(&case);
                let redirected = case.forward_to.is_some() || case.forwarded;
                let counts = |id: &String| self.firewall.counts(id, redirected);
                expected.effect.counters.retain(|id, _| counts(id));
                let actual = self.send(&case, &expected, &mut backend, &mut counters)?;
                if actual != expected.effect {
                    return Err(format!(
                        "{case:#?}\nmodel:  {:#?}\nkernel: {actual:#?}\n{policy:#?}",
                        expected.effect
                    )
                    .into());
                }
                sent += 1;
                for (id, n) in &expected.effect.counters {
                    *met.entry(id.replace(|c: char| c.is_ascii_digit(), "#").replace("##", "#"))
                        .or_default() += n;
                }
                for answer in &expected.answers {
                    *met.entry((*answer).to_owned()).or_default() += 1;
                }
                delivered.extend(expected.delivered.then_some(case.spec.id));
                blocked.extend(expected.recorded);
                // An answer often follows, sometimes two, sometimes from elsewhere.
                if !rng.chance(45) {
                    break;
                }
                let Some(reply) = self.reply(&case, &mut rng) else { break };
                case = reply;
            }
        }
        *met.entry("packets".to_owned()).or_default() += sent;

        // Nothing may be under way any more, nothing may have been missed.
        self.fence()?;
        let late = self.drain()?;
        if !late.is_empty() {
            return Err(format!("late: {late:?}").into());
        }
        if read(&mut backend)? != counters {
            return Err("counters advanced late".into());
        }
        let arrived = self.arrived()?;
        if arrived != delivered {
            return Err(
                format!("arrived at the router: {arrived:?}, expected {delivered:?}").into()
            );
        }
        let mut recorded = BTreeSet::new();
        for set in BLOCKED {
            recorded
                .extend(backend.elements(set).map_err(|e| e.to_string())?.iter().map(|e| e.key));
        }
        if self.firewall == Firewall::Nft && recorded != blocked {
            return Err(format!("recorded {recorded:?}, expected {blocked:?}").into());
        }
        Ok(())
    }

    /// Sends one packet and waits until it has done what it should, or too long.
    fn send(
        &mut self,
        case: &Case,
        expected: &Expected,
        backend: &mut Backend,
        counters: &mut BTreeMap<String, u64>,
    ) -> Res<Effect> {
        match &case.origin {
            Origin::Outside { device, mac } => {
                let to = [2, 0, 0, 0, 0, *device as u8];
                self.outside.send(self.far[*device], to, mac.0, &case.spec.bytes())?;
            }
            Origin::Router { uid, mark, bound } => {
                let device = bound.map(|d| self.near[d]);
                wire::send_as(*uid, *mark, device, &case.spec)?;
            }
        }
        let redirected = case.forward_to.is_some() || case.forwarded;
        let end = Instant::now() + PATIENCE;
        let mut effect = Effect::default();
        loop {
            effect.seen.extend(self.drain()?);
            effect.seen.sort();
            let now = read(backend)?;
            effect.counters = now
                .iter()
                .filter_map(|(id, n)| {
                    let advanced = n - counters.get(id).copied().unwrap_or(0);
                    let counts = self.firewall.counts(id, redirected);
                    (advanced > 0 && counts).then(|| (id.clone(), advanced))
                })
                .collect();
            if effect == expected.effect || Instant::now() > end {
                *counters = now;
                return Ok(effect);
            }
            std::thread::yield_now();
        }
    }

    fn drain(&mut self) -> Res<Vec<String>> {
        let mut out = Vec::new();
        for frame in self.outside.drain()? {
            let device = self.far.iter().position(|i| *i == frame.device).unwrap_or(usize::MAX);
            out.push(describe(DEVICES.get(device).unwrap_or(&"?"), &frame));
        }
        for frame in self.loopback.drain()? {
            // What came from outside has been put there by this test.
            if !self.near.contains(&frame.device) {
                out.push(describe("lo", &frame));
            }
        }
        if self.outside.lost()? + self.loopback.lost()? > 0 {
            return Err("the capture lost packets".into());
        }
        Ok(out)
    }

    /// Sends a frame over every cable and waits until all have come through.
    fn fence(&mut self) -> Res<()> {
        let aim = self.outside.fences() + self.near.len() as u32;
        for device in &self.near {
            self.inside.send_fence(*device)?;
        }
        let mut more = Vec::new();
        wait_for("fences", 5.0, || {
            more.push(self.drain());
            self.outside.fences() >= aim
        })?;
        // Whatever came before a fence is an effect that nobody expected.
        for found in more {
            let found = found?;
            if !found.is_empty() {
                return Err(format!("late: {found:?}").into());
            }
        }
        self.inside.drain()?;
        Ok(())
    }

    /// The ids of the packets that reached the router itself. Resets that the kernel makes have 0.
    fn arrived(&self) -> Res<BTreeSet<u16>> {
        let text = self.router.sh("nft -j list table inet probe")?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        let items = json["nftables"].as_array().ok_or("no list")?;
        let elements = items.iter().filter_map(|i| i["set"]["elem"].as_array()).flatten();
        let ids = elements.filter_map(|e| u16::try_from(e.as_u64()?).ok());
        Ok(ids.filter(|id| *id != 0).collect())
    }

    /// The first packet of a connection.
    fn first(&mut self, rng: &mut Rng, rules: &Ruleset, interest: &Interest) -> Case {
        loop {
            let family = random::family(rng);
            let device = rng.below(DEVICES.len());
            let from_router = rng.chance(45);
            let mut spec = Spec {
                id: 0,
                source: own(device, family),
                dest: interest.address(rng, family),
                proto: interest.protocol(rng, family),
                source_port: interest.port(rng),
                dest_port: interest.port(rng),
                hops: rng.pick(&[64, 64, 255]),
                tcp_flags: if rng.chance(85) { SYN } else { ACK },
                dscp: 0,
            };
            if matches!(spec.proto, 1 | 58) {
                spec.dest_port = if spec.proto == 1 {
                    8
                } else {
                    rng.pick(&[128, 128, 131, 132, 133, 135, 136, 143])
                };
            }
            let origin = if from_router {
                let mark = if rng.chance(40) { rng.pick(&interest.marks) } else { 0 };
                let mut bound = None;
                if rng.chance(30) {
                    upkeep(rng, family, &mut spec);
                    if is_multicast(&spec.dest) {
                        bound = Some(device);
                    }
                }
                if rng.chance(10) && !is_multicast(&spec.dest) {
                    spec.dest = own(rng.below(DEVICES.len()), family);
                }
                Origin::Router { uid: rng.pick(&self.users), mark, bound }
            } else {
                if rng.chance(85) {
                    spec.source = host(device, family, 2 + rng.below(6) as u16);
                } else {
                    spec.source = interest.address(rng, family);
                }
                if rng.chance(30) {
                    spec.dest = interest.own(rng, family);
                }
                if rng.chance(30) {
                    spec.dscp =
                        if rng.chance(60) { interest.pass_dscp } else { 1 + rng.below(33) as u8 };
                }
                let mac = if rng.chance(80) { rng.pick(&MACS) } else { Mac([2, 9, 9, 9, 9, 9]) };
                Origin::Outside { device, mac }
            };
            let mut case = Case { origin, spec, forward_to: None, forwarded: false };
            if rng.chance(50) {
                aim(rng, rules, &mut case);
            }
            if let Origin::Outside { device, .. } = case.origin
                && matches!(case.spec.proto, 6 | 17)
                && rng.chance(25)
            {
                let to = rng.below(DEVICES.len());
                let at = own(rng.below(2), Family::of(&case.spec.source));
                if to != device && !interest.own.contains(&at) {
                    case.spec.dest = at;
                    case.spec.dscp = 40 + to as u8;
                    case.spec.tcp_flags = SYN;
                    case.forward_to = Some(host(to, Family::of(&at), 77));
                }
            }
            if let Some(case) = self.numbered(case) {
                return case;
            }
        }
    }

    /// An answer to a packet, by the way that it would take or, seldom, another one.
    fn reply(&mut self, case: &Case, rng: &mut Rng) -> Option<Case> {
        let s = &case.spec;
        if case.forwarded {
            return None;
        }
        let mut spec = Spec {
            source: case.forward_to.unwrap_or(s.dest),
            dest: s.source,
            source_port: s.dest_port,
            dest_port: s.source_port,
            tcp_flags: if s.tcp_flags == SYN { SYN_ACK } else { ACK },
            dscp: 0,
            hops: 64,
            ..s.clone()
        };
        if matches!(s.proto, 1 | 58) {
            spec.source_port = s.source_port;
            spec.dest_port = match s.dest_port {
                8 => 0,
                128 => 129,
                _ => return None,
            };
        }
        if !in_pools(&spec.source) || !in_pools(&spec.dest) {
            return None;
        }
        if s.proto == 6 && s.tcp_flags == SYN_ACK {
            return None;
        }
        let origin = if is_own(&spec.source) {
            Origin::Router { uid: 0, mark: 0, bound: None }
        } else {
            let mut device = device_behind(&spec.source);
            if rng.chance(15) {
                device = rng.below(DEVICES.len());
            }
            Origin::Outside { device, mac: rng.pick(&MACS) }
        };
        let forwarded = case.forward_to.is_some();
        self.numbered(Case { origin, spec, forward_to: None, forwarded })
    }

    /// Gives the packet its number; none if the kernel would not route it for reasons of its own.
    fn numbered(&mut self, mut case: Case) -> Option<Case> {
        let s = &case.spec;
        // Each family's ICMP in the other one is for the kernel a protocol that it does not know.
        if s.proto == if s.dest.is_ipv4() { 58 } else { 1 } || !self.users.contains(&case.user()) {
            return None;
        }
        // A process sends from an address of its own, or a link-local one; multicast by a device.
        if let Origin::Router { bound, .. } = case.origin
            && (bound.is_some() != is_multicast(&s.dest)
                || s.source.is_multicast()
                || (s.proto == 6 && !is_own(&s.source))
                || (bound.is_some() && s.proto == 6))
        {
            return None;
        }
        if let Origin::Outside { device, .. } = case.origin {
            let other = is_own(&s.dest) || device_behind(&s.dest) != device;
            if is_own(&s.source)
                || !in_pools(&s.source)
                || !in_pools(&s.dest)
                || !other
                || s.source == s.dest
            {
                return None;
            }
        }
        case.spec.id = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        Some(case)
    }
}

/// Makes the packet one that a rule is about, or that differs from it in one thing.
fn aim(rng: &mut Rng, rules: &Ruleset, case: &mut Case) {
    let from_router = matches!(case.origin, Origin::Router { .. });
    let fitting: Vec<_> = rules
        .rules()
        .filter(|(chain, _)| (chain.hook == Hook::Postrouting) == from_router)
        .filter(|(_, rule)| rule.matches.len() > 1)
        .collect();
    if fitting.is_empty() {
        return;
    }
    let (_, rule) = fitting[rng.below(fitting.len())];
    let spec = &mut case.spec;
    let element = |rng: &mut Rng, set: &str| -> Option<Key> {
        let Content::Fixed(ranges) = &rules.set(set)?.content else { return None };
        let (first, last) = ranges.get(rng.below(ranges.len().max(1)))?;
        Some(if rng.chance(50) { *first } else { *last })
    };
    let address = |key: Key, family: Family| edge(own(0, family), &key, 0);
    let mut family = Family::of(&spec.dest);
    for condition in &rule.matches {
        match condition {
            Match::Family(f) if *f != family => {
                family = *f;
                spec.source = host(device_behind(&spec.source), family, 3);
                spec.dest = host(device_behind(&spec.dest), family, 3);
            }
            Match::SourceIn(f, set) => {
                spec.source = element(rng, set).map_or(spec.source, |k| address(k, *f));
            }
            Match::DestIn(f, set) => {
                spec.dest = element(rng, set).map_or(spec.dest, |k| address(k, *f));
            }
            Match::SourceNet(_) => spec.source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9).into(),
            Match::Protocol(proto) => {
                spec.proto = *proto;
                match proto {
                    1 => spec.dest_port = 8,
                    58 => spec.dest_port = 128,
                    _ => {}
                }
            }
            Match::SourcePort(port) => spec.source_port = *port,
            Match::DestPort(port) => spec.dest_port = *port,
            Match::DestPortIn(set) => {
                let key = element(rng, set);
                spec.dest_port = key.map_or(443, |k| u16::from_be_bytes([k[0], k[1]]));
            }
            Match::NotProtocol(_) => spec.proto = 17,
            Match::IcmpType(kind) | Match::Icmpv6Type(kind) => spec.dest_port = (*kind).into(),
            Match::HopLimit(hops) => spec.hops = *hops,
            _ => {}
        }
        match (condition, &mut case.origin) {
            (Match::DestNet(_), Origin::Router { bound, .. }) => {
                spec.dest = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16).into();
                *bound = Some(rng.below(DEVICES.len()));
            }
            (Match::Mark { mask, value }, Origin::Router { mark, .. }) => {
                *mark = value | (rng.next() as u32 & !mask);
            }
            (Match::SocketUser(user), Origin::Router { uid, .. }) => *uid = *user,
            (Match::SourceMacIn(set), Origin::Outside { mac, .. }) => {
                if let Some([a, b, c, d, e, f, ..]) = element(rng, set) {
                    *mac = Mac([a, b, c, d, e, f]);
                }
            }
            (Match::InDevice(set, wanted), Origin::Outside { device, .. }) => {
                let is_in = |d: &usize| {
                    let key = left_aligned(DEVICES[*d].as_bytes());
                    rules.set(set).is_some_and(|s| s.contains(&key)) == *wanted
                };
                let fitting: Vec<usize> = (0..DEVICES.len()).filter(is_in).collect();
                *device = if fitting.is_empty() { *device } else { rng.pick(&fitting) };
            }
            _ => {}
        }
    }
    if rng.chance(60) {
        return;
    }
    match (rng.below(6), &mut case.origin) {
        (0, _) if !is_multicast(&spec.dest) => {
            spec.dest = host(device_behind(&spec.dest), family, 9)
        }
        (1, _) if spec.proto != 58 && spec.proto != 1 => spec.dest_port ^= 1 << rng.below(16),
        (2, _) => spec.source_port ^= 1 << rng.below(16),
        (3, _) if spec.proto == 6 => spec.proto = 17,
        (3, _) if spec.proto == 17 => spec.proto = 6,
        (4, Origin::Router { mark, .. }) => *mark ^= 1 << rng.below(32),
        (4, Origin::Outside { mac, .. }) => mac.0[5] ^= 1,
        (5, Origin::Router { uid, .. }) => *uid = 1000,
        (5, Origin::Outside { device, .. }) => *device = rng.below(DEVICES.len()),
        _ => {}
    }
}

/// Turns the packet into one that a link needs, or nearly.
fn upkeep(rng: &mut Rng, family: Family, spec: &mut Spec) {
    if family == Family::V4 {
        (spec.proto, spec.source_port, spec.dest_port) = (17, 68, rng.pick(&[67, 67, 67, 68, 69]));
        return;
    }
    let near = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);
    if rng.chance(30) {
        (spec.proto, spec.source_port, spec.dest_port) = (17, 546, rng.pick(&[547, 547, 546]));
        spec.dest = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2).into();
        if rng.chance(70) {
            spec.source = near.into();
        }
        return;
    }
    spec.proto = 58;
    spec.dest_port = rng.pick(&[131, 132, 133, 135, 136, 143, 134, 137]);
    spec.hops = rng.pick(&[1, 1, 255, 255, 64]);
    if rng.chance(60) {
        spec.dest = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16).into();
        spec.source = near.into();
    }
}

/// Adds elements to the pause sets, in the kernel and in the model.
fn paused(wanted: &Ruleset, rng: &mut Rng, backend: &mut Backend) -> Res<Ruleset> {
    let mut rules = wanted.clone();
    if rng.chance(40) {
        return Ok(rules);
    }
    let mut elements = Vec::new();
    let mut add = |set: &'static str, key: Key| {
        elements.push((set, key));
        let set = rules.sets.iter_mut().find(|s| s.name == set);
        if let Some(set) = set {
            set.content = Content::Fixed(vec![(key, key)]);
        }
    };
    let device = DEVICES[rng.below(DEVICES.len())];
    add(PAUSED_DEVICES, left_aligned(device.as_bytes()));
    for (family, set) in Family::BOTH.into_iter().zip(PAUSED) {
        let client = host(rng.below(DEVICES.len()), family, 2 + rng.below(6) as u16);
        add(set, key(&client));
    }
    backend.add_timed(wanted, &elements, 3_600_000).map_err(|e| e.to_string())?;
    Ok(rules)
}

fn key(addr: &IpAddr) -> Key {
    match addr {
        IpAddr::V4(a) => left_aligned(&a.octets()),
        IpAddr::V6(a) => a.octets(),
    }
}

fn is_multicast(addr: &IpAddr) -> bool {
    addr.is_multicast()
}

fn mark_of(dscp: u8) -> u32 {
    match dscp {
        0 => 0,
        33 => u32::MAX,
        n if n > 33 => 0,
        n => 1 << (n - 1),
    }
}

fn read(backend: &mut Backend) -> Res<BTreeMap<String, u64>> {
    let counters = backend.counters().map_err(|e| e.to_string())?;
    Ok(counters.into_iter().map(|c| (c.name, c.packets)).collect())
}

/// What a captured frame is, in the words that the model's expectation uses.
fn describe(device: &str, frame: &wire::Frame) -> String {
    let (p, id) = (&frame.packet, frame.id);
    match (p.src, p.dst) {
        (Some(_), Some(dest)) if frame.is_about => {
            let (kind, code) = p.icmp().unwrap_or_default();
            format!("{device}: ICMP {kind}/{code} to {dest} about {id}")
        }
        (Some(source), Some(dest)) if p.proto == 6 && p.flags & 4 != 0 => {
            format!("{device}: reset {source}:{} to {dest}:{}", p.sport, p.dport)
        }
        (Some(_), Some(_)) => format!("{device}: packet {id}"),
        _ => format!("{device}: {p}"),
    }
}

/// A packet to be sent.
#[derive(Clone, Debug)]
struct Case {
    origin: Origin,
    spec: Spec,
    /// Where a port forward leads it.
    forward_to: Option<IpAddr>,
    /// It is an answer to a packet that a port forward led.
    forwarded: bool,
}

impl Case {
    fn user(&self) -> u32 {
        if let Origin::Router { uid, .. } = self.origin { uid } else { 0 }
    }
}

#[derive(Clone, Debug)]
enum Origin {
    Outside { device: usize, mac: Mac },
    Router { uid: u32, mark: u32, bound: Option<usize> },
}

/// What a packet did, as far as it can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Effect {
    seen: Vec<String>,
    counters: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Expected {
    effect: Effect,
    delivered: bool,
    recorded: Option<Key>,
    answers: Vec<&'static str>,
}

/// What the policy talks about: packets are made of it, so that they meet its rules.
struct Interest {
    addresses: Vec<IpAddr>,
    own: Vec<IpAddr>,
    ports: Vec<u16>,
    protocols: Vec<u8>,
    marks: Vec<u32>,
    pass_dscp: u8,
}

impl Interest {
    fn of(policy: &Policy) -> Self {
        let mut addresses: Vec<IpAddr> = policy.time_servers.clone();
        let mut ports: Vec<u16> = DNS_PORTS.to_vec();
        ports.extend([123, 80]);
        let mut protocols = vec![6, 17, 17];
        let (pass, origin) = (policy.pass_mark, policy.origin_mark());
        let mut marks = vec![pass, pass, origin, !pass, u32::MAX, 1 << 9];
        for e in &policy.endpoints {
            for _ in 0..3 {
                addresses.extend(&e.addrs);
                ports.extend(e.port.iter().chain(&e.source_port));
                protocols.push(e.proto.number());
                marks.extend(e.mark.iter().chain(&e.mark).chain(&e.mark.map(|m| m | pass)));
            }
        }
        for e in &policy.exempts {
            for net in e.src_ip.iter().chain(&e.dest_ip) {
                let (first, last) = net.bounds();
                addresses.extend([edge(net.addr(), &first, 0), edge(net.addr(), &last, 0)]);
                addresses.extend([edge(net.addr(), &first, -1), edge(net.addr(), &last, 1)]);
            }
            for range in &e.dest_port {
                ports.extend([range.first, range.last, range.first]);
                ports.extend([range.first.saturating_sub(1).max(1), range.last.saturating_add(1)]);
            }
            protocols.extend(e.proto.map(|p| p.number()));
        }
        addresses.retain(|a| !is_own(a) && in_pools(a));
        let own = policy.tunnel_addrs.iter().copied().filter(is_own).collect();
        let pass_dscp = 1 + pass.trailing_zeros() as u8;
        Self { addresses, own, ports, protocols, marks, pass_dscp }
    }

    fn address(&self, rng: &mut Rng, family: Family) -> IpAddr {
        let fitting: Vec<IpAddr> =
            self.addresses.iter().copied().filter(|a| Family::of(a) == family).collect();
        if fitting.is_empty() || rng.chance(50) { address(rng, family) } else { rng.pick(&fitting) }
    }

    fn own(&self, rng: &mut Rng, family: Family) -> IpAddr {
        let fitting: Vec<IpAddr> =
            self.own.iter().copied().filter(|a| Family::of(a) == family).collect();
        if fitting.is_empty() || rng.chance(50) {
            own(rng.below(DEVICES.len()), family)
        } else {
            rng.pick(&fitting)
        }
    }

    fn port(&self, rng: &mut Rng) -> u16 {
        if rng.chance(70) { rng.pick(&self.ports) } else { rng.port() }
    }

    fn protocol(&self, rng: &mut Rng, family: Family) -> u8 {
        let proto =
            if rng.chance(80) { rng.pick(&self.protocols) } else { rng.pick(&OTHER_PROTOCOLS) };
        match (proto, family) {
            (1, Family::V6) => 58,
            (58, Family::V4) => 1,
            _ => proto,
        }
    }
}

/// The address beside one end of a network.
fn edge(like: IpAddr, key: &Key, by: i8) -> IpAddr {
    let number = u128::from_be_bytes(*key);
    match like {
        IpAddr::V4(_) => {
            let number = (number >> 96) as u32;
            IpAddr::V4(number.wrapping_add_signed(by.into()).into())
        }
        IpAddr::V6(_) => IpAddr::V6(number.wrapping_add_signed(by.into()).into()),
    }
}

/// Whether it is in one of the networks that are routed by name, and no network's first address.
fn in_pools(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.octets()[0] == 10 && usize::from(a.octets()[1]) < DEVICES.len(),
        IpAddr::V6(a) => {
            let s = a.segments();
            s[..2] == [0x2001, 0xdb8] && usize::from(s[2]) < DEVICES.len() && s[3..] != [0; 5]
        }
    }
}

/// The model with the little memory that connections need.
struct Model {
    rules: Ruleset,
    connections: HashMap<Tuple, (usize, bool)>,
    /// Of each connection: its mark, whether it has been answered, and whether it has DNAT.
    entries: Vec<(u32, bool, bool)>,
}

/// Protocol, source, its port, destination, its port: as conntrack tells connections apart.
type Tuple = (u8, IpAddr, u16, IpAddr, u16);

#[derive(Clone, Copy, Default)]
struct State {
    reply: bool,
    new: bool,
    mark: u32,
    dnat: bool,
}

impl Model {
    fn expect(&mut self, case: &Case) -> Expected {
        let s = &case.spec;
        let state = self.state(case);
        // The address behind DNAT, for a connection that has one.
        let dest =
            if state.dnat && !state.reply { case.forward_to.unwrap_or(s.dest) } else { s.dest };
        let to = match &case.origin {
            _ if is_own(&dest) => "lo",
            Origin::Router { bound: Some(device), .. } => DEVICES[*device],
            _ => DEVICES[device_behind(&dest)],
        };
        let to = to.to_owned();
        let mut packet = Packet {
            path: Path::Output { to: to.clone() },
            source: s.source,
            dest,
            proto: s.proto,
            source_port: if matches!(s.proto, 6 | 17) { s.source_port } else { 0 },
            dest_port: if matches!(s.proto, 6 | 17) { s.dest_port } else { 0 },
            icmp_type: if matches!(s.proto, 1 | 58) { s.dest_port as u8 } else { 0 },
            tcp_syn: s.tcp_flags == SYN,
            source_via: None,
            conn_dnat: state.dnat,
            hop_limit: s.hops,
            source_mac: None,
            mark: mark_of(s.dscp),
            uid: None,
            conn_new: state.new,
            conn_reply: state.reply,
            conn_mark: state.mark,
            into_ipsec: false,
            snat_out_of_ipsec: false,
            from_ipsec: false,
        };
        match &case.origin {
            Origin::Outside { device, mac } => {
                let from = DEVICES[*device].to_owned();
                packet.source_mac = Some(*mac);
                packet.source_via = Some(DEVICES[device_behind(&s.source)].to_owned());
                packet.path =
                    if to == "lo" { Path::Input { from } } else { Path::Forward { from, to } };
            }
            Origin::Router { uid, mark, .. } => (packet.uid, packet.mark) = (Some(*uid), *mark),
        }
        let mut out = Expected::default();
        let verdict = self.run(&mut packet, &format!("packet {}", s.id), &mut out);
        let known = self.connections.contains_key(&tuple(s));
        // What the first chain drops conntrack never sees.
        let early = out.effect.counters.keys().any(|id| id.starts_with("in_tunnel_addr"));
        if let Some((n, true)) = self.connections.get(&tuple(s)).copied()
            && !early
        {
            self.entries[n].1 = true;
        }
        if verdict.passes() {
            self.confirm(case, packet.conn_mark);
        } else if let Some((n, _)) = self.connections.get(&tuple(s)).copied() {
            self.entries[n].0 = packet.conn_mark;
        }
        let tracked = state.new || known;
        match verdict {
            Verdict::Accept | Verdict::Drop => {}
            Verdict::RejectTcp => {
                let to = if is_own(&s.source) { "lo" } else { DEVICES[device_behind(&s.source)] };
                let mut reset = Packet {
                    path: Path::Output { to: to.to_owned() },
                    source: s.dest,
                    dest: s.source,
                    source_port: s.dest_port,
                    dest_port: s.source_port,
                    hop_limit: 64,
                    source_mac: None,
                    tcp_syn: false,
                    mark: 0,
                    uid: None,
                    conn_new: false,
                    conn_reply: tracked && !state.reply,
                    conn_mark: if tracked { packet.conn_mark } else { 0 },
                    into_ipsec: false,
                    snat_out_of_ipsec: false,
                    from_ipsec: false,
                    ..packet
                };
                let text =
                    format!("reset {}:{} to {}:{}", s.dest, s.dest_port, s.source, s.source_port);
                if self.run(&mut reset, &text, &mut out).passes() {
                    out.answers.push("answer: reset");
                    if to == "lo" {
                        out.answers.push("answer: reset to the router itself");
                    }
                }
                out.delivered = false;
            }
            Verdict::RejectAdmin => {
                let to = device_behind(&s.source);
                let v4 = s.source.is_ipv4();
                let mut error = Packet {
                    path: Path::Output { to: DEVICES[to].to_owned() },
                    source: own(to, Family::of(&s.source)),
                    dest: s.source,
                    proto: if v4 { 1 } else { 58 },
                    source_port: 0,
                    dest_port: 0,
                    icmp_type: if v4 { 3 } else { 1 },
                    tcp_syn: false,
                    source_via: None,
                    conn_dnat: false,
                    hop_limit: 64,
                    source_mac: None,
                    mark: 0,
                    uid: None,
                    conn_new: false,
                    // The error belongs to the connection only if that was let in before.
                    conn_reply: known && !state.reply,
                    conn_mark: if known { packet.conn_mark } else { 0 },
                    into_ipsec: false,
                    snat_out_of_ipsec: false,
                    from_ipsec: false,
                };
                let code = if v4 { "3/13" } else { "1/1" };
                let text = format!("ICMP {code} to {} about {}", s.source, s.id);
                if self.run(&mut error, &text, &mut out).passes() {
                    out.answers.push("answer: prohibited");
                }
            }
        }
        out.effect.seen.sort();
        out
    }

    /// Runs a packet all its way and notes what can be seen of it.
    fn run(&self, packet: &mut Packet, text: &str, out: &mut Expected) -> Verdict {
        let mut verdict = self.eval(packet, out);
        let looped = matches!(&packet.path, Path::Output { to } if to == "lo");
        if verdict.passes() {
            if let Path::Forward { to, .. } | Path::Output { to } = &packet.path {
                out.effect.seen.push(format!("{to}: {text}"));
            }
            if looped {
                packet.path = Path::Input { from: "lo".to_owned() };
                verdict = self.eval(packet, out);
            }
            out.delivered = verdict.passes() && matches!(packet.path, Path::Input { .. });
        }
        verdict
    }

    fn eval(&self, packet: &mut Packet, out: &mut Expected) -> Verdict {
        let trace = eval(&self.rules, packet);
        for step in &trace.steps {
            *out.effect.counters.entry(step.rule.id.clone()).or_default() += 1;
            if step.rule.actions.iter().any(|a| matches!(a, Action::Record(..))) {
                out.recorded = Some(key(&packet.source));
            }
        }
        (packet.mark, packet.conn_mark) = (trace.mark, trace.conn_mark);
        trace.verdict
    }

    /// What conntrack thinks of a packet.
    fn state(&self, case: &Case) -> State {
        let s = &case.spec;
        if s.proto == 58 && matches!(s.dest_port, 130..=137 | 143) {
            return State::default();
        }
        let found = self.connections.get(&tuple(s)).copied();
        if let Some((n, reply)) = found {
            let (mark, answered, dnat) = self.entries[n];
            return State { reply, new: !reply && !answered, mark, dnat };
        }
        let opens = match s.proto {
            6 => s.tcp_flags != SYN_ACK,
            1 => s.dest_port == 8,
            58 => s.dest_port == 128,
            _ => true,
        };
        State { new: opens, dnat: opens && case.forward_to.is_some(), ..State::default() }
    }

    fn confirm(&mut self, case: &Case, mark: u32) {
        let s = &case.spec;
        if let Some((n, _)) = self.connections.get(&tuple(s)).copied() {
            self.entries[n].0 = mark;
            return;
        }
        let state = self.state(case);
        if state.new {
            let n = self.entries.len();
            self.entries.push((mark, false, state.dnat));
            self.connections.insert(tuple(s), (n, false));
            let behind = Spec { dest: case.forward_to.unwrap_or(s.dest), ..s.clone() };
            self.connections.entry(answer(&behind)).or_insert((n, true));
        }
    }
}

/// How conntrack names a packet's connection. Of protocols that it does not know it tells apart only
/// the addresses.
fn tuple(s: &Spec) -> Tuple {
    let ports = matches!(s.proto, 1 | 6 | 17 | 58);
    let (from, to) = if ports { (s.source_port, s.dest_port) } else { (0, 0) };
    (s.proto, s.source, from, s.dest, to)
}

/// The tuple of the answers.
fn answer(s: &Spec) -> Tuple {
    let (proto, source, from, dest, to) = tuple(s);
    match (proto, to) {
        (1, _) => (proto, dest, from, source, 0),
        (58, _) => (proto, dest, from, source, 129),
        _ => (proto, dest, to, source, from),
    }
}
