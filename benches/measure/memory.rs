//! Peak memory of a process, as the kernel knows it at the moment of its exit.
//!
//! Not `ru_maxrss`: a child inherits that from whoever forked it.

use crate::lab::Res;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use super::process::Run;

/// Kilobytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// `VmHWM`: most that was resident at once, pages of shared files too.
    pub peak: u64,
    /// Of these, at least how many were the process's alone to pay for: what is not a file's page.
    pub own: u64,
}

/// Runs it, stops it at its exit and reads its accounts.
pub fn peak(run: &Run) -> Res<Memory> {
    let mut command = run.command();
    command.stderr(Stdio::null());
    // SAFETY: between fork and exec only ptrace is called, a plain system call.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let child = command.spawn()?;
    let pid = libc::pid_t::try_from(child.id())?;
    let mut memory = None;
    let mut options_set = false;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call; the child is ours and not yet waited for.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
            return Err(io::Error::last_os_error().into());
        }
        if libc::WIFEXITED(status) {
            let code = libc::WEXITSTATUS(status);
            if code != 0 {
                return Err(format!("{run:?}: exit code {code}").into());
            }
            return memory.ok_or_else(|| "it ended unseen".into());
        }
        if !libc::WIFSTOPPED(status) {
            return Err(format!("{run:?}: status {status:#x}").into());
        }
        if !options_set {
            // SAFETY: the child is stopped and traced by this thread; no pointers are read.
            let set =
                unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_TRACEEXIT) };
            if set != 0 {
                return Err(io::Error::last_os_error().into());
            }
            options_set = true;
        }
        let signal = if status >> 8 == libc::SIGTRAP | libc::PTRACE_EVENT_EXIT << 8 {
            memory = Some(read(pid)?);
            0
        } else {
            match libc::WSTOPSIG(status) {
                libc::SIGTRAP => 0,
                other => other,
            }
        };
        // SAFETY: as above.
        if unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0, signal) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
    }
}

fn read(pid: libc::pid_t) -> Res<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Res<u64> {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|l| l.split_whitespace().next());
        Ok(number.ok_or_else(|| format!("no {name} for {pid}"))?.parse()?)
    };
    let (peak, file) = (field("VmHWM")?, field("RssFile")?);
    // File pages only come: at the peak there were at most as many as at the end.
    Ok(Memory { peak, own: peak.saturating_sub(file) })
}
