//! Whole processes, from before fork to after exit.

use crate::lab::Res;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Series;

/// A command line.
#[derive(Clone, Debug)]
pub struct Run {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

impl Run {
    pub fn new(program: impl Into<PathBuf>, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        Self { program: program.into(), arguments }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Runs it; milliseconds until it was over. It must succeed, or its time means nothing.
    pub fn time(&self) -> Res<f64> {
        let mut command = self.command();
        command.stderr(Stdio::null());
        let start = Instant::now();
        let status = command.spawn()?.wait()?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        if status.success() { Ok(took) } else { self.once().map(|()| took) }
    }

    /// Runs it, with what it said if it fails.
    pub fn once(&self) -> Res<()> {
        let out = self.command().output()?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        Err(format!("{self:?}: {}: {said}", out.status).into())
    }
}

/// One of the things compared.
pub struct Way<'a> {
    pub name: &'static str,
    /// Makes the state that the run starts from; not measured.
    pub before: Box<dyn FnMut() -> Res<()> + 'a>,
    pub run: Run,
}

/// What came out for one way.
pub struct Took {
    pub name: &'static str,
    /// Milliseconds until the process was over.
    pub process: Series,
    /// Milliseconds after that until the kernel had freed what was deleted.
    pub freeing: Series,
}

/// Runs all ways in turns, `rounds` times, each time in another order.
pub fn compare(rounds: usize, ways: &mut [Way<'_>]) -> Res<Vec<Took>> {
    let series = || Series(Vec::with_capacity(rounds));
    let mut out: Vec<_> = ways
        .iter()
        .map(|way| Took { name: way.name, process: series(), freeing: series() })
        .collect();
    // The first round fills caches and is not counted.
    for round in 0..=rounds {
        for turn in 0..ways.len() {
            let index = (round + turn) % ways.len();
            let way = &mut ways[index];
            (way.before)()?;
            settle()?;
            let process = way.run.time()?;
            let start = Instant::now();
            settle()?;
            if round > 0 {
                out[index].process.0.push(process);
                out[index].freeing.0.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Ok(out)
}

/// Waits until nftables has freed all that was deleted before: the kernel waits for that whenever
/// a netfilter socket is closed, whoever deleted it.
pub fn settle() -> Res<()> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: `fd` was just opened and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_nl is plain integers; all zeroes is "any port".
    let mut any: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    any.nl_family = libc::AF_NETLINK as u16;
    let size = size_of_val(&any) as libc::socklen_t;
    // SAFETY: pointer and length describe `any`.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const any).cast(), size) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}
