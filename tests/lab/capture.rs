//! Captures: every frame of a device, none lost, from before the first packet to after the last.

use super::ns::Ns;
use super::packet::Packet;
use super::{Res, wait_for};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Ethertype of the frames that mark the end of a capture (for local experiments, IEEE 802).
const FENCE: u16 = 0x88b5;
/// How long the wire must be silent after the last packet. A packet that a generator has sent is
/// on the wire before its system call returns, unless the kernel is behind; this is the margin.
const SILENCE: Duration = Duration::from_millis(40);

/// A running capture of one device.
pub struct Capture {
    device: String,
    socket: Arc<OwnedFd>,
    /// A socket does not see what it sends itself, so the fence needs another one.
    fence: OwnedFd,
    index: u32,
    state: Arc<State>,
    thread: Option<JoinHandle<Res<()>>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    fenced: AtomicBool,
    /// How many frames came: another number means that the wire is not silent yet.
    count: AtomicUsize,
    packets: Mutex<Vec<Packet>>,
}

impl Capture {
    /// Begins to capture `device` in `ns`; when this returns, nothing escapes it.
    pub fn start(ns: &Ns, device: &str) -> Res<Self> {
        let index = ns.index(device)?;
        let fence = ns.enter(socket)??;
        let socket = Arc::new(ns.enter(|| open(index))??);
        let state = Arc::new(State::default());
        let thread = {
            let (state, socket) = (Arc::clone(&state), Arc::clone(&socket));
            std::thread::spawn(move || read(socket.as_raw_fd(), index, &state))
        };
        let device = format!("{} in {}", device, ns.name());
        Ok(Self { device, socket, fence, index, state, thread: Some(thread) })
    }

    /// Polls until a packet like this has been seen.
    pub fn wait(&self, what: &str, seconds: f64, like: impl Fn(&Packet) -> bool) -> Res<()> {
        wait_for(what, seconds, || self.state.packets.lock().unwrap().iter().any(&like))
    }

    /// How many packets like this were seen so far, for a wire that never falls silent.
    pub fn so_far(&self, like: impl Fn(&Packet) -> bool) -> usize {
        self.state.packets.lock().unwrap().iter().filter(|p| like(p)).count()
    }

    /// Lets everything under way arrive, stops, and returns every packet. An error if the kernel
    /// had to drop a single one: a count would then be worth nothing.
    pub fn finish(mut self) -> Res<Vec<Packet>> {
        let began = Instant::now();
        // A frame of our own through the same queue; a device that is gone has nothing to fence.
        if send_fence(self.fence.as_raw_fd(), self.index) {
            wait_for("end of capture", 5.0, || self.state.fenced.load(Ordering::Acquire))?;
        }
        let mut last = (Instant::now(), self.state.count.load(Ordering::Acquire));
        while last.0.elapsed() < SILENCE {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.state.count.load(Ordering::Acquire);
            if now != last.1 {
                last = (Instant::now(), now);
            }
            if began.elapsed() > Duration::from_secs(10) {
                return Err(format!("{} does not fall silent", self.device).into());
            }
        }
        self.state.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| "capture died")??;
        }
        let dropped = drops(self.socket.as_raw_fd())?;
        if dropped > 0 {
            return Err(format!("capture of {} lost {dropped} packets", self.device).into());
        }
        Ok(std::mem::take(&mut *self.state.packets.lock().unwrap()))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
    }
}

fn socket() -> io::Result<OwnedFd> {
    // Protocol 0: nothing arrives before bind, so that no packet of another device gets in.
    // SAFETY: a plain system call; the new descriptor is owned by nobody else.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open(index: u32) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let fd = socket.as_raw_fd();
    let size: libc::c_int = 64 << 20;
    for option in [libc::SO_RCVBUF, libc::SO_RCVBUFFORCE] {
        // The second needs a privilege outside user namespaces; the first gives the allowed maximum.
        // SAFETY: pointer and length describe `size`.
        unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        };
    }
    let address = link_address(index, libc::ETH_P_ALL as u16);
    // SAFETY: pointer and length describe a sockaddr_ll.
    let bound = unsafe {
        libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn link_address(index: u32, protocol: u16) -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is plain integers; all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as i32;
    address
}

fn read(fd: RawFd, index: u32, state: &State) -> Res<()> {
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, and the length says so.
        unsafe { libc::poll(&raw mut poll, 1, 10) };
        let mut from = link_address(0, 0);
        let mut from_len = size_of_val(&from) as libc::socklen_t;
        // SAFETY: the pointers and lengths describe `buffer` and `from`.
        let len = unsafe {
            libc::recvfrom(
                fd,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                (&raw mut from).cast(),
                &raw mut from_len,
            )
        };
        let Ok(len) = usize::try_from(len) else {
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN) if state.stop.load(Ordering::Acquire) => return Ok(()),
                // The device went down or away: the socket says so once.
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN | libc::ENODEV | libc::ENXIO) => {}
                _ => return Err(io::Error::last_os_error().into()),
            }
            continue;
        };
        if from.sll_ifindex != index as i32 {
            continue;
        }
        let ethertype = u16::from_be(from.sll_protocol);
        if ethertype == FENCE {
            state.fenced.store(true, Ordering::Release);
            continue;
        }
        let ethernet = matches!(from.sll_hatype, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK);
        let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
        let packet = Packet::parse(&buffer[..len], ethernet, ethertype, outgoing);
        state.packets.lock().unwrap().push(packet);
        state.count.fetch_add(1, Ordering::Release);
    }
}

fn send_fence(fd: RawFd, index: u32) -> bool {
    let mut address = link_address(index, FENCE);
    address.sll_halen = 6;
    address.sll_addr = [2; 8];
    let mut frame = [0u8; 60];
    frame[..6].fill(0x02);
    frame[6..12].fill(0x02);
    frame[12..14].copy_from_slice(&FENCE.to_be_bytes());
    // SAFETY: the pointers and lengths describe `frame` and `address`.
    let sent = unsafe {
        libc::sendto(
            fd,
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    sent == frame.len() as isize
}

fn drops(fd: RawFd) -> io::Result<u32> {
    // SAFETY: tpacket_stats is two integers.
    let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: pointer and length describe `stats`.
    let got = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stats.tp_drops)
}
