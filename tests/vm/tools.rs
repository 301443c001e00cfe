//! `nft`, `wg` and `conntrack` for a router whose CPU has no Debian packages: `vm-scenario` by another
//! name.
//!
//! They understand what the laboratory and the scenario say, and refuse everything else. Machines that
//! have the real programs use those.

mod curve;
mod nft;
mod wg;

use crate::lab::Res;
use std::io::Error;
use std::process::ExitCode;
use vpn_killswitch::netlink::{Request, Socket};

/// `NETLINK_NETFILTER` (linux/netlink.h).
const NETLINK_NETFILTER: u16 = 12;
/// `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK`, which without attributes means all.
const FORGET_ALL: u16 = 1 << 8 | 2;

/// Does what the program was called for; nothing if it was called by its own name.
pub fn called() -> Option<ExitCode> {
    let mut args = std::env::args();
    let path = args.next()?;
    let args: Vec<String> = args.collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let name = path.rsplit('/').next()?;
    let done = match name {
        "conntrack" => conntrack(&args),
        "nft" => nft::main(&args),
        "wg" => wg::main(&args),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    })
}

fn conntrack(args: &[&str]) -> Res<()> {
    match args {
        ["-F"] => {
            let request = Request { kind: FORGET_ALL, flags: 0, payload: vec![0; 4] };
            let mut socket = Socket::open(NETLINK_NETFILTER)?;
            Ok(socket.request(&request, |_| Ok(())).map_err(Error::from)?)
        }
        ["-L", "-f", family @ ("ipv4" | "ipv6")] => {
            let all = std::fs::read_to_string("/proc/self/net/nf_conntrack")?;
            all.lines().filter(|line| line.starts_with(family)).for_each(|line| println!("{line}"));
            Ok(())
        }
        _ => Err(unknown(args)),
    }
}

fn unknown(args: &[&str]) -> crate::lab::Error {
    format!("not understood: {}", args.join(" ")).into()
}
