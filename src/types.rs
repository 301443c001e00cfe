//! The few value types that configuration, policy and rules share.
//!
//! Responsible for parsing and printing them; knows nothing of files, rules or the kernel.

mod sorted;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use sorted::Sorted;

/// Longest name of a network device, without the final NUL (`IFNAMSIZ` − 1, `linux/if.h`).
pub const DEVICE_NAME_MAX: usize = 15;

/// Address family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order in which rules are written.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of `addr`.
    pub fn of(addr: &IpAddr) -> Family {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `4` or `6`, the suffix of set and rule names.
    pub fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }
}

/// A kernel device by name (`wg0`), or every device whose name begins alike (`tun*`).
///
/// Always by name: a tunnel that is created again has a new index, and must match again at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePattern {
    stem: String,
    prefix: bool,
}

impl DevicePattern {
    /// Reads `wg0` or `tun*`.
    ///
    /// # Errors
    /// What is wrong with the text, for a person: the kernel's rules for device names
    /// (`dev_valid_name`, net/core/dev.c), and a `*` anywhere but at the end of at least one letter.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (stem, prefix) = match text.strip_suffix('*') {
            Some(stem) => (stem, true),
            None => (text, false),
        };
        if stem.is_empty() {
            return Err(if prefix { "'*' alone would name every device" } else { "it is empty" });
        }
        if stem.len() > DEVICE_NAME_MAX {
            return Err("a device name has at most 15 characters");
        }
        if stem == "." || stem == ".." {
            return Err("the kernel has no device of that name");
        }
        if !stem
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'*' | b'"' | b'\\'))
        {
            return Err(
                "a device name is made of letters, digits and . - _ @ +; '*' only at its end",
            );
        }
        if stem == "lo" && !prefix {
            return Err("the loopback device is neither a tunnel nor a network");
        }
        Ok(Self { stem: stem.to_owned(), prefix })
    }

    /// Whether the device called `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(&self.stem) } else { name == self.stem }
    }

    /// Whether some device could be meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.prefix, other.prefix) {
            (true, true) => {
                self.stem.starts_with(&other.stem) || other.stem.starts_with(&self.stem)
            }
            _ if other.prefix => other.matches(&self.stem),
            _ => self.matches(&other.stem),
        }
    }

    /// The name, or what the names begin with.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Whether every device that begins with [`Self::stem`] is meant.
    pub fn is_prefix(&self) -> bool {
        self.prefix
    }
}

impl fmt::Display for DevicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stem)?;
        if self.prefix { f.write_str("*") } else { Ok(()) }
    }
}

/// An address or a network, with host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    addr: IpAddr,
    len: u8,
}

impl Net {
    /// `addr/len`; host bits are cleared, `len` is capped at the family's width.
    pub fn new(addr: IpAddr, len: u8) -> Self {
        match addr {
            IpAddr::V4(a) => {
                let len = len.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                Self { addr: Ipv4Addr::from(u32::from(a) & mask).into(), len }
            }
            IpAddr::V6(a) => {
                let len = len.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                Self { addr: Ipv6Addr::from(u128::from(a) & mask).into(), len }
            }
        }
    }

    /// One address.
    pub fn host(addr: IpAddr) -> Self {
        Self::new(addr, 128)
    }

    /// Reads `192.0.2.1`, `192.0.2.0/24` or their IPv6 counterparts.
    ///
    /// # Errors
    /// What is wrong, for a person. Host bits that are set are an error: `10.0.0.5/8` may mean one
    /// host or sixteen million, and this program does not guess.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| "it is not an address or network")?;
        let width = if addr.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => width,
            Some(len) if !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit()) => {
                len.parse().ok().filter(|n| *n <= width).ok_or("its prefix length is too large")?
            }
            Some(_) => return Err("its prefix length is not a number"),
        };
        let net = Self::new(addr, len);
        if net.addr != addr {
            return Err("it has bits set behind its prefix length");
        }
        Ok(net)
    }

    /// The network's first address.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Prefix length in bits.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether this is every address of its family.
    pub fn is_everything(&self) -> bool {
        self.len == 0
    }

    /// The network's family.
    pub fn family(&self) -> Family {
        Family::of(&self.addr)
    }

    /// Whether `addr` lies inside.
    pub fn contains(&self, addr: &IpAddr) -> bool {
        Family::of(addr) == self.family() && Self::new(*addr, self.len) == *self
    }

    /// First and last address, as bytes in network order, left-aligned in 16.
    pub fn bounds(&self) -> ([u8; 16], [u8; 16]) {
        match self.addr {
            IpAddr::V4(a) => {
                let first = u32::from(a);
                let last = first | u32::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
                (left_aligned(&first.to_be_bytes()), left_aligned(&last.to_be_bytes()))
            }
            IpAddr::V6(a) => {
                let first = u128::from(a);
                let last = first | u128::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
                (first.to_be_bytes(), last.to_be_bytes())
            }
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.addr.is_ipv4() { 32 } else { 128 };
        if self.len == width {
            write!(f, "{}", self.addr)
        } else {
            write!(f, "{}/{}", self.addr, self.len)
        }
    }
}

/// `bytes` at the beginning of 16, the rest zero; what does not fit is left out.
pub fn left_aligned(bytes: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads `aa:bb:cc:dd:ee:ff` (or with `-`).
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| matches!(p.len(), 1 | 2));
            *byte = part
                .filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or("it is not an Ethernet address such as 00:11:22:aa:bb:cc")?;
        }
        if parts.next().is_some() {
            return Err("it is not an Ethernet address such as 00:11:22:aa:bb:cc");
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err("it is a group address or zero: no device sends from it");
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An inclusive range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// First port.
    pub first: u16,
    /// Last port, not below `first`.
    pub last: u16,
}

impl Ports {
    /// Reads `443` or `8000-8100`.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            (Some(_), Some(_)) => Err("its first port is above its last"),
            _ => Err("it is not a port (1-65535) or a range of ports such as 8000-8100"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A port number from 1 to 65535, written in digits only.
pub fn port(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|p| *p != 0)
}

/// A transport protocol that a VPN endpoint or an exemption can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// TCP, 6.
    Tcp,
    /// UDP, 17.
    Udp,
    /// ICMP, 1.
    Icmp,
    /// ICMPv6, 58.
    Icmpv6,
    /// Generic Routing Encapsulation, 47 (PPTP).
    Gre,
    /// Encapsulating Security Payload, 50 (IPsec).
    Esp,
    /// Authentication Header, 51 (IPsec).
    Ah,
    /// IPv6 in IPv4, 41 (6in4).
    Ipv6InIpv4,
    /// Any other, by number.
    Other(u8),
}

/// Names that configuration files use.
const PROTO_NAMES: [(&str, Proto); 8] = [
    ("tcp", Proto::Tcp),
    ("udp", Proto::Udp),
    ("icmp", Proto::Icmp),
    ("icmpv6", Proto::Icmpv6),
    ("gre", Proto::Gre),
    ("esp", Proto::Esp),
    ("ah", Proto::Ah),
    ("6in4", Proto::Ipv6InIpv4),
];

impl Proto {
    /// Reads a name or a number from 1 to 255.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((_, proto)) = PROTO_NAMES.iter().find(|(name, _)| *name == text) {
            return Some(*proto);
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().ok().filter(|n| *n != 0).map(Self::from_number);
        }
        None
    }

    /// The protocol of IANA number `number`.
    pub fn from_number(number: u8) -> Self {
        PROTO_NAMES
            .iter()
            .map(|(_, proto)| *proto)
            .find(|proto| proto.number() == number)
            .unwrap_or(Self::Other(number))
    }

    /// IANA's number, as in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
            Self::Gre => 47,
            Self::Esp => 50,
            Self::Ah => 51,
            Self::Ipv6InIpv4 => 41,
            Self::Other(n) => n,
        }
    }

    /// Whether packets of it carry a source and a destination port.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTO_NAMES.iter().find(|(_, proto)| proto == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.number()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_patterns_match_by_name_and_prefix() {
        let tun = DevicePattern::parse("tun*").unwrap();
        assert!(tun.matches("tun0") && tun.matches("tun") && !tun.matches("tu"));
        assert!(DevicePattern::parse("wg0").unwrap().matches("wg0"));
        assert!(!DevicePattern::parse("wg0").unwrap().matches("wg01"));
    }

    #[test]
    fn device_patterns_overlap_when_one_device_fits_both() {
        let p = |s| DevicePattern::parse(s).unwrap();
        assert!(p("tun*").overlaps(&p("tun0")) && p("tun0").overlaps(&p("tun*")));
        assert!(p("tun*").overlaps(&p("tun1*")) && p("tun1*").overlaps(&p("tun*")));
        assert!(!p("tun*").overlaps(&p("wg0")) && !p("tun0").overlaps(&p("tun1")));
        assert!(p("wg0").overlaps(&p("wg0")));
    }

    #[test]
    fn device_patterns_refuse_what_the_kernel_or_reason_refuses() {
        for bad in ["", "*", "a b", "a/b", "a*b", "**", "0123456789abcdef", "lo", "..", "é", "a\"b"]
        {
            assert!(DevicePattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_print_as_they_were_read() {
        for text in ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "2001:db8::1", "0.0.0.0/0"] {
            assert_eq!(Net::parse(text).unwrap().to_string(), text);
        }
        for bad in
            ["", "10.0.0.5/8", "10.0.0.0/33", "::/129", "10/8", "1.2.3.4/", "a", "1.2.3.4/+8"]
        {
            assert!(Net::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn network_bounds_are_first_and_last_address() {
        let (first, last) = Net::parse("10.1.0.0/16").unwrap().bounds();
        assert_eq!((&first[..4], &last[..4]), (&[10, 1, 0, 0][..], &[10, 1, 255, 255][..]));
        let (first, last) = Net::parse("::/0").unwrap().bounds();
        assert_eq!((first, last), ([0; 16], [255; 16]));
        let (first, last) = Net::parse("0.0.0.0/0").unwrap().bounds();
        assert_eq!((&first[..4], &last[..4]), (&[0; 4][..], &[255; 4][..]));
    }

    #[test]
    fn macs_ports_and_protocols_read_strictly() {
        assert_eq!(Mac::parse("0:1A:2b:3:4:f").unwrap().to_string(), "00:1a:2b:03:04:0f");
        for bad in [
            "",
            "1:2:3:4:5",
            "0:1:2:3:4:5:6",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "+1:2:3:4:5:6",
        ] {
            assert!(Mac::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Ports::parse("80-90").unwrap().to_string(), "80-90");
        for bad in ["0", "65536", "90-80", "+80", "-", ""] {
            assert!(Ports::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Proto::parse("47"), Some(Proto::Gre));
        assert_eq!(Proto::parse("udp").map(Proto::number), Some(17));
        assert_eq!((Proto::parse("0"), Proto::parse("256"), Proto::parse("x")), (None, None, None));
        assert_eq!(Proto::Other(132).to_string(), "132");
    }
}
