//! Network namespaces without names, and processes inside them.
//!
//! A namespace here is an open file: when the process dies, the kernel takes the namespace down.
//! This module knows nothing about addresses or routers.

use super::Res;
use std::cell::Cell;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// Set in the environment of the copy that runs inside the user namespace.
const INSIDE: &str = "VPN_KILLSWITCH_LAB_USERNS";

/// Gives this thread what the laboratory needs: root (in a user namespace if need be) and a
/// private, empty `/run`, where sockets, locks and the router's files go. Does it once per thread.
pub fn prepare() -> Res<()> {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if DONE.get() {
        return Ok(());
    }
    become_root()?;
    // SAFETY: unshare takes no pointers; CLONE_NEWNS affects only the calling thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(format!("private mount namespace: {}", io::Error::last_os_error()).into());
    }
    // SAFETY: all arguments are NUL-terminated literals or null, as mount(2) allows here.
    let mounted = unsafe {
        libc::mount(
            c"none".as_ptr(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        ) == 0
            && libc::mount(
                c"lab".as_ptr(),
                c"/run".as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                c"mode=0755,size=64m".as_ptr().cast(),
            ) == 0
    };
    if !mounted {
        return Err(format!("private /run: {}", io::Error::last_os_error()).into());
    }
    for dir in ["/run/lock", "/run/wireguard"] {
        fs::create_dir_all(dir)?;
    }
    silence_log()?;
    DONE.set(true);
    Ok(())
}

/// Hides the machine's log: what runs here must not write there, and says it on standard error.
fn silence_log() -> Res<()> {
    if !fs::exists("/dev/log")? {
        return Ok(());
    }
    bind("/dev/null".as_ref(), "/dev/log".as_ref())
}

/// Shows a file in another one's place: to this thread, and to all that it starts.
pub fn bind(file: &Path, place: &Path) -> Res<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (from, to) = (text(file)?, text(place)?);
    // SAFETY: both paths are NUL-terminated and outlive the call; the rest is null, as mount(2) allows
    // for a bind mount.
    let mounted = unsafe {
        libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null())
    };
    match mounted {
        0 => Ok(()),
        _ => Err(format!("hiding {}: {}", place.display(), io::Error::last_os_error()).into()),
    }
}

/// Without root, starts this very program again inside a new user namespace (all of it: other
/// threads end), so that an ordinary user can run everything.
fn become_root() -> Res<()> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        return Ok(());
    }
    if std::env::var_os(INSIDE).is_some() {
        return Err("not root inside a user namespace either".into());
    }
    // With other users besides root where this user has been given some.
    let map = ["--user", "--map-root-user", "--map-auto"];
    let others = Command::new("unshare").args(map).arg("true").output();
    let others = others.is_ok_and(|out| out.status.success());
    let mut again = Command::new("unshare");
    again.args(if others { &map[..] } else { &map[..2] }).args(["--mount", "--"]);
    again.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    Err(format!("not root, and no user namespace: {}", again.exec()).into())
}

/// A fresh directory in this thread's private `/run`.
pub fn directory(name: &str) -> Res<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    prepare()?;
    let path = PathBuf::from(format!("/run/{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// A network namespace. Clones are the same namespace.
#[derive(Clone)]
pub struct Ns {
    name: &'static str,
    file: Arc<OwnedFd>,
}

impl Ns {
    /// Makes an empty namespace with its loopback up. `name` is only for messages.
    pub fn new(name: &'static str) -> Res<Self> {
        prepare()?;
        let file = thread::spawn(|| -> io::Result<File> {
            // SAFETY: no pointers; only the calling thread moves, and it ends here.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .map_err(|_| "thread died")?
        .map_err(|e| format!("namespace {name}: {e}"))?;
        let ns = Self { name, file: Arc::new(file.into()) };
        // Duplicate address detection would only delay the tests.
        ns.sysctls(&[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")])?;
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    /// What messages call it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A path that other programs (`ip link … netns PATH`) can open.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `work` on a new thread inside and waits for it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Res<T> {
        let fd = self.file.as_raw_fd();
        thread::scope(|scope| {
            scope
                .spawn(move || -> io::Result<T> {
                    join(fd)?;
                    Ok(work())
                })
                .join()
                .map_err(|_| format!("thread in {} died", self.name))?
                .map_err(|e| format!("entering {}: {e}", self.name).into())
        })
    }

    /// Starts `work` on a new thread inside and does not wait.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<Res<T>> {
        let ns = self.clone();
        thread::spawn(move || {
            join(ns.file.as_raw_fd()).map_err(|e| format!("entering {}: {e}", ns.name))?;
            Ok(work())
        })
    }

    /// A command that will run inside and die with the calling thread.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        // SAFETY: between fork and exec only setns and prctl are called, both plain system calls.
        unsafe {
            command.pre_exec(move || {
                join(file.as_raw_fd())?;
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a shell script inside; its standard output, or an error with everything it said.
    pub fn sh(&self, script: &str) -> Res<String> {
        let out = self.command("sh").args(["-euc", script]).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() {
            return Ok(text);
        }
        let err = String::from_utf8_lossy(&out.stderr);
        Err(format!("in {}: {script}\n{}: {text}{err}", self.name, out.status).into())
    }

    /// Runs `ip` commands, one a line (without the word `ip`), in one process.
    pub fn ip(&self, lines: &str) -> Res<()> {
        self.feed("ip", &["-batch", "-"], lines)
    }

    /// Loads an nftables script.
    pub fn nft(&self, script: &str) -> Res<()> {
        self.feed("nft", &["-f", "-"], script)
    }

    fn feed(&self, program: &str, args: &[&str], input: &str) -> Res<()> {
        let mut command = self.command(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
        child.stdin.take().ok_or("no stdin")?.write_all(input.as_bytes())?;
        let out = child.wait_with_output()?;
        if out.status.success() {
            return Ok(());
        }
        let err = String::from_utf8_lossy(&out.stderr);
        Err(format!("in {}: {program}: {}{err}\n{input}", self.name, out.status).into())
    }

    /// Sets sysctls below `/proc/sys/net`.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Res<()> {
        self.enter(|| {
            for (key, value) in settings {
                fs::write(format!("/proc/sys/net/{key}"), value)
                    .map_err(|e| format!("sysctl {key}: {e}"))?;
            }
            Ok::<(), String>(())
        })??;
        Ok(())
    }

    /// Waits until a device is not only set up but working: until then it drops what it is given.
    pub fn wait_up(&self, device: &str) -> Res<()> {
        super::wait_for(&format!("{device} working"), 5.0, || {
            // Without a shell: BusyBox's takes its own `ip`.
            let shown = self.command("ip").args(["-br", "link", "show", "dev", device]).output();
            let up = |line: &str| line.split_whitespace().nth(1) == Some("UP");
            shown.is_ok_and(|out| up(&String::from_utf8_lossy(&out.stdout)))
        })
    }

    /// Makes neighbour discovery on a device ask again soon: the first question may come before
    /// the other end of the cable is ready, and the next one only a second later.
    pub fn eager(&self, device: &str) -> Res<()> {
        self.sysctls(&[
            (&format!("ipv4/neigh/{device}/retrans_time_ms"), "20"),
            (&format!("ipv6/neigh/{device}/retrans_time_ms"), "20"),
        ])
    }

    /// Starts a daemon inside; it is killed when the returned value is dropped.
    pub fn spawn(&self, program: &str, args: &[&str], env: &[(&str, &str)]) -> Res<Daemon> {
        let log = directory("log")?.join("out");
        let out = File::create(&log)?;
        let mut command = self.command(program);
        command.args(args).envs(env.iter().copied()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
        Ok(Daemon { name: program.to_owned(), child, log })
    }

    /// Whether a device of that name exists inside.
    pub fn has_device(&self, name: &str) -> bool {
        self.index(name).is_ok()
    }

    /// The interface index of a device inside.
    pub fn index(&self, name: &str) -> Res<u32> {
        let c = CString::new(name)?;
        // SAFETY: `c` is a NUL-terminated string that outlives the call.
        let index = self.enter(|| unsafe { libc::if_nametoindex(c.as_ptr()) })?;
        if index == 0 {
            return Err(format!("{}: no device {name}", self.name).into());
        }
        Ok(index)
    }
}

/// Moves the calling thread into a network namespace.
fn join(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; `fd` is a namespace file kept open by the caller.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A process inside a namespace, killed (by its id) on drop.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Its process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with what it said, if it has ended.
    pub fn alive(&mut self) -> Res<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended: {status}: {}", self.name, self.said()).into()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
