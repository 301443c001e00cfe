//! Packets made byte by byte, and the sockets that send and see them.
//!
//! Unlike the laboratory's floods these packets are single, and everything in them is chosen: the
//! differential test sends one, waits for what it does, and sends the next.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "test code: a wrong index is a failed test; sizes of socket structures"
)]

use crate::lab::Res;
use crate::lab::packet::Packet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Ethertype of the frames that end a round (for local experiments, IEEE 802).
const FENCE: u16 = 0x88b5;
/// `IPV6_HDRINCL` (linux/in6.h), which the libc crate does not have.
const IPV6_HDRINCL: libc::c_int = 36;

/// TCP flags.
pub const SYN: u8 = 2;
pub const SYN_ACK: u8 = 0x12;
pub const ACK: u8 = 0x10;

/// Everything in a packet. Where a protocol has no ports they are not used; in ICMP the source port
/// is the identifier and the destination port the type.
#[derive(Clone, Debug)]
pub struct Spec {
    /// IPv4's identification or IPv6's flow label: by it a packet is known wherever it turns up.
    pub id: u16,
    pub source: IpAddr,
    pub dest: IpAddr,
    pub proto: u8,
    pub source_port: u16,
    pub dest_port: u16,
    pub hops: u8,
    pub tcp_flags: u8,
    /// Differentiated services code point, 6 bits.
    pub dscp: u8,
}

impl Spec {
    /// The IP packet.
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = self.body();
        let at = match self.proto {
            6 => Some(16),
            17 => Some(6),
            // The kernel answers to a protocol that it does not know only where a checksum as in ICMP
            // would be right.
            1 | 58 | 253 => Some(2),
            _ => None,
        };
        if let Some(at) = at {
            let mut sum = checksum(&[&self.pseudo(body.len()), &body]);
            if sum == 0 && self.proto == 17 {
                sum = 0xffff;
            }
            body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let mut out = match (self.source, self.dest) {
            (IpAddr::V4(source), IpAddr::V4(dest)) => {
                let len = (20 + body.len()) as u16;
                let mut h = vec![0x45, self.dscp << 2];
                h.extend(len.to_be_bytes());
                h.extend(self.id.to_be_bytes());
                h.extend([0, 0, self.hops, self.proto, 0, 0]);
                h.extend(source.octets());
                h.extend(dest.octets());
                let sum = checksum(&[&h]);
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                h
            }
            (IpAddr::V6(source), IpAddr::V6(dest)) => {
                let first = 6 << 28 | u32::from(self.dscp) << 22 | u32::from(self.id);
                let mut h = first.to_be_bytes().to_vec();
                h.extend((body.len() as u16).to_be_bytes());
                h.extend([self.proto, self.hops]);
                h.extend(source.octets());
                h.extend(dest.octets());
                h
            }
            _ => Vec::new(),
        };
        out.extend(body);
        out
    }

    fn body(&self) -> Vec<u8> {
        let mut b = Vec::new();
        match self.proto {
            6 => {
                b.extend(self.source_port.to_be_bytes());
                b.extend(self.dest_port.to_be_bytes());
                b.extend([0, 0, 0, 1, 0, 0, 0, if self.tcp_flags == SYN { 0 } else { 2 }]);
                b.extend([0x50, self.tcp_flags, 0x40, 0, 0, 0, 0, 0]);
            }
            17 => {
                b.extend(self.source_port.to_be_bytes());
                b.extend(self.dest_port.to_be_bytes());
                b.extend([0, 12, 0, 0, b't', b'e', b's', b't']);
            }
            1 | 58 => {
                b.extend([self.dest_port as u8, 0, 0, 0]);
                b.extend(self.source_port.to_be_bytes());
                // Long enough for every neighbour discovery message.
                b.extend([0; 18]);
            }
            47 => b.extend([0, 0, 8, 0, 0, 0, 0, 0]),
            253 => b.extend([0; 8]),
            _ => b.extend([0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
        }
        b
    }

    fn pseudo(&self, len: usize) -> Vec<u8> {
        match (self.source, self.dest) {
            (IpAddr::V4(_), _) if matches!(self.proto, 1 | 253) => Vec::new(),
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                [&s.octets()[..], &d.octets(), &[0, self.proto, 0, len as u8]].concat()
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                [&s.octets()[..], &d.octets(), &[0, 0, 0, len as u8, 0, 0, 0, self.proto]].concat()
            }
            _ => Vec::new(),
        }
    }
}

fn checksum(parts: &[&[u8]]) -> u16 {
    // All parts but the last have an even length.
    let words = parts.iter().flat_map(|p| p.chunks(2));
    let mut sum: u32 =
        words.map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A frame that came in.
pub struct Frame {
    /// Index of the device.
    pub device: u32,
    /// See [`Spec::id`]; in an ICMP error that of the packet that it answers.
    pub id: u16,
    /// It is an ICMP error about another packet.
    pub is_about: bool,
    /// What it is.
    pub packet: Packet,
}

/// A packet socket of one namespace: sends by any device, sees what comes in by every device.
pub struct Wire {
    socket: OwnedFd,
    fences: u32,
}

impl Wire {
    /// Opens one in the namespace of the calling thread.
    pub fn open() -> Res<Self> {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a plain system call; the new descriptor is owned by nobody else.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into())
        };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: `fd` is open and ours.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20)
            .or_else(|_| set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 32 << 20))?;
        Ok(Self { socket, fences: 0 })
    }

    /// Sends a frame by a device.
    pub fn send(&self, device: u32, dest: [u8; 6], source: [u8; 6], ip: &[u8]) -> io::Result<()> {
        let kind: u16 = if ip[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        self.send_frame(device, &[&dest[..], &source, &kind.to_be_bytes(), ip].concat())
    }

    /// Sends the frame that ends a round.
    pub fn send_fence(&self, device: u32) -> io::Result<()> {
        self.send_frame(device, &[&[2; 12][..], &FENCE.to_be_bytes(), &[0; 46]].concat())
    }

    fn send_frame(&self, device: u32, frame: &[u8]) -> io::Result<()> {
        let mut to = link_address();
        to.sll_ifindex = device as i32;
        // SAFETY: the pointers and lengths describe `frame` and `to`.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            )
        };
        if sent == frame.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Everything that came in since the last call.
    pub fn drain(&mut self) -> Res<Vec<Frame>> {
        let mut out = Vec::new();
        let mut buffer = [0u8; 4096];
        loop {
            let mut from = link_address();
            let mut from_len = size_of_val(&from) as libc::socklen_t;
            // SAFETY: the pointers and lengths describe `buffer` and `from`.
            let len = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                )
            };
            let Ok(len) = usize::try_from(len) else {
                return match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::WouldBlock => Ok(out),
                    e => Err(e.into()),
                };
            };
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                continue;
            }
            let kind = u16::from_be(from.sll_protocol);
            if kind == FENCE {
                self.fences += 1;
                continue;
            }
            let frame = &buffer[..len];
            let packet = Packet::parse(frame, true, kind, false);
            let ip = frame.get(14..).unwrap_or_default();
            let inner = id_of(ip, true).filter(|id| packet.is_icmp_error() && *id != 0);
            let id = inner.or(id_of(ip, false)).unwrap_or(0);
            let device = from.sll_ifindex as u32;
            out.push(Frame { device, id, is_about: inner.is_some(), packet });
        }
    }

    /// How many fences came in so far.
    pub fn fences(&self) -> u32 {
        self.fences
    }

    /// How many frames the kernel did not keep for us.
    pub fn lost(&self) -> Res<u32> {
        // SAFETY: tpacket_stats is two integers.
        let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut len = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: pointer and length describe `stats`.
        let got = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if got == 0 { Ok(stats.tp_drops) } else { Err(io::Error::last_os_error().into()) }
    }
}

fn id_of(ip: &[u8], error: bool) -> Option<u16> {
    let (skip, at) = if ip.first()? >> 4 == 4 { (28, 4) } else { (48, 2) };
    let ip = if error { ip.get(skip..)? } else { ip };
    Some(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?]))
}

fn link_address() -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is plain integers; all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_halen = 6;
    address
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether sockets here can belong to this user (in a user namespace it may not be mapped).
pub fn can_be(uid: u32) -> bool {
    // SAFETY: no pointers; both affect only file accesses of the calling thread.
    unsafe {
        libc::setfsuid(uid);
        libc::setfsuid(0) == uid as i32
    }
}

/// Sends a packet as a process of the router does: from a raw socket of that user with that mark.
/// The kernel's refusal of the packet is its decision, not a failure.
pub fn send_as(uid: u32, mark: u32, device: Option<u32>, spec: &Spec) -> Res<()> {
    let v4 = spec.dest.is_ipv4();
    let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain system calls; the user is changed for this thread only and changed back, and the
    // new descriptor is owned by nobody else.
    let socket = unsafe {
        libc::setfsuid(uid);
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW);
        let error = io::Error::last_os_error();
        libc::setfsuid(0);
        if fd < 0 {
            return Err(format!("raw socket of user {uid}: {error}").into());
        }
        OwnedFd::from_raw_fd(fd)
    };
    if v4 {
        set(&socket, libc::IPPROTO_IP, libc::IP_HDRINCL, 1)?;
    } else {
        set(&socket, libc::IPPROTO_IPV6, IPV6_HDRINCL, 1)?;
    }
    set(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark as i32)?;
    let index = device.unwrap_or(0);
    if let Some(device) = device {
        set(&socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, device as i32)?;
    }
    let bytes = spec.bytes();
    let sent = match SocketAddr::new(spec.dest, 0) {
        SocketAddr::V4(to) => {
            // SAFETY: sockaddr_in is plain integers; all zeroes is a valid value.
            let mut a: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            a.sin_family = libc::AF_INET as u16;
            a.sin_addr.s_addr = u32::from(*to.ip()).to_be();
            // SAFETY: the pointers and lengths describe `bytes` and `a`.
            unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    0,
                    (&raw const a).cast(),
                    size_of_val(&a) as libc::socklen_t,
                )
            }
        }
        SocketAddr::V6(to) => {
            // SAFETY: sockaddr_in6 is plain integers; all zeroes is a valid value.
            let mut a: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            a.sin6_family = libc::AF_INET6 as u16;
            a.sin6_addr.s6_addr = to.ip().octets();
            a.sin6_scope_id = index;
            // SAFETY: the pointers and lengths describe `bytes` and `a`.
            unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    0,
                    (&raw const a).cast(),
                    size_of_val(&a) as libc::socklen_t,
                )
            }
        }
    };
    match io::Error::last_os_error() {
        e if sent < 0 && e.raw_os_error() != Some(libc::EPERM) => {
            Err(format!("sending {spec:?}: {e}").into())
        }
        _ => Ok(()),
    }
}
