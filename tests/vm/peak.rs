//! The peak of a program's memory, as the kernel knows it when the program ends.
//!
//! `wait4` would tell it too, but counts what the starting process had before the program was executed.

use crate::lab::Res;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Of a process that runs: KiB that were ever resident at once.
pub fn of(pid: u32) -> Res<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.and_then(|l| l.split_whitespace().next()).ok_or("no VmHWM")?.parse()?)
}

/// Runs a program, which must succeed, and holds it just before it is gone.
pub fn run(mut command: Command) -> Res<u64> {
    command.stdout(Stdio::null());
    // SAFETY: between fork and exec only ptrace is called, a plain system call without pointers.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let child = command.spawn()?;
    let pid = libc::pid_t::try_from(child.id())?;
    let mut peak = None;
    // The exec itself stops it.
    wait(pid)?;
    let options = (libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_EXITKILL) as usize;
    // SAFETY: `options` is a number, as this request takes it.
    if unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0usize, options) } < 0 {
        return Err(io::Error::last_os_error().into());
    }
    loop {
        // SAFETY: this request takes no pointers.
        if unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0usize, 0usize) } < 0 {
            return Err(io::Error::last_os_error().into());
        }
        let status = wait(pid)?;
        if libc::WIFSTOPPED(status) {
            if status >> 16 == libc::PTRACE_EVENT_EXIT {
                peak = Some(of(child.id())?);
            }
        } else if status == 0 {
            return Ok(peak.ok_or("it was not held at its end")?);
        } else {
            return Err(format!("ended with wait status {status:#x}").into());
        }
    }
}

fn wait(pid: libc::pid_t) -> Res<i32> {
    let mut status = 0;
    // SAFETY: `status` is an int that outlives the call.
    match unsafe { libc::waitpid(pid, &raw mut status, 0) } {
        done if done == pid => Ok(status),
        _ => Err(io::Error::last_os_error().into()),
    }
}
