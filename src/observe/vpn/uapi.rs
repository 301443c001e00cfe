//! WireGuard that runs as a program (wireguard-go, boringtun): its cross-platform interface, a socket
//! in `/var/run/wireguard` that answers `get=1` in lines of text.
//!
//! Responsible for asking without ever waiting long: whatever listens there may be stopped, or may be
//! somebody else's.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Running;
use super::wireguard::{Live, encode_key};

/// How long the whole answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// An answer has some hundred bytes for each peer.
const ANSWER_MAX: usize = 64 << 10;

/// What the program that owns the socket says about its device.
///
/// # Errors
/// Why it could not be asked, or did not answer as it should.
pub fn get(path: &Path) -> io::Result<Live> {
    let end = Instant::now() + PATIENCE;
    let mut stream = connect(path)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"get=1\n\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    // The answer ends with an empty line; the socket stays open for more questions.
    while !answer.ends_with(b"\n\n") {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => answer.extend(part.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(e) => return Err(e),
        }
        if answer.len() > ANSWER_MAX {
            return Err(invalid("the answer is too long"));
        }
    }
    parse(&String::from_utf8_lossy(&answer))
}

/// Connects without waiting: with a full queue of others, `connect` would wait for ever.
fn connect(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: a `sockaddr_un` is plain numbers, for which zero is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).map_err(io::Error::other)?;
    let path = path.as_os_str().as_bytes();
    // The last byte stays zero.
    if path.len() >= address.sun_path.len() {
        return Err(invalid("the path is too long for a socket"));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let length =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).map_err(io::Error::other)?;
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `address` is `length` readable bytes for the whole call, of the type that a Unix socket
    // takes.
    if unsafe { libc::connect(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Lines of `key=value`: the device first, then the peers, each from its `public_key` on.
fn parse(answer: &str) -> io::Result<Live> {
    let mut live = Live::default();
    let mut peer: Option<String> = None;
    let mut complete = false;
    for (key, value) in answer.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "listen_port" => live.listen_port = value.parse().unwrap_or(0),
            "fwmark" => live.mark = value.parse().unwrap_or(0),
            "public_key" => peer = from_hex(value).and_then(|key| encode_key(&key)),
            "endpoint" => {
                if let (Some(key), Some(addr)) = (peer.clone(), endpoint(value)) {
                    live.peers.push(Running { key, addr, handshake: 0, sent: 0 });
                }
            }
            // Behind the endpoint, as every program writes it.
            "last_handshake_time_sec" | "tx_bytes" => {
                let value = value.parse().unwrap_or(0);
                let last = live.peers.last_mut().filter(|l| Some(&l.key) == peer.as_ref());
                if let Some(last) = last {
                    *(if key == "tx_bytes" { &mut last.sent } else { &mut last.handshake }) = value;
                }
            }
            "errno" if value == "0" => complete = true,
            "errno" => return Err(invalid(&format!("it said errno={value}"))),
            _ => {}
        }
    }
    if complete { Ok(live) } else { Err(invalid("the answer has no end")) }
}

/// `192.0.2.1:51820`, `[2001:db8::1]:51820` or `[fe80::1%eth0]:51820`.
fn endpoint(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| {
        let (addr, port) = text.strip_prefix('[')?.split_once("]:")?;
        let (addr, _zone) = addr.split_once('%')?;
        Some(SocketAddr::new(addr.parse().ok()?, port.parse().ok()?))
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    digits?
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(high * 16 + low).ok(),
            _ => None,
        })
        .collect()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::UnixListener;

    /// From wireguard-go 0.0.20220316, shortened, with other keys and addresses.
    const ANSWER: &str = "private_key=0909090909090909090909090909090909090909090909090909090909090909\n\
        listen_port=12912\nfwmark=51820\n\
        public_key=0707070707070707070707070707070707070707070707070707070707070707\n\
        preshared_key=0000000000000000000000000000000000000000000000000000000000000000\n\
        protocol_version=1\nendpoint=[2001:db8::1]:51820\nlast_handshake_time_sec=1700000000\ntx_bytes=296\n\
        allowed_ip=0.0.0.0/0\n\
        public_key=0808080808080808080808080808080808080808080808080808080808080808\n\
        allowed_ip=10.0.0.0/8\nerrno=0\n\n";

    fn socket() -> (std::path::PathBuf, UnixListener) {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vks-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        (path, listener)
    }

    #[test]
    fn an_answer_is_read() {
        let live = parse(ANSWER).unwrap();
        assert_eq!((live.listen_port, live.mark), (12912, 51820));
        let addr = "[2001:db8::1]:51820".parse().unwrap();
        let key = encode_key(&[7; 32]).unwrap();
        assert_eq!(live.peers, [Running { key, addr, handshake: 1_700_000_000, sent: 296 }]);
        assert!(parse("errno=5\n\n").is_err() && parse("listen_port=1\n\n").is_err());
        let scoped = endpoint("[fe80::1%eth0]:5").unwrap();
        assert_eq!(scoped, "[fe80::1]:5".parse().unwrap());
    }

    #[test]
    fn an_answer_may_come_in_pieces() {
        let (path, listener) = socket();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 7];
            stream.read_exact(&mut question).unwrap();
            assert_eq!(&question, b"get=1\n\n");
            for piece in ANSWER.as_bytes().chunks(50) {
                stream.write_all(piece).unwrap();
            }
            // Held open, as wireguard-go does, until the other side has gone.
            let _ = stream.read(&mut question);
        });
        assert_eq!(get(&path).unwrap().listen_port, 12912);
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn silence_floods_and_full_queues_end_in_time() {
        let began = Instant::now();
        let (path, listener) = socket();
        assert_eq!(get(&path).unwrap_err().kind(), io::ErrorKind::TimedOut);

        // Nobody accepts, and nobody ever will: the queue fills, then connecting fails at once.
        // SAFETY: listen(2) takes no pointers.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
        let held: Vec<_> = std::iter::from_fn(|| connect(&path).ok()).take(100).collect();
        assert!(held.len() < 100);
        assert_eq!(get(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop((held, listener));
        assert_eq!(get(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_file(&path).unwrap();

        let (path, listener) = socket();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[b'x'; 1000]).is_ok() {}
        });
        assert_eq!(get(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn no_answer_is_a_surprise(text in "(listen_port|fwmark|public_key|endpoint|errno|[a-z=%:\\[\\]0-9\n\u{e9}]){0,20}") {
            let _ = parse(&text);
            let _ = from_hex(&text);
        }
    }
}
