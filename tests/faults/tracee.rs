//! Runs the program from one system call to the next, to end it or to lie to it at any of them.
//!
//! Knows nothing about the program or about what is right.

use crate::lab::Res;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

/// A program that has not ended after this many seconds hangs: it is ended by `SIGALRM`.
pub const PATIENCE: u32 = 30;

/// Makes a command end by `SIGALRM` when it hangs.
pub fn impatient(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only alarm is called, a plain system call; it survives exec.
    unsafe {
        command.pre_exec(|| {
            libc::alarm(PATIENCE);
            Ok(())
        })
    }
}

/// Where the program is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// At the entry of the call (nothing of it has happened), or at its exit (all of it has).
    pub entry: bool,
    /// The call's number (`SYS_…`).
    pub call: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// A program held at a system call. It dies with the thread that started it.
pub struct Tracee {
    child: Child,
    pid: libc::pid_t,
    at: Option<Stop>,
    ended: Option<ExitStatus>,
}

impl Tracee {
    /// Starts a program; it is held before its first system call.
    pub fn start(mut command: Command) -> Res<Self> {
        impatient(&mut command).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only ptrace is called, a plain system call without pointers.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command.spawn().map_err(|e| format!("starting a traced program: {e}"))?;
        let pid = child.id() as libc::pid_t;
        let mut tracee = Self { child, pid, at: None, ended: None };
        // The exec itself stops it.
        tracee.wait()?;
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        tracee.ptrace(libc::PTRACE_SETOPTIONS, 0, options as usize)?;
        Ok(tracee)
    }

    /// Runs to the next entry or exit of a system call; `None` when the program has ended.
    pub fn next(&mut self) -> Res<Option<Stop>> {
        let mut signal = 0;
        loop {
            self.ptrace(libc::PTRACE_SYSCALL, 0, signal)?;
            match self.wait()? {
                None => return Ok(None),
                Some(stopped) if stopped == libc::SIGTRAP | 0x80 => break,
                // A signal on its way to the program.
                Some(other) => signal = other as usize,
            }
        }
        // SAFETY: the structure is integers and a union of them; all zeroes is a valid value.
        let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let pointer = (&raw mut info) as usize;
        self.ptrace(libc::PTRACE_GET_SYSCALL_INFO, size_of_val(&info), pointer)?;
        let stop = if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            // SAFETY: `op` says that this member of the union is the one filled in.
            let entry = unsafe { info.u.entry };
            Stop { entry: true, call: entry.nr as i64, args: entry.args }
        } else {
            let entered = self.at.ok_or("the exit of a call that was not entered")?;
            Stop { entry: false, ..entered }
        };
        self.at = Some(stop);
        Ok(Some(stop))
    }

    /// Runs to stop number `index`, counted from 0; `None` when the program ended before.
    pub fn run_to(&mut self, index: usize) -> Res<Option<Stop>> {
        let mut stop = None;
        for _ in 0..=index {
            stop = self.next()?;
            if stop.is_none() {
                break;
            }
        }
        Ok(stop)
    }

    /// Runs to the entry of the next call for which `like` holds; an error when there is none.
    pub fn run_until(&mut self, what: &str, like: impl Fn(&Self, &Stop) -> bool) -> Res<Stop> {
        while let Some(stop) = self.next()? {
            if stop.entry && like(self, &stop) {
                return Ok(stop);
            }
        }
        Err(format!("the program never came to {what}").into())
    }

    /// Held at the entry of a call: the call is not made, and the program is told this error.
    pub fn fail(&mut self, errno: i32) -> Res<()> {
        if self.at.is_some_and(|stop| stop.call == libc::SYS_brk) {
            // This one fails by changing nothing, as when it is only asked.
            let mut wanted = 0;
            self.set_register(|regs| wanted = std::mem::take(&mut regs.rdi))?;
            self.next()?;
            return self.set_register(|regs| regs.rdi = wanted);
        }
        // No system call has this number.
        self.set_register(|regs| regs.orig_rax = u64::MAX)?;
        if self.next()?.is_some() {
            self.set_register(|regs| regs.rax = i64::from(-errno) as u64)?;
        }
        Ok(())
    }

    /// Reads a byte of the program's memory.
    pub fn peek(&self, address: u64) -> Res<u8> {
        let mut byte = 0u8;
        self.move_byte(address, &mut byte, false)?;
        Ok(byte)
    }

    /// Changes a byte of the program's memory.
    pub fn poke(&self, address: u64, mut byte: u8) -> Res<()> {
        self.move_byte(address, &mut byte, true)
    }

    fn move_byte(&self, address: u64, byte: &mut u8, write: bool) -> Res<()> {
        let here = libc::iovec { iov_base: std::ptr::from_mut(byte).cast(), iov_len: 1 };
        let there = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: 1 };
        let call = if write { libc::process_vm_writev } else { libc::process_vm_readv };
        // SAFETY: `here` is one byte of ours; `there` is memory of another process, which the kernel
        // checks.
        match unsafe { call(self.pid, &raw const here, 1, &raw const there, 1, 0) } {
            1 => Ok(()),
            _ => Err(format!("the program's memory: {}", io::Error::last_os_error()).into()),
        }
    }

    /// Ends the program where it is held.
    pub fn kill(mut self) -> Res<()> {
        self.child.kill()?;
        while self.ended.is_none() {
            self.wait()?;
        }
        match self.ended.and_then(|e| e.signal()) {
            Some(libc::SIGKILL) => Ok(()),
            other => Err(format!("killed, it ended by {other:?}").into()),
        }
    }

    /// Lets the program run to its end, and returns what it said.
    pub fn finish(mut self) -> Res<Output> {
        while self.ended.is_none() {
            self.next()?;
        }
        let status = self.ended.ok_or("not ended")?;
        let mut out = Output { status, stdout: Vec::new(), stderr: Vec::new() };
        // It wrote less than a pipe holds, or it would not have ended.
        if let Some(mut pipe) = self.child.stdout.take() {
            io::Read::read_to_end(&mut pipe, &mut out.stdout)?;
        }
        if let Some(mut pipe) = self.child.stderr.take() {
            io::Read::read_to_end(&mut pipe, &mut out.stderr)?;
        }
        Ok(out)
    }

    /// The signal that it is held by, or `None` when it has ended.
    fn wait(&mut self) -> Res<Option<i32>> {
        let mut status = 0;
        loop {
            // SAFETY: `status` is an int that outlives the call.
            if unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) } == self.pid {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(format!("waiting for a traced program: {error}").into());
            }
        }
        if libc::WIFSTOPPED(status) {
            return Ok(Some(libc::WSTOPSIG(status)));
        }
        self.ended = Some(ExitStatus::from_raw(status));
        Ok(None)
    }

    fn ptrace(&self, request: libc::c_uint, address: usize, data: usize) -> Res<()> {
        // SAFETY: the callers pass for `data` what the request takes: a number, or the address of a
        // structure of theirs of the right size.
        if unsafe { libc::ptrace(request, self.pid, address, data) } < 0 {
            return Err(format!("ptrace {request}: {}", io::Error::last_os_error()).into());
        }
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    fn set_register(&self, change: impl FnOnce(&mut libc::user_regs_struct)) -> Res<()> {
        // SAFETY: the structure is integers; all zeroes is a valid value.
        let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        self.ptrace(libc::PTRACE_GETREGS, 0, (&raw mut regs) as usize)?;
        change(&mut regs);
        self.ptrace(libc::PTRACE_SETREGS, 0, (&raw mut regs) as usize)
    }
}

#[cfg(not(target_arch = "x86_64"))]
compile_error!("injecting errors is written for x86-64: teach `Tracee::fail` this architecture");

impl Drop for Tracee {
    fn drop(&mut self) {
        if self.ended.is_none() && self.child.kill().is_ok() {
            while matches!(self.wait(), Ok(Some(_))) {}
        }
    }
}
