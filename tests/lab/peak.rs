//! What the kernel knows of a process at its end: the peak of its memory.
//!
//! `wait4` would tell it too, but counts what the starting process had before the program was executed.

use super::Res;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// `/proc/PID/status` of a process.
pub struct Account(String);

impl Account {
    /// Of one that runs.
    pub fn of(pid: u32) -> Res<Self> {
        Ok(Self(fs::read_to_string(format!("/proc/{pid}/status"))?))
    }

    /// Of a program that is run, which must succeed: held just before it is gone.
    pub fn at_exit(command: &mut Command) -> Res<Self> {
        // SAFETY: between fork and exec only ptrace is called, a plain system call without pointers.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command.spawn()?;
        let pid = libc::pid_t::try_from(child.id())?;
        let mut account = None;
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
                    account = Some(Self::of(child.id())?);
                }
            } else if status == 0 {
                return Ok(account.ok_or("it was not held at its end")?);
            } else {
                return Err(format!("ended with wait status {status:#x}").into());
            }
        }
    }

    /// A line of it, in KiB.
    pub fn kib(&self, name: &str) -> Res<u64> {
        let line = self.0.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|l| l.split_whitespace().next());
        Ok(number.ok_or_else(|| format!("no {name}"))?.parse()?)
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
