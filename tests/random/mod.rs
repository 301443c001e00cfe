//! Random policies over a fixed set of devices, for the tests that hold the model to a kernel.
//!
//! Everything comes from one seed, which is printed, so that a failure can be repeated. This module
//! knows what may be configured, not what is right.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code: a wrong index is a failed test"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vpn_killswitch::config::{ExemptConfig, RouterMode};
use vpn_killswitch::names::Bootstrap;
use vpn_killswitch::policy::{Endpoint, Policy};
use vpn_killswitch::types::{DevicePattern, Family, Mac, Net, Ports, Proto};

/// The devices of the router. One has the longest name that there is,
/// one begins like the loopback.
pub const DEVICES: [&str; 8] =
    ["eth0", "eth1", "lan0", "lowpan0", "lan-fifteenchar", "tun0", "tun1", "wg0"];
/// Patterns that a configuration may name: some of them overlap, some fit nothing.
const PATTERNS: [&str; 21] = [
    "eth0",
    "eth1",
    "eth1",
    "lan0",
    "lowpan0",
    "lan-fifteenchar",
    "tun0",
    "tun1",
    "wg0",
    "wg0",
    "tun*",
    "tu*",
    "t*",
    "wg*",
    "lan*",
    "lan-*",
    "lan-fifteencha*",
    "eth*",
    "ppp*",
    "br-lan",
    "la",
];
/// Ethernet addresses of clients.
pub const MACS: [Mac; 4] = [
    Mac([2, 0xc1, 0, 0, 0, 1]),
    Mac([2, 0xc1, 0, 0, 0, 2]),
    Mac([2, 0xc1, 0, 0, 1, 0]),
    Mac([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]),
];
/// Transport protocols beside TCP and UDP: ICMP, GRE, ESP, ICMPv6 and one that nobody knows.
pub const OTHER_PROTOCOLS: [u8; 5] = [1, 47, 50, 58, 253];

/// A generator of random numbers (SplitMix64): small, and the same everywhere.
pub struct Rng(u64);

impl Rng {
    /// Its whole sequence is determined by `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Between `min` and `max` results of `make`.
    pub fn some<T>(
        &mut self,
        min: usize,
        max: usize,
        mut make: impl FnMut(&mut Self) -> T,
    ) -> Vec<T> {
        let n = min + self.below(max - min + 1);
        (0..n).map(|_| make(self)).collect()
    }

    /// A port other than 0.
    pub fn port(&mut self) -> u16 {
        1 + self.below(65535) as u16
    }
}

/// Seed and number from the environment, or the given ones.
pub fn parameters(default_count: usize) -> (u64, usize) {
    let read = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let seed = read("KERNEL_SEED").unwrap_or(20_261_122);
    let count = read("KERNEL_COUNT").map_or(default_count, |n| n as usize);
    println!("KERNEL_SEED={seed} KERNEL_COUNT={count}");
    (seed, count)
}

/// The router's own address on a device.
pub fn own(device: usize, family: Family) -> IpAddr {
    host(device, family, 1)
}

/// An address of the network behind a device.
pub fn host(device: usize, family: Family, n: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(0x0a00_0000 | (device as u32) << 16 | u32::from(n)).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, device as u16, 0, 0, 0, 0, n).into(),
    }
}

/// The device behind which an address is; what is nowhere is behind the first.
pub fn device_behind(addr: &IpAddr) -> usize {
    let device = match addr {
        IpAddr::V4(a) if a.octets()[0] == 10 => usize::from(a.octets()[1]),
        IpAddr::V6(a) if a.segments()[..2] == [0x2001, 0xdb8] => usize::from(a.segments()[2]),
        _ => 0,
    };
    if device < DEVICES.len() { device } else { 0 }
}

/// Whether it is one of the router's own addresses.
pub fn is_own(addr: &IpAddr) -> bool {
    own(device_behind(addr), Family::of(addr)) == *addr
}

/// Some client or server; a small world, so that sets are met.
pub fn address(rng: &mut Rng, family: Family) -> IpAddr {
    let device = rng.below(DEVICES.len());
    let n = if rng.chance(70) { 2 + rng.below(6) } else { 2 + rng.below(60_000) };
    host(device, family, n as u16)
}

pub fn family(rng: &mut Rng) -> Family {
    rng.pick(&Family::BOTH)
}

fn network(rng: &mut Rng, family: Family) -> Net {
    let width = if family == Family::V4 { 32 } else { 128 };
    let len = if rng.chance(50) { width } else { width - rng.below(20) as u8 };
    Net::new(address(rng, family), len)
}

fn ports(rng: &mut Rng) -> Ports {
    let first = if rng.chance(30) { rng.pick(&[53, 80, 443, 853]) } else { rng.port() };
    let length = if rng.chance(60) { 0 } else { rng.below(300) as u16 };
    Ports { first, last: first.saturating_add(length) }
}

fn protocol(rng: &mut Rng) -> Proto {
    let number = if rng.chance(75) { rng.pick(&[6, 17]) } else { rng.pick(&OTHER_PROTOCOLS) };
    Proto::from_number(number)
}

fn exempt(rng: &mut Rng, n: usize) -> ExemptConfig {
    loop {
        let only = rng.chance(50).then(|| family(rng));
        let net = |rng: &mut Rng| {
            let family = only.unwrap_or_else(|| family(rng));
            network(rng, family)
        };
        let mut exempt = ExemptConfig {
            local_interfaces: Vec::new(),
            local_devices: Vec::new(),
            name: format!("exemption \"{n}\""),
            enabled: true,
            src_mac: Vec::new(),
            src_ip: Vec::new(),
            dest_ip: Vec::new(),
            dest_port: Vec::new(),
            proto: rng.chance(40).then(|| protocol(rng)),
            line: 1,
        };
        if rng.chance(30) {
            exempt.src_mac = rng.some(1, 3, |r| r.pick(&MACS));
        }
        if rng.chance(50) {
            exempt.src_ip = rng.some(1, 5, net);
        }
        if rng.chance(40) {
            exempt.dest_ip = rng.some(1, 5, net);
        }
        if rng.chance(50) && exempt.proto.is_none_or(Proto::has_ports) {
            exempt.dest_port = rng.some(1, 4, ports);
        }
        let nothing = exempt.src_mac.is_empty()
            && exempt.src_ip.is_empty()
            && exempt.dest_ip.is_empty()
            && exempt.dest_port.is_empty();
        if !nothing {
            return exempt;
        }
    }
}

fn endpoint(rng: &mut Rng, n: usize) -> Endpoint {
    let proto = protocol(rng);
    Endpoint {
        name: format!("server {n}"),
        source: String::new(),
        problem: String::new(),
        host: "vpn.example.net".to_owned(),
        by_name: rng.chance(40),
        addrs: rng.some(0, 3, |r| {
            let family = family(r);
            address(r, family)
        }),
        proto,
        port: proto.has_ports().then(|| if rng.chance(20) { 53 } else { rng.port() }),
        source_port: (proto.has_ports() && rng.chance(30)).then(|| rng.port()),
        mark: rng.chance(30).then(|| 1 + rng.below(0xffff) as u32),
        uid: rng.chance(30).then(|| rng.pick(&[0, 1000, 65534])),
    }
}

/// A policy that a configuration could lead to.
pub fn policy(rng: &mut Rng) -> Policy {
    let pattern = |r: &mut Rng| DevicePattern::parse(r.pick(&PATTERNS)).unwrap();
    let tunnels = rng.some(1, 3, pattern);
    let mut locals = rng.some(1, 5, pattern);
    locals.retain(|l| !tunnels.iter().any(|t| t.overlaps(l)));
    let mut tunnel_addrs = Vec::new();
    for (device, name) in DEVICES.iter().enumerate() {
        for family in Family::BOTH {
            if tunnels.iter().any(|t| t.matches(name)) && rng.chance(80) {
                tunnel_addrs.push(own(device, family));
            }
        }
    }
    if rng.chance(30) {
        let family = family(rng);
        tunnel_addrs.push(address(rng, family));
    }
    Policy {
        tunnels,
        locals,
        tunnel_addrs,
        ipsec: rng.chance(30),
        router: rng.pick(&[
            RouterMode::Strict,
            RouterMode::Strict,
            RouterMode::Strict,
            RouterMode::Dns,
            RouterMode::Open,
        ]),
        reject: rng.chance(65),
        port_forward_replies: rng.chance(60),
        log: rng.chance(50),
        pass_mark: 1 << rng.below(32),
        endpoints: {
            let mut n = 0;
            rng.some(0, 4, |r| {
                n += 1;
                endpoint(r, n)
            })
        },
        bootstrap: Bootstrap::default(),
        time_servers: rng.some(0, 3, |r| {
            let family = family(r);
            address(r, family)
        }),
        exempts: {
            let mut n = 0;
            rng.some(0, 4, |r| {
                n += 1;
                exempt(r, n)
            })
        },
    }
}
