//! A small netlink socket: one request with its replies, or one nftables transaction.
//!
//! Responsible for bytes and errors only; what the messages say is `netlink-bindings`' part. It is our
//! own because the bindings' companion crate hides its socket (a transaction with 10,000 addresses
//! needs a larger send buffer), reads into 8 KiB without noticing truncation and waits for ever;
//! docs/dependencies.md has the proof.

pub mod attr;
mod batch;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use netlink_bindings::utils::find_attr;

pub use batch::Batch;

/// Bytes of a `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
/// Where a `struct nlmsgerr` keeps the header of the message that it answers.
const ERROR_ECHO: usize = HEADER + 4;
/// How long the kernel may take for an answer. Netlink answers within the system call that asks; this
/// bound only turns "never" into an error.
const ANSWER_SECS: u8 = 10;
/// Room for messages on their way, in both directions: 10,000 addresses take about 400 KB.
const BUFFER_BYTES: libc::c_int = 8 << 20;
/// First guess for the size of one datagram from the kernel; grows when one is larger.
const DATAGRAM_BYTES: usize = 32 << 10;

/// How often an interrupted listing is asked for again.
const ATTEMPTS: usize = 16;

const NLMSGERR_ATTR_MSG: u16 = 1;

/// A message that the kernel refused.
#[derive(Debug)]
pub struct Refusal {
    /// Which message of a transaction, from 0; 0 for a single request.
    pub index: usize,
    /// The error.
    pub error: io::Error,
    /// The kernel's own words (extended ACK), where it gave any.
    pub words: Option<String>,
}

impl Refusal {
    fn local(error: io::Error) -> Self {
        Self { index: 0, error, words: None }
    }

    /// Whether the kernel said `errno`.
    pub fn is(&self, errno: i32) -> bool {
        self.error.raw_os_error() == Some(errno)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.error)?;
        self.words.as_ref().map_or(Ok(()), |words| write!(f, ": {words}"))
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal.words {
            None => refusal.error,
            Some(words) => {
                io::Error::new(refusal.error.kind(), format!("{}: {words}", refusal.error))
            }
        }
    }
}

/// A netlink socket of one protocol, in the network namespace where it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Opens a socket for `protocol` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`).
    ///
    /// # Errors
    /// What the kernel said; `EPROTONOSUPPORT` when it was built without that protocol.
    pub fn open(protocol: u16) -> io::Result<Self> {
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::c_int::from(protocol),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd, sequence: 1, buffer: vec![0; DATAGRAM_BYTES] };

        // Extended errors name the attribute that was wrong; kernels before 4.12 have none.
        let _ = socket.set_option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, &1);
        // Without this a refusal repeats the whole message that was refused.
        let _ = socket.set_option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, &1);
        for (forced, plain) in
            [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)]
        {
            // The forced one needs CAP_NET_ADMIN in the first user namespace.
            if socket.set_option(libc::SOL_SOCKET, forced, &BUFFER_BYTES).is_err() {
                let _ = socket.set_option(libc::SOL_SOCKET, plain, &BUFFER_BYTES);
            }
        }
        let patience = libc::timeval { tv_sec: ANSWER_SECS.into(), tv_usec: 0 };
        socket.set_option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
        Ok(socket)
    }

    fn set_option<T: Copy>(
        &self,
        level: libc::c_int,
        name: libc::c_int,
        value: &T,
    ) -> io::Result<()> {
        let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
        // SAFETY: `value` points to `len` readable bytes for the whole call, and the callers pass the
        // C type that the option takes (`int`, `struct timeval`).
        let done = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                len,
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends one request and gives the payload of every reply to `each`.
    ///
    /// # Errors
    /// The kernel's refusal; `EINTR` when what was listed changed meanwhile (see [`again`]); what `each`
    /// returned.
    pub fn request(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Refusal> {
        self.exchange(request, &mut each)
    }

    /// Once for all callers: a copy of this for each would fill a router's flash.
    fn exchange(
        &mut self,
        request: &Request,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Refusal> {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Vec::with_capacity(HEADER + request.payload.len());
        begin(&mut message, request.kind, request.flags | flag(libc::NLM_F_ACK), sequence);
        message.extend(&request.payload);
        end(&mut message, 0);
        self.send(&message).map_err(Refusal::local)?;

        // A listing that was interrupted is read to its end, or its rest would answer the next one.
        let mut interrupted = false;
        let mut failed: Option<io::Error> = None;
        loop {
            let length = self.receive(0).map_err(Refusal::local)?;
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                let message = message.map_err(Refusal::local)?;
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & flag(libc::NLM_F_DUMP_INTR) != 0;
                match message.outcome()? {
                    Outcome::Data(payload) if failed.is_none() => failed = each(payload).err(),
                    Outcome::Data(_) => {}
                    Outcome::Done if interrupted => {
                        return Err(Refusal::local(io::Error::from_raw_os_error(libc::EINTR)));
                    }
                    Outcome::Done => return failed.map_or(Ok(()), |e| Err(Refusal::local(e))),
                }
            }
        }
    }

    /// Sends an nftables transaction and waits for the kernel's decision.
    ///
    /// # Errors
    /// The refusal of the first message that was refused; nothing of the batch is in force then.
    /// `EPIPE` when the kernel gave no answer: what is in force must be read back.
    pub fn transact(&mut self, batch: Batch) -> Result<(), Refusal> {
        let first_sequence = batch.first_sequence;
        let (bytes, last) = batch.finish();
        self.sequence = first_sequence.wrapping_add(u32::try_from(last).unwrap_or(0) + 2);
        self.send(&bytes).map_err(Refusal::local)?;

        // The kernel decides, and queues every answer, before send returns.
        let mut accepted = false;
        let mut refusal: Option<Refusal> = None;
        loop {
            let length = match self.receive(libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(refusal.unwrap_or_else(|| Refusal::local(e))),
            };
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                let message = message.map_err(Refusal::local)?;
                let index = message.sequence.wrapping_sub(first_sequence) as usize;
                if index > last {
                    continue;
                }
                match message.outcome() {
                    Ok(_) => accepted |= index == last,
                    Err(new) => {
                        let new = Refusal { index, ..new };
                        if refusal.as_ref().is_none_or(|old| new.index < old.index) {
                            refusal = Some(new);
                        }
                    }
                }
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None if accepted => Ok(()),
            None => Err(Refusal::local(io::Error::from_raw_os_error(libc::EPIPE))),
        }
    }

    /// Closes the socket without waiting. When a transaction has deleted something, the kernel makes
    /// whoever closes wait until no CPU can still see it (an RCU grace period, some 20 ms), though
    /// what was sent is in force. A child that does nothing else does the waiting; where there can be
    /// none, we do.
    ///
    /// Only for a process of one thread that is about to end: nobody waits for the child.
    pub fn close_behind(self) {
        let fd = self.fd.as_raw_fd();
        // SAFETY: fork(2) takes no pointers. There is one thread, so the child's memory is whole; the
        // child calls only close(2) and _exit(2), which take no pointers either, and never returns.
        unsafe {
            if libc::fork() == 0 {
                // Who reads our output, or waits for our lock, must not wait for the child.
                for other in 0..fd {
                    libc::close(other);
                }
                libc::_exit(0);
            }
        }
    }

    /// An empty transaction, which the kernel refuses if its rules are no longer of `generation`.
    pub fn batch(&self, generation: u32) -> Batch {
        Batch::new(self.sequence, generation)
    }

    /// Subscribes to the kernel's notices of these groups.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn join(&mut self, groups: &[u32]) -> io::Result<()> {
        // SAFETY: a `sockaddr_nl` is plain numbers, for which zero is valid.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family =
            libc::sa_family_t::try_from(libc::AF_NETLINK).map_err(io::Error::other)?;
        let length =
            libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).map_err(io::Error::other)?;
        // SAFETY: `address` is `length` readable bytes for the whole call, of the type that a netlink
        // socket takes.
        let bound =
            unsafe { libc::bind(self.fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        for group in groups {
            self.set_option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)?;
        }
        Ok(())
    }

    /// Gives every notice that has come, by message type and payload, to `each`, and does not wait for
    /// more. Notices that were lost because there were too many are no error: whoever is told of some
    /// looks at everything.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn drain(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.drain_into(&mut each)
    }

    fn drain_into(&mut self, each: &mut dyn FnMut(u16, &[u8])) -> io::Result<()> {
        loop {
            let length = match self.receive(libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(e) => return Err(e),
            };
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                let message = message?;
                each(message.kind, message.bytes.get(HEADER..).unwrap_or_default());
            }
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        loop {
            // SAFETY: `message` is `message.len()` readable bytes for the whole call.
            let sent = unsafe {
                libc::send(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0)
            };
            match usize::try_from(sent) {
                Ok(sent) if sent == message.len() => return Ok(()),
                // Netlink takes a datagram whole or not at all.
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }

    /// Receives one whole datagram into the buffer.
    fn receive(&mut self, flags: libc::c_int) -> io::Result<usize> {
        loop {
            // First look how long it is: a datagram that does not fit would be cut off silently.
            let length = self.receive_raw(flags | libc::MSG_PEEK | libc::MSG_TRUNC)?;
            if length > self.buffer.len() {
                self.buffer.resize(length, 0);
                continue;
            }
            return self.receive_raw(flags);
        }
    }

    fn receive_raw(&mut self, flags: libc::c_int) -> io::Result<usize> {
        loop {
            // SAFETY: the buffer is `len()` writable bytes for the whole call.
            let got = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    flags,
                )
            };
            match usize::try_from(got) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => return Ok(got),
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }
}

/// Waits until one of `fds` has one of its events (`POLLIN`, `POLLOUT`), or for `patience` at most.
///
/// # Errors
/// What the kernel said.
pub fn wait(
    fds: &[(BorrowedFd<'_>, libc::c_short)],
    patience: Option<std::time::Duration>,
) -> io::Result<()> {
    let pollfd = |(fd, events): &(BorrowedFd<'_>, libc::c_short)| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: *events,
        revents: 0,
    };
    let mut set: Vec<libc::pollfd> = fds.iter().map(pollfd).collect();
    let count = libc::nfds_t::try_from(set.len()).map_err(io::Error::other)?;
    // Rounded up: who wakes just before a deadline would only wait again.
    let millis = |p: std::time::Duration| {
        let parts = u64::from(p.subsec_nanos().div_ceil(1_000_000));
        p.as_secs().checked_mul(1000)?.checked_add(parts).and_then(|ms| i32::try_from(ms).ok())
    };
    let millis = patience.map_or(-1, |p| millis(p).unwrap_or(i32::MAX));
    // SAFETY: `set` is `count` pollfds, and lives and is not otherwise used for the whole call; its
    // descriptors are borrowed, so they are open.
    if unsafe { libc::poll(set.as_mut_ptr(), count, millis) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

/// Asks again when what is listed changed meanwhile (`EINTR`).
///
/// # Errors
/// Any other refusal, or that it never stopped changing.
pub fn again<T>(mut ask: impl FnMut() -> Result<T, Refusal>) -> Result<T, Refusal> {
    let mut attempts = 1..ATTEMPTS;
    loop {
        match ask() {
            Err(refusal) if refusal.is(libc::EINTR) && attempts.next().is_some() => {}
            other => return other,
        }
    }
}

/// What is asked of the kernel.
#[derive(Debug)]
pub struct Request {
    /// Message type.
    pub kind: u16,
    /// `NLM_F_*` besides those of every request.
    pub flags: u16,
    /// Fixed header and attributes.
    pub payload: Vec<u8>,
}

impl Request {
    /// A request for a list of everything that the header in `payload` does not leave out.
    pub fn list(kind: u16, payload: Vec<u8>) -> Self {
        Self { kind, flags: flag(libc::NLM_F_DUMP), payload }
    }
}

/// Appends a `struct nlmsghdr` whose length [`end`] fills in.
fn begin(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32) {
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend((flags | flag(libc::NLM_F_REQUEST)).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
}

fn end(out: &mut [u8], at: usize) {
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(at..at + 4) {
        field.copy_from_slice(&length.to_ne_bytes());
    }
}

/// The constants are C ints whose values fit in the header's 16 bits.
pub const fn flag(flag: libc::c_int) -> u16 {
    let [low, high, ..] = flag.to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// One message of a datagram.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// With its header.
    bytes: &'a [u8],
}

enum Outcome<'a> {
    Data(&'a [u8]),
    Done,
}

impl<'a> Message<'a> {
    fn outcome(&self) -> Result<Outcome<'a>, Refusal> {
        let (error, done) = (libc::NLMSG_ERROR, libc::NLMSG_DONE);
        if self.kind != flag(error) && self.kind != flag(done) {
            return Ok(Outcome::Data(self.bytes.get(HEADER..).unwrap_or_default()));
        }
        // "Done" without a code is what old kernels end a listing with.
        let code = read_u32(self.bytes, HEADER).map_or(0, u32::cast_signed);
        if code == 0 {
            return Ok(Outcome::Done);
        }
        let words = (self.flags & flag(NLM_F_ACK_TLVS) != 0 && self.kind == flag(error))
            .then(|| self.bytes.get(ERROR_ECHO + HEADER..))
            .flatten()
            .and_then(|attrs| find_attr(attrs, NLMSGERR_ATTR_MSG))
            .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
        let error = io::Error::from_raw_os_error(code.wrapping_neg());
        Err(Refusal { index: 0, error, words })
    }
}

const NLM_F_ACK_TLVS: libc::c_int = 0x200;

struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = (|| {
            let length = read_u32(self.0, 0)? as usize;
            let bytes = self.0.get(..length).filter(|b| b.len() >= HEADER)?;
            Some(Message {
                kind: read_u16(bytes, 4)?,
                flags: read_u16(bytes, 6)?,
                sequence: read_u32(bytes, 8)?,
                bytes,
            })
        })();
        let Some(message) = parsed else {
            self.0 = &[];
            return Some(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel sent a message that is shorter than it says",
            )));
        };
        self.0 = self.0.get(message.bytes.len().next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(message))
    }
}
