//! What a router spends on a packet.
//!
//! One thread sends ready-made frames; the kernel takes each batch through the client's cable, the
//! bridge, the router and out to where it is thrown away before the system call returns. So the
//! time of the call is the packets' whole way, on one CPU, with nothing queued. What the sending
//! itself costs is measured with frames that end at the router's bridge, and taken off.

use crate::lab::Res;
use crate::lab::ns::Ns;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Instant;

/// Frames in one system call, each of another connection.
const BATCH: usize = 64;
/// Calls in one measurement: a few milliseconds, so that most are not interrupted.
const CALLS: usize = 32;

const IPV4: u16 = 0x0800;
/// Ethertype for local experiments (IEEE 802): nobody listens to it.
const NOBODY: u16 = 0x88b5;
const LEN: usize = 14 + 20 + 8 + 18;

/// A batch of frames, ready to be sent.
pub struct Frames(Vec<[u8; LEN]>);

impl Frames {
    /// UDP datagrams that are to be forwarded.
    pub fn udp(from: Ipv4Addr, to: Ipv4Addr, mac: [u8; 6]) -> Self {
        let frame = |n: usize| {
            let mut frame = [0; LEN];
            frame[..6].copy_from_slice(&mac);
            frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
            frame[12..14].copy_from_slice(&IPV4.to_be_bytes());
            let ip = &mut frame[14..34];
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&((LEN - 14) as u16).to_be_bytes());
            ip[8..10].copy_from_slice(&[64, 17]);
            ip[12..16].copy_from_slice(&from.octets());
            ip[16..20].copy_from_slice(&to.octets());
            let mut sum: u32 =
                ip.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
            sum = (sum & 0xffff) + (sum >> 16);
            ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            // A checksum of 0 says that there is none.
            frame[34..36].copy_from_slice(&(20_000 + n as u16).to_be_bytes());
            frame[36..38].copy_from_slice(&443u16.to_be_bytes());
            frame[38..40].copy_from_slice(&((LEN - 34) as u16).to_be_bytes());
            frame
        };
        Self((0..BATCH).map(frame).collect())
    }

    /// The same frames of a protocol that nobody listens to.
    pub fn unheard(&self) -> Self {
        let mut frames = self.0.clone();
        frames.iter_mut().for_each(|f| f[12..14].copy_from_slice(&NOBODY.to_be_bytes()));
        Self(frames)
    }
}

/// A socket that sends frames.
pub struct Sender {
    socket: OwnedFd,
    /// Frames sent so far.
    pub sent: u64,
}

impl Sender {
    /// Sends out of `device` in `ns`.
    pub fn new(ns: &Ns, device: &str) -> Res<Self> {
        let index = ns.index(device)?;
        let socket = ns.enter(|| -> io::Result<OwnedFd> {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            // SAFETY: socket(2) takes no pointers. Protocol 0 receives nothing.
            let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: `fd` was just opened and nobody else owns it.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: sockaddr_ll is plain integers.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_ifindex = index as i32;
            let size = size_of_val(&to) as libc::socklen_t;
            // SAFETY: pointer and length describe `to`.
            if unsafe { libc::bind(socket.as_raw_fd(), (&raw const to).cast(), size) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(socket)
        })??;
        Ok(Self { socket, sent: 0 })
    }

    /// Nanoseconds per packet, the best undisturbed of `times` short floods.
    pub fn cost(&mut self, frames: &Frames, times: usize) -> Res<f64> {
        let mut took = Vec::with_capacity(times);
        let mut tries = 0;
        while took.len() < times {
            let switched = interruptions();
            let start = Instant::now();
            for _ in 0..CALLS {
                self.send(frames)?;
            }
            let elapsed = start.elapsed().as_secs_f64() * 1e9 / (CALLS * BATCH) as f64;
            // Somebody else had the CPU in between; after many tries that has to do.
            if interruptions() == switched || tries > 4 * times {
                took.push(elapsed);
            }
            tries += 1;
        }
        Ok(super::Series(took).median())
    }

    fn send(&mut self, frames: &Frames) -> io::Result<()> {
        // SAFETY: iovec and mmsghdr are plain integers and pointers; null is a valid value.
        let (mut vectors, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        for ((vector, message), frame) in vectors.iter_mut().zip(&mut messages).zip(&frames.0) {
            vector.iov_base = frame.as_ptr().cast_mut().cast();
            vector.iov_len = frame.len();
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        let mut done = 0;
        while done < BATCH {
            let rest = &mut messages[done..];
            // SAFETY: `rest` and all it points to outlive the call, which only reads the frames.
            let sent = unsafe {
                libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0)
            };
            if sent < 0 {
                return Err(io::Error::last_os_error());
            }
            done += sent as usize;
            self.sent += sent as u64;
        }
        Ok(())
    }
}

/// How often this thread has lost the CPU to somebody.
fn interruptions() -> i64 {
    // SAFETY: rusage is plain integers, and getrusage fills in the one that it is given.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_nivcsw
    }
}

/// Packets that a device of `ns` has received.
pub fn received(ns: &Ns, device: &str) -> Res<u64> {
    let text = ns.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = text.lines().find_map(|l| l.trim().strip_prefix(device)?.strip_prefix(':'));
    let field = line.and_then(|l| l.split_whitespace().nth(1));
    Ok(field.ok_or_else(|| format!("no device {device}"))?.parse()?)
}
