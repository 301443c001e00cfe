//! Sockets to one server: marked, bound to a device, never blocking, from a port nobody can guess.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Server;

/// Ports from here on are ours to choose from: half of all, and no well-known service among them.
const FIRST_PORT: u16 = 0x8000;
/// A chosen port may be taken; so often in a row it is not chance.
const PORT_TRIES: usize = 16;

/// An unconnected datagram could come from anybody; this one hears only its server.
///
/// # Errors
/// What the kernel said: no route, no such device, not allowed.
pub fn udp(server: &Server, mark: u32) -> io::Result<UdpSocket> {
    let fd = open(libc::SOCK_DGRAM, server, mark)?;
    let any = match server.addr.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let mut tries = PORT_TRIES;
    while let Err(e) = call(libc::bind, &fd, SocketAddr::new(any, random()? | FIRST_PORT)) {
        tries -= 1;
        if e.kind() != io::ErrorKind::AddrInUse || tries == 0 {
            return Err(e);
        }
    }
    call(libc::connect, &fd, server.addr)?;
    Ok(fd.into())
}

/// A connection that is on its way; sending says when it is there, or why it failed.
///
/// # Errors
/// What the kernel said: no route, no such device, not allowed.
pub fn tcp(server: &Server, mark: u32) -> io::Result<TcpStream> {
    let fd = open(libc::SOCK_STREAM, server, mark)?;
    match call(libc::connect, &fd, server.addr) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(fd.into()),
    }
}

/// 16 bits that cannot be guessed.
///
/// # Errors
/// Right after a start the kernel may not have any yet. It is not waited for.
pub fn random() -> io::Result<u16> {
    let mut bytes = [0; 2];
    // SAFETY: `bytes` is `bytes.len()` writable bytes for the whole call.
    let got =
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    match usize::try_from(got) {
        Ok(got) if got == bytes.len() => Ok(u16::from_ne_bytes(bytes)),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => match io::Error::last_os_error() {
            // Before Linux 3.17.
            e if e.raw_os_error() == Some(libc::ENOSYS) => {
                File::open("/dev/urandom")?.read_exact(&mut bytes)?;
                Ok(u16::from_ne_bytes(bytes))
            }
            e => Err(e),
        },
    }
}

fn open(kind: libc::c_int, server: &Server, mark: u32) -> io::Result<OwnedFd> {
    let family = if server.addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // Before anything is sent or connected: what carries no mark is not let out.
    if mark != 0 {
        set_option(&fd, libc::SO_MARK, &mark.to_ne_bytes())?;
    }
    if let Some(device) = &server.device {
        // An empty name would undo the binding, a long one would be cut.
        if device.is_empty() || device.len() >= libc::IFNAMSIZ {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        set_option(&fd, libc::SO_BINDTODEVICE, device.as_bytes())?;
    }
    Ok(fd)
}

fn set_option(fd: &OwnedFd, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is `length` readable bytes for the whole call. The callers pass what the option
    // takes: the four bytes of an integer, or a name that the kernel ends itself.
    let done = unsafe {
        let value = value.as_ptr().cast();
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, value, length)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What bind(2) and connect(2) have in common.
type AddressCall =
    unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int;

fn call(function: AddressCall, fd: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    let done = match addr {
        SocketAddr::V4(addr) => {
            // SAFETY: a `sockaddr_in` is plain numbers, for which zero is valid.
            let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = family(libc::AF_INET)?;
            raw.sin_port = addr.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(addr.ip().octets());
            let length = length_of(&raw)?;
            // SAFETY: `raw` is `length` readable bytes for the whole call, of the type that goes with
            // its family.
            unsafe { function(fd.as_raw_fd(), std::ptr::from_ref(&raw).cast(), length) }
        }
        SocketAddr::V6(addr) => {
            // SAFETY: a `sockaddr_in6` is plain numbers, for which zero is valid.
            let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = family(libc::AF_INET6)?;
            raw.sin6_port = addr.port().to_be();
            raw.sin6_addr.s6_addr = addr.ip().octets();
            raw.sin6_scope_id = addr.scope_id();
            let length = length_of(&raw)?;
            // SAFETY: as above.
            unsafe { function(fd.as_raw_fd(), std::ptr::from_ref(&raw).cast(), length) }
        }
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn family(family: libc::c_int) -> io::Result<libc::sa_family_t> {
    libc::sa_family_t::try_from(family).map_err(io::Error::other)
}

fn length_of<T>(_: &T) -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)
}
