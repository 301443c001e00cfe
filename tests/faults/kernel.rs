//! Kernels and rights that the program cannot work with: it says what is missing, and protection
//! stays as it is.

use crate::inject::begins_transaction;
use crate::lab::Res;
use crate::lab::traffic::can_become;
use crate::stage::{NEW, OLD, Stage, assert_refused, binary};
use crate::tracee::{Stop, Tracee, impatient};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

/// `NFNL_SUBSYS_NFTABLES`, in the high byte of a message's type.
const NFTABLES: u8 = 10;
/// A subsystem that no kernel has.
const NO_SUBSYSTEM: u8 = 0x7f;
const NOBODY: u32 = 65534;

/// Opens a netlink socket of this protocol.
fn opens(stop: &Stop, protocol: i32) -> bool {
    stop.call == libc::SYS_socket
        && stop.args[0] == libc::AF_NETLINK as u64
        && stop.args[2] == protocol as u64
}

/// Runs every command that touches the kernel, under `fault`; each must refuse with these words and
/// change neither the kernel nor the file.
fn refused(fault: impl Fn(&mut Tracee) -> Res<()>, commands: &[&str], words: &[&str]) -> Res<()> {
    let mut stage = Stage::new()?;
    let old = stage.ruleset(OLD)?;
    stage.put(Some(&old))?;
    let before = stage.kernel()?;
    for command in commands {
        stage.configure(NEW)?;
        // Without it iptables would do.
        let mut run = Tracee::start(stage.command(&["--backend", "nft", command]))?;
        fault(&mut run)?;
        assert_refused(&run.finish()?, 1, words);
        assert!(stage.kernel()? == before, "{command}: protection changed");
        assert_eq!(fs::read_to_string(stage.file())?, NEW, "{command}");
    }
    Ok(())
}

#[test]
fn a_kernel_without_netfilter_netlink_is_named() -> Res<()> {
    refused(
        |run| {
            run.run_until("nftables", |_, stop| opens(stop, libc::NETLINK_NETFILTER))?;
            run.fail(libc::EPROTONOSUPPORT)
        },
        &["apply", "enable", "disable", "status", "check"],
        &["the kernel's nftables cannot be used", "Protocol not supported", "kmod-nft-core"],
    )
}

#[test]
fn a_kernel_without_nf_tables_is_named() -> Res<()> {
    // The question goes to a subsystem that does not exist, so the kernel itself gives the answer that
    // one without nf_tables gives.
    refused(
        |run| {
            let at = run.run_until("nftables", |run, stop| {
                stop.call == libc::SYS_sendto
                    && run.peek(stop.args[1] + 5).is_ok_and(|byte| byte == NFTABLES)
            })?;
            run.poke(at.args[1] + 5, NO_SUBSYSTEM)
        },
        &["apply", "enable", "disable", "status", "check"],
        &["the kernel's nftables cannot be used", "Invalid argument", "kmod-nft-core"],
    )
}

#[test]
fn a_kernel_whose_nf_tables_is_of_no_use_is_named() -> Res<()> {
    refused(
        |run| {
            run.run_until("nftables", |run, stop| {
                stop.call == libc::SYS_sendto
                    && run.peek(stop.args[1] + 5).is_ok_and(|byte| byte == NFTABLES)
            })?;
            run.fail(libc::EOPNOTSUPP)
        },
        &["apply", "enable", "disable", "status", "check"],
        &["the kernel's nftables cannot be used", "Operation not supported"],
    )
}

#[test]
fn a_kernel_without_rtnetlink_is_named() -> Res<()> {
    refused(
        |run| {
            run.run_until("rtnetlink", |_, stop| opens(stop, libc::NETLINK_ROUTE))?;
            run.fail(libc::EPROTONOSUPPORT)
        },
        &["apply", "enable", "status", "check"],
        &["cannot list the network devices", "Protocol not supported"],
    )
}

/// Asks every transaction for a key of this expression that no kernel knows, where ours is this one.
fn unknown_key(run: &mut Tracee, expression: &[u8], key: u8) -> Res<usize> {
    let mut count = 0;
    while let Some(stop) = run.next()? {
        if !stop.entry || !begins_transaction(run, &stop) {
            continue;
        }
        let (at, length) = (stop.args[1], stop.args[2]);
        let bytes = (at..at + length).map(|a| run.peek(a)).collect::<Res<Vec<u8>>>()?;
        // Attribute 1 of an expression is its name; attribute 2 of its data here the key.
        let name = [&[expression.len() as u8 + 5, 0, 1, 0], expression, &[0]].concat();
        let key = [8, 0, 2, 0, 0, 0, 0, key];
        for begin in (0..bytes.len()).filter(|n| bytes[*n..].starts_with(&name)) {
            // The name, the header of its data, and before the key perhaps the register.
            let rest = begin + name.len().next_multiple_of(4) + 4;
            for offset in [rest, rest + 8] {
                if bytes.get(offset..).is_some_and(|b| b.starts_with(&key)) {
                    run.poke(at + (offset + 7) as u64, 0x7f)?;
                    count += 1;
                }
            }
        }
    }
    Ok(count)
}

#[test]
fn a_kernel_that_knows_no_ipsec_is_named_and_the_boot_step_closes() -> Res<()> {
    const RT_XFRM: u8 = 4;
    const META_SECPATH: u8 = 25;
    for (expression, key) in [(&b"rt"[..], RT_XFRM), (b"meta", META_SECPATH)] {
        let mut stage = Stage::new()?;
        let old = stage.ruleset(OLD)?;
        stage.put(Some(&old))?;
        let before = stage.kernel()?;
        let ipsec = OLD.replace("option enabled '1'\n", "option enabled '1'\n\toption ipsec '1'\n");
        stage.configure(&ipsec)?;
        let mut run = Tracee::start(stage.command(&["apply"]))?;
        assert!(unknown_key(&mut run, expression, key)? > 0);
        let words = ["the kernel refused", "not supported", "option ipsec needs a kernel"];
        assert_refused(&run.finish()?, 1, &words);
        assert!(stage.kernel()? == before, "protection changed");

        stage.put(None)?;
        let mut run = Tracee::start(stage.command(&["apply", "--boot"]))?;
        assert!(unknown_key(&mut run, expression, key)? > 0);
        let words = ["option ipsec needs a kernel", "nothing is forwarded until this is mended"];
        assert_refused(&run.finish()?, 1, &words);
        let closed = vpn_killswitch::ruleset::build(&vpn_killswitch::policy::Policy::closed());
        let differences = stage.nft.check(&closed).map_err(|e| e.to_string())?;
        assert!(differences.is_empty(), "{differences:?}");
    }
    Ok(())
}

#[test]
fn without_rights_nothing_changes() -> Res<()> {
    let mut stage = Stage::new()?;
    let old = stage.ruleset(OLD)?;
    stage.put(Some(&old))?;
    let before = stage.kernel()?;
    stage.configure(NEW)?;
    for command in ["apply", "enable", "disable", "status"] {
        let out = powerless(&stage, &[command])?;
        assert_refused(&out, 1, &["not permitted to change the firewall; run this as root"]);
        assert!(stage.kernel()? == before, "{command}: protection changed");
        assert_eq!(fs::read_to_string(stage.file())?, NEW, "{command}");
    }
    Ok(())
}

#[test]
fn another_user_changes_nothing() -> Res<()> {
    let mut stage = Stage::new()?;
    let old = stage.ruleset(OLD)?;
    stage.put(Some(&old))?;
    let before = stage.kernel()?;
    stage.configure(NEW)?;
    // The build directory may be closed to others.
    let copy = stage.root.join("vpn-killswitch");
    fs::copy(binary(), &copy)?;
    for command in ["apply", "enable", "disable", "status"] {
        let out = if can_become(NOBODY) {
            as_nobody(&mut stage.ns.command(&copy), &stage, command)?
        } else {
            // A user namespace has no other users: root without rights is as near as one comes.
            powerless(&stage, &[command])?
        };
        assert_refused(&out, 1, &["not permitted to change the firewall; run this as root"]);
        assert!(stage.kernel()? == before, "{command}: protection changed");
        assert_eq!(fs::read_to_string(stage.file())?, NEW, "{command}");
    }
    Ok(())
}

/// Runs the program as a user without rights.
fn as_nobody(run: &mut Command, stage: &Stage, command: &str) -> Res<Output> {
    run.arg("--root").arg(&stage.root).arg(command);
    // SAFETY: between fork and exec only plain system calls without pointers are made.
    unsafe {
        // Behind entering the namespace, which only root may.
        run.pre_exec(|| match libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    Ok(impatient(run).output()?)
}

/// Runs the program as root without any of root's rights.
pub fn powerless(stage: &Stage, args: &[&str]) -> Res<Output> {
    let mut command = stage.command(args);
    // SAFETY: between fork and exec only prctl is called, a plain system call without pointers.
    unsafe {
        command.pre_exec(|| {
            // Until the kernel knows no more of them.
            let mut capability = 0;
            while libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) == 0 {
                capability += 1;
            }
            Ok(())
        });
    }
    Ok(impatient(&mut command).output()?)
}
