//! What a captured frame is, and the mark by which a test packet is known wherever it turns up.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every test packet carries this word, then its flow and its number, in a form that may also
/// stand in a DNS name: `vksl` + 4 + 8 hexadecimal digits.
const WORD: &[u8; 4] = b"vksl";
/// Length of a mark.
pub const MARK_LEN: usize = 16;

/// Flow and number of a test packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Mark {
    /// Which flow.
    pub flow: u16,
    /// Which packet of it, from 0.
    pub seq: u32,
}

impl Mark {
    /// The mark as it stands in the packet.
    pub fn text(self) -> String {
        format!("vksl{:04x}{:08x}", self.flow, self.seq)
    }

    /// The first mark in some bytes.
    pub fn find(bytes: &[u8]) -> Option<Self> {
        bytes.windows(MARK_LEN).find_map(|w| {
            if !w[..4].eq_ignore_ascii_case(WORD) {
                return None;
            }
            let digits = std::str::from_utf8(&w[4..]).ok()?;
            Some(Self {
                flow: u16::from_str_radix(&digits[..4], 16).ok()?,
                seq: u32::from_str_radix(&digits[4..], 16).ok()?,
            })
        })
    }
}

/// One captured frame, as far as the tests ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Left through the captured device (else it came in by it).
    pub outgoing: bool,
    /// Ethernet's protocol number.
    pub ethertype: u16,
    /// IP source.
    pub src: Option<IpAddr>,
    /// IP destination.
    pub dst: Option<IpAddr>,
    /// IP protocol, after IPv6 extension headers.
    pub proto: u8,
    /// Source port (TCP, UDP, SCTP).
    pub sport: u16,
    /// Destination port, or type × 256 + code of an ICMP message.
    pub dport: u16,
    /// TCP flags.
    pub flags: u8,
    /// Length of the frame.
    pub len: usize,
    /// What a DNS message over UDP asks: `A vpn.example.net`.
    pub question: Option<String>,
    /// The test packet's mark. In an ICMP error it belongs to the packet that it answers.
    pub mark: Option<Mark>,
}

/// IP protocol numbers.
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
/// "Use for experimentation and testing" (RFC 3692).
pub const ODD: u8 = 253;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

impl Packet {
    /// Reads a frame. `ethernet` tells whether it starts with an Ethernet header.
    pub fn parse(frame: &[u8], ethernet: bool, ethertype: u16, outgoing: bool) -> Self {
        let mut p = Self {
            outgoing,
            ethertype,
            src: None,
            dst: None,
            proto: 0,
            sport: 0,
            dport: 0,
            flags: 0,
            len: frame.len(),
            question: None,
            mark: Mark::find(frame),
        };
        let ip = if ethernet { frame.get(14..) } else { Some(frame) };
        if let Some(ip) = ip {
            // A truncated header leaves the fields at zero: then nothing allows the packet.
            let _ = p.read_ip(ip);
        }
        p
    }

    fn read_ip(&mut self, ip: &[u8]) -> Option<()> {
        let (mut proto, mut rest) = match self.ethertype {
            IPV4 => {
                self.src = Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(12..16)?).ok()?).into());
                self.dst = Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(16..20)?).ok()?).into());
                (*ip.get(9)?, ip.get(usize::from(ip.first()? & 15) * 4..)?)
            }
            IPV6 => {
                self.src = Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(8..24)?).ok()?).into());
                self.dst = Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(24..40)?).ok()?).into());
                (*ip.get(6)?, ip.get(40..)?)
            }
            _ => return None,
        };
        // Hop-by-hop, routing, fragment and destination options.
        while self.ethertype == IPV6 && matches!(proto, 0 | 43 | 44 | 60) {
            let len = if proto == 44 { 8 } else { (usize::from(*rest.get(1)?) + 1) * 8 };
            proto = *rest.first()?;
            rest = rest.get(len..)?;
        }
        self.proto = proto;
        let pair = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
        match proto {
            TCP | UDP | 132 => {
                self.sport = pair(0)?;
                self.dport = pair(2)?;
                if proto == TCP {
                    self.flags = *rest.get(13)?;
                }
                if proto == UDP && (self.sport == 53 || self.dport == 53) {
                    self.question = question(rest.get(8..)?);
                }
            }
            ICMP | ICMPV6 => self.dport = pair(0)?,
            _ => {}
        }
        Some(())
    }

    /// An ICMP message's type and code.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let [kind, code] = self.dport.to_be_bytes();
        matches!(self.proto, ICMP | ICMPV6).then_some((kind, code))
    }

    /// An ICMP error; a mark in it is that of the packet that it answers.
    pub fn is_icmp_error(&self) -> bool {
        match (self.proto, self.icmp()) {
            (ICMP, Some((kind, _))) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            (ICMPV6, Some((kind, _))) => kind < 128,
            _ => false,
        }
    }

    /// What any host must say on a link to be there at all: ARP, neighbour discovery, multicast
    /// listener reports, and DHCP and DHCPv6 as a client.
    pub fn is_housekeeping(&self) -> bool {
        match self.proto {
            _ if self.ethertype == ARP => true,
            ICMPV6 => self.icmp().is_some_and(|(k, _)| matches!(k, 130..=136 | 143)),
            UDP => {
                (self.ethertype == IPV4 && (self.sport, self.dport) == (68, 67))
                    || (self.ethertype == IPV6 && (self.sport, self.dport) == (546, 547))
            }
            _ => false,
        }
    }

    /// Goes to this VPN endpoint, exactly.
    pub fn is_to(&self, addresses: &[IpAddr], proto: u8, port: u16) -> bool {
        self.proto == proto
            && self.dport == port
            && self.dst.is_some_and(|dst| addresses.contains(&dst))
    }
}

/// The one question of a DNS message (RFC 1035, section 4.1).
fn question(message: &[u8]) -> Option<String> {
    let mut name = Vec::new();
    let mut at = 12;
    while let Some(len) = message.get(at).map(|len| usize::from(*len)).filter(|len| *len != 0) {
        name.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + len)?).into_owned());
        at += 1 + len;
    }
    let kind = match (message.get(4..6)?, message.get(at + 1..at + 3)?) {
        ([0, 1], [0, 1]) => "A".to_owned(),
        ([0, 1], [0, 28]) => "AAAA".to_owned(),
        (count, kind) => format!("{count:?} of type {kind:?}:"),
    };
    Some(format!("{kind} {}", name.join(".")))
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", if self.outgoing { "out" } else { "in" })?;
        let (Some(src), Some(dst)) = (self.src, self.dst) else {
            return write!(f, "ethertype {:#06x}, {} bytes", self.ethertype, self.len);
        };
        match self.proto {
            ICMP | ICMPV6 => {
                let (kind, code) = self.icmp().unwrap_or_default();
                write!(f, "{src} → {dst} icmp type {kind} code {code}")?;
            }
            TCP => write!(
                f,
                "{src}:{} → {dst}:{} tcp flags {:#x}",
                self.sport, self.dport, self.flags
            )?,
            UDP => write!(f, "{src}:{} → {dst}:{} udp", self.sport, self.dport)?,
            other => write!(f, "{src} → {dst} protocol {other}")?,
        }
        if let Some(mark) = self.mark {
            write!(f, ", flow {} number {}", mark.flow, mark.seq)?;
        }
        Ok(())
    }
}
