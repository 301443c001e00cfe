//! Traffic: floods of marked packets, counted one by one at the sender.
//!
//! A flood sends one packet of each of its flows at every tick, so that flows are comparable and
//! an event in the middle hits them all.

use super::ns::Ns;
use super::packet::{ICMP, ICMPV6, MARK_LEN, Mark, ODD, TCP};
use super::topology::{CLOSED, ECHO};
use super::{Res, wait_for};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What a flow is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Datagrams from one port.
    Udp,
    /// Datagrams from this port.
    UdpFrom(u16),
    /// Datagrams from this address and port.
    UdpAt(SocketAddr),
    /// Connection attempts (SYN, made by hand so that each carries a mark).
    Syn,
    /// Connection attempts by the kernel: what a process without privileges can do. Unmarked;
    /// known by their destination port.
    Connect,
    /// One real connection with small pieces of data.
    Stream,
    /// Echo requests.
    Ping,
    /// An IP protocol that nobody knows.
    Odd,
    /// DNS questions whose name carries the mark.
    Dns,
}

/// One flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its number in the marks, unique in this process.
    pub id: u16,
    /// What it is made of.
    pub kind: Kind,
    /// Where it goes.
    pub to: SocketAddr,
}

impl Flow {
    /// A new flow.
    pub fn new(kind: Kind, to: impl Into<SocketAddr>) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), kind, to: to.into() }
    }

    /// UDP, TCP, ICMP and an odd protocol to each of these addresses.
    pub fn all_kinds(to: &[IpAddr]) -> Vec<Self> {
        Self::kinds(to, &[Kind::Udp, Kind::Syn, Kind::Ping, Kind::Odd])
    }

    /// These kinds to each of these addresses: datagrams to the echo port, connection attempts to
    /// a closed one.
    pub fn kinds(to: &[IpAddr], kinds: &[Kind]) -> Vec<Self> {
        let flow = |ip: &IpAddr, kind| {
            Self::new(kind, (*ip, if kind == Kind::Syn { CLOSED } else { ECHO }))
        };
        to.iter().flat_map(|ip| kinds.iter().map(move |kind| flow(ip, *kind))).collect()
    }
}

/// How much of a flow was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The flow.
    pub flow: Flow,
    /// Attempts; what the system refused at once counts too.
    pub sent: u32,
    /// Attempts that the system refused at once.
    pub refused: u32,
}

#[derive(Default)]
struct Counter {
    sent: AtomicU32,
    refused: AtomicU32,
}

/// A running flood.
pub struct Flood {
    flows: Vec<Flow>,
    counters: Arc<Vec<Counter>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Res<Res<()>>>>,
}

impl Flood {
    /// Starts to send `rate` packets per second of each flow from `ns`, as user `uid` if given.
    pub fn start(ns: &Ns, uid: Option<u32>, flows: Vec<Flow>, rate: u32) -> Self {
        let counters: Arc<Vec<_>> = Arc::new(flows.iter().map(|_| Counter::default()).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (flows, counters, stop) = (flows.clone(), Arc::clone(&counters), Arc::clone(&stop));
            let tick = Duration::from_secs(1) / rate;
            ns.thread(move || run(&flows, &counters, &stop, tick, uid))
        };
        Self { flows, counters, stop, thread: Some(thread) }
    }

    /// Waits until each flow has sent `count` more packets.
    pub fn more(&self, count: u32) -> Res<()> {
        let aim: Vec<_> =
            self.counters.iter().map(|c| c.sent.load(Ordering::Acquire) + count).collect();
        wait_for("flood", 20.0, || {
            let over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            over || self
                .counters
                .iter()
                .zip(&aim)
                .all(|(c, aim)| c.sent.load(Ordering::Acquire) >= *aim)
        })
    }

    /// The number that the next packets will carry, at least: a watermark for "after the event".
    pub fn now(&self) -> u32 {
        self.counters.iter().map(|c| c.sent.load(Ordering::Acquire)).max().unwrap_or(0)
    }

    /// Stops and tells what was sent.
    pub fn stop(mut self) -> Res<Vec<Sent>> {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| "flood died")???;
        }
        let counts = self.flows.iter().zip(self.counters.iter());
        Ok(counts
            .map(|(flow, c)| Sent {
                flow: flow.clone(),
                sent: c.sent.load(Ordering::Acquire),
                refused: c.refused.load(Ordering::Acquire),
            })
            .collect())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Sends `count` packets of each flow and tells what was sent.
pub fn send(ns: &Ns, uid: Option<u32>, flows: Vec<Flow>, count: u32, rate: u32) -> Res<Vec<Sent>> {
    let flood = Flood::start(ns, uid, flows, rate);
    flood.more(count)?;
    flood.stop()
}

fn run(
    flows: &[Flow],
    counters: &[Counter],
    stop: &AtomicBool,
    tick: Duration,
    uid: Option<u32>,
) -> Res<()> {
    if let Some(uid) = uid {
        become_user(uid)?;
    }
    let mut senders = Vec::new();
    for flow in flows {
        senders.push(Sender::new(flow).map_err(|e| format!("{flow:?}: {e}"))?);
    }
    let mut next = Instant::now();
    let mut seq = 0;
    while !stop.load(Ordering::Acquire) {
        for ((sender, flow), counter) in senders.iter_mut().zip(flows).zip(counters) {
            if sender.send(flow, Mark { flow: flow.id, seq }).is_err() {
                counter.refused.fetch_add(1, Ordering::Release);
            }
            counter.sent.fetch_add(1, Ordering::Release);
        }
        seq += 1;
        // When late, no burst to catch up: rates above what the machine can do mean nothing.
        next = (next + tick).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Makes only the calling thread another user; the sockets it opens from now on are that user's.
fn become_user(uid: u32) -> Res<()> {
    // The C library would change every thread, so the system call itself is used.
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) } != 0 {
        return Err(format!("user {uid}: {}", io::Error::last_os_error()).into());
    }
    Ok(())
}

/// Whether a process here can become this user (in a user namespace it may not be mapped).
pub fn can_become(uid: u32) -> bool {
    thread::spawn(move || become_user(uid).is_ok()).join().unwrap_or(false)
}

enum Sender {
    Udp(UdpSocket),
    Raw(OwnedFd),
    Stream(TcpStream),
    Connect,
}

impl Sender {
    fn new(flow: &Flow) -> io::Result<Self> {
        let v4 = flow.to.is_ipv4();
        let any: IpAddr = if v4 { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        match flow.kind {
            Kind::Udp | Kind::Dns => UdpSocket::bind((any, 0)).map(Self::Udp),
            Kind::UdpAt(from) => UdpSocket::bind(from).map(Self::Udp),
            Kind::UdpFrom(port) if v4 => UdpSocket::bind((any, port)).map(Self::Udp),
            Kind::UdpFrom(port) => only_ipv6((any, port).into()).map(Self::Udp),
            Kind::Syn => raw(v4, TCP).map(Self::Raw),
            Kind::Ping => raw(v4, if v4 { ICMP } else { ICMPV6 }).map(Self::Raw),
            Kind::Odd => raw(v4, ODD).map(Self::Raw),
            Kind::Connect => Ok(Self::Connect),
            Kind::Stream => {
                let stream = TcpStream::connect_timeout(&flow.to, Duration::from_secs(5))?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(Self::Stream(stream))
            }
        }
    }

    fn send(&mut self, flow: &Flow, mark: Mark) -> io::Result<()> {
        let text = mark.text();
        let text = text.as_bytes();
        match self {
            Self::Udp(socket) if flow.kind == Kind::Dns => {
                socket.send_to(&question(mark), flow.to).map(drop)
            }
            Self::Udp(socket) => socket.send_to(text, flow.to).map(drop),
            Self::Stream(stream) => stream.write_all(text),
            Self::Connect => connect(flow.to),
            Self::Raw(fd) => {
                let bytes = match flow.kind {
                    Kind::Syn => syn(flow, mark),
                    Kind::Ping => echo(flow, mark),
                    _ => text.to_vec(),
                };
                send_to(fd, &bytes, flow.to)
            }
        }
    }
}

/// A DNS question for the address of `MARK.test`.
pub fn question(mark: Mark) -> Vec<u8> {
    let mut q = (mark.seq as u16).to_be_bytes().to_vec();
    q.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, MARK_LEN as u8]);
    q.extend(mark.text().as_bytes());
    q.extend(b"\x04test\0\0\x01\0\x01");
    q
}

fn echo(flow: &Flow, mark: Mark) -> Vec<u8> {
    let mut m = vec![if flow.to.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    m.extend(flow.id.to_be_bytes());
    m.extend((mark.seq as u16).to_be_bytes());
    m.extend(mark.text().as_bytes());
    if flow.to.is_ipv4() {
        // For IPv6 the kernel computes it.
        let sum = checksum(&m);
        m[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    m
}

/// A SYN with the mark as data. Each has its own source port, so each is a new connection.
fn syn(flow: &Flow, mark: Mark) -> Vec<u8> {
    let source = 20_000 + (mark.seq % 20_000) as u16;
    let mut t = source.to_be_bytes().to_vec();
    t.extend(flow.to.port().to_be_bytes());
    t.extend(mark.seq.to_be_bytes());
    t.extend([0, 0, 0, 0, 0x50, 0x02, 0x40, 0, 0, 0, 0, 0]);
    t.extend(mark.text().as_bytes());
    if let Some((IpAddr::V4(from), IpAddr::V4(to))) = source_of(flow.to).map(|s| (s, flow.to.ip()))
    {
        // The source is the route's choice, so ask each time. For IPv6 the kernel computes it.
        let mut pseudo = [from.octets(), to.octets()].concat();
        pseudo.extend([0, TCP, 0, t.len() as u8]);
        pseudo.extend(&t);
        let sum = checksum(&pseudo);
        t[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    t
}

/// The address that the kernel would send from.
fn source_of(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv6 socket that leaves the port free for IPv4.
fn only_ipv6(at: SocketAddr) -> io::Result<UdpSocket> {
    // SAFETY: a plain system call; the new descriptor is owned by nobody else.
    let fd = unsafe { libc::socket(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_ipv6(fd, libc::IPV6_V6ONLY, 1)?;
    // SAFETY: the pointer and length describe the address.
    if with_address(at, at.port(), |a, len| unsafe { libc::bind(fd, a, len) }) != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket.into())
}

fn set_ipv6(fd: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    let set = unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_IPV6,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A raw socket; for TCP over IPv6 the kernel fills in the checksum.
fn raw(v4: bool, proto: u8) -> io::Result<OwnedFd> {
    let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call; the new descriptor is owned by nobody else.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, proto.into()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if !v4 && proto == TCP {
        set_ipv6(fd, libc::IPV6_CHECKSUM, 16)?;
    }
    Ok(socket)
}

/// Runs `call` with the address as the kernel wants it.
fn with_address<T>(
    to: SocketAddr,
    port: u16,
    call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> T,
) -> T {
    match to {
        SocketAddr::V4(to) => {
            // SAFETY: sockaddr_in is plain integers; all zeroes is a valid value.
            let mut a: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            a.sin_family = libc::AF_INET as u16;
            a.sin_port = port.to_be();
            a.sin_addr.s_addr = u32::from(*to.ip()).to_be();
            call((&raw const a).cast(), size_of_val(&a) as libc::socklen_t)
        }
        SocketAddr::V6(to) => {
            // SAFETY: sockaddr_in6 is plain integers; all zeroes is a valid value.
            let mut a: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            a.sin6_family = libc::AF_INET6 as u16;
            a.sin6_port = port.to_be();
            a.sin6_addr.s6_addr = to.ip().octets();
            a.sin6_scope_id = to.scope_id();
            call((&raw const a).cast(), size_of_val(&a) as libc::socklen_t)
        }
    }
}

fn send_to(fd: &OwnedFd, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    // A raw IPv6 socket takes no port.
    // SAFETY: the pointers and lengths describe `bytes` and the address.
    let sent = with_address(to, 0, |a, len| unsafe {
        libc::sendto(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, a, len)
    });
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Begins a connection and lets it go: exactly one SYN.
fn connect(to: SocketAddr) -> io::Result<()> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain system call; the new descriptor is owned by nobody else.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and ours.
    let _closed_at_the_end = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the pointer and length describe the address.
    let done = with_address(to, to.port(), |a, len| unsafe { libc::connect(fd, a, len) });
    match io::Error::last_os_error() {
        e if done < 0 && e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(()),
    }
}
