//! How long a deleted table is away: from the moment before the kernel is told to delete it until the
//! kernel has committed another one of that name.
//!
//! By hand, for starting `nft` takes an emulated router longer than the repair.

use crate::lab::Res;
use crate::lab::ns::Ns;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// Messages and groups of linux/netfilter/nfnetlink.h and nf_tables.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u8 = 10;
const NEWTABLE: u16 = 10 << 8;
const DELTABLE: u16 = 10 << 8 | 2;
const NEWGEN: u16 = 10 << 8 | 15;
const GROUP_NFTABLES: u32 = 1 << 6;
const INET: u8 = 1;
const REQUEST: u16 = 1;

const TABLE: &[u8] = b"vpn_killswitch\0";
const PATIENCE: Duration = Duration::from_secs(20);

/// Deletes the table; when it is back.
pub fn time(router: &Ns) -> Res<Duration> {
    let socket = router.enter(open)??;
    let attribute = [&u16_bytes(4 + TABLE.len())?, &1u16.to_ne_bytes()[..], TABLE, &[0]].concat();
    let batch = [
        message(BATCH_BEGIN, [0, 0, 0, NFTABLES], &[])?,
        message(DELTABLE, [INET, 0, 0, 0], &attribute)?,
        message(BATCH_END, [0, 0, 0, NFTABLES], &[])?,
    ]
    .concat();
    let began = Instant::now();
    // SAFETY: pointer and length describe `batch`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), batch.as_ptr().cast(), batch.len(), 0) };
    if usize::try_from(sent) != Ok(batch.len()) {
        return Err(io::Error::last_os_error().into());
    }
    let (mut gone, mut back) = (false, false);
    let mut buffer = vec![0u8; 1 << 17];
    while began.elapsed() < PATIENCE {
        // SAFETY: pointer and length describe `buffer`.
        let got =
            unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let now = began.elapsed();
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let mut rest = &buffer[..got];
        while rest.len() >= 16 {
            let len = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let (one, more) = rest.split_at(((len.max(16) + 3) & !3).min(rest.len()));
            let ours = one.windows(TABLE.len()).any(|w| w == TABLE);
            gone |= kind == DELTABLE && ours;
            back |= kind == NEWTABLE && ours && gone;
            // The end of a transaction.
            if kind == NEWGEN && back {
                return Ok(now);
            }
            rest = more;
        }
    }
    Err(format!("gone: {gone}, back: {back} in {PATIENCE:?}").into())
}

fn u16_bytes(len: usize) -> Res<[u8; 2]> {
    Ok(u16::try_from(len)?.to_ne_bytes())
}

fn message(kind: u16, head: [u8; 4], attributes: &[u8]) -> Res<Vec<u8>> {
    let len = u32::try_from(16 + head.len() + attributes.len())?;
    let parts: [&[u8]; 7] = [
        &len.to_ne_bytes(),
        &kind.to_ne_bytes(),
        &REQUEST.to_ne_bytes(),
        &[0; 4],
        &[0; 4],
        &head,
        attributes,
    ];
    Ok(parts.concat())
}

fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: a plain system call; the new descriptor is owned by nobody else.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_nl is plain integers; all zeroes is a valid value.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as u16;
    address.nl_groups = GROUP_NFTABLES;
    let time = libc::timeval { tv_sec: PATIENCE.as_secs() as _, tv_usec: 0 };
    let options = [
        (libc::SO_RCVTIMEO, (&raw const time).cast::<libc::c_void>(), size_of_val(&time)),
        // A whole ruleset is told of at once.
        (libc::SO_RCVBUFFORCE, (&raw const BUFFER).cast(), size_of_val(&BUFFER)),
    ];
    for (option, value, len) in options {
        // SAFETY: pointer and length describe a value that outlives the call.
        if unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, value, len as u32) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: pointer and length describe `address`.
    match unsafe { libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

static BUFFER: libc::c_int = 4 << 20;
