//! A firmware's own file system and processes, in the router's network: its programs are BusyBox's, its
//! flash is memory, and its kernel has no nftables.
//!
//! Responsible for making that and taking it away. Nothing of the machine's own files is written: of
//! these only the libraries and programs are seen, from inside, below `/host`.

use crate::lab::ns::{Daemon, Ns, directory};
use crate::lab::{Res, wait_for};
use crate::stage::Firmware;
use std::cell::OnceCell;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where firmwares look for programs.
const PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin";

/// The file system and the processes of one router.
pub struct Machine {
    root: PathBuf,
    kernel: Kernel,
    /// Makes the router forget its connections when it is asked to.
    _flush: Daemon,
    /// Its first process: with it all others end.
    init: Daemon,
}

/// What the kernel has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// As those firmwares': no nftables and no netlink for connection tracking.
    Old,
    /// The same, and it says that it is a 2.6.
    Ancient,
    /// With nftables, and with the programs of iptables that go by it.
    New,
}

impl Machine {
    /// With this firmware's scripts, and the release in `/mnt`.
    pub fn new(router: &Ns, kernel: Kernel, firmware: &Firmware) -> Res<Self> {
        let root = directory("firmware")?;
        mount("tmpfs", &root, "tmpfs", 0, "size=80m")?;
        for folder in [
            "bin",
            "sbin",
            "usr/bin",
            "usr/sbin",
            "etc/config",
            "tmp",
            "jffs",
            "opt",
            "nvram",
            "proc",
            "dev",
            "sys",
            "mnt",
            "host/usr",
        ] {
            fs::create_dir_all(root.join(folder))?;
        }
        mount("/usr", &root.join("host/usr"), "", libc::MS_BIND | libc::MS_REC, "")?;
        programs(&root, kernel)?;
        script(&root.join("sbin/common.sh"), include_str!("common.sh"))?;
        script(&root.join("sbin/rc"), firmware.rc)?;
        for name in firmware.services {
            symlink("rc", root.join("sbin").join(name))?;
        }
        for mark in firmware.marks {
            let nvram = mark.ends_with("nvram");
            script(&root.join(mark), if nvram { include_str!("nvram") } else { "" })?;
        }
        fs::write(root.join("dev/null"), "")?;
        mount("/dev/null", &root.join("dev/null"), "", libc::MS_BIND, "")?;
        for pipe in ["flush", "flushed"] {
            let path = CString::new(root.join("dev").join(pipe).as_os_str().as_bytes())?;
            // SAFETY: the path is NUL-terminated and outlives the call.
            if unsafe { libc::mkfifo(path.as_ptr(), 0o600) } != 0 {
                return Err(format!("{pipe}: {}", io::Error::last_os_error()).into());
            }
        }
        for (folder, size) in [("tmp", "8m"), ("nvram", "1m")] {
            mount("tmpfs", &root.join(folder), "tmpfs", 0, &format!("size={size}"))?;
        }
        flash(&root)?;
        mount(&release()?.display().to_string(), &root.join("mnt"), "", libc::MS_BIND, "")?;
        let loop_ = "while read -r _ <dev/flush; do conntrack -F; echo >dev/flushed; done";
        let flush =
            router.spawn("sh", &["-c", &format!("cd {} && {loop_}", root.display())], &[])?;
        let init = start(&root, router)?;
        let machine = Self { root, kernel, _flush: flush, init };
        machine.forget()?;
        Ok(machine)
    }

    /// Ends all processes, and forgets what was in memory.
    pub fn reboot(&mut self, router: &Ns) -> Res<()> {
        self.init = start(&self.root, router)?;
        self.forget()
    }

    /// A file inside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Everything that a reboot forgets on disk: what is in memory.
    fn forget(&self) -> Res<()> {
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        for folder in ["var/run", "var/lock", "var/log", "jobs", "run", "etc/config"] {
            fs::create_dir_all(tmp.join(folder))?;
        }
        Ok(())
    }

    /// A shell inside that runs this, in a network.
    fn command(&self, ns: &Ns, text: &str) -> Command {
        // The namespace of its children is that of the first process.
        let pids = format!("--pid=/proc/{}/ns/pid_for_children", self.init.id());
        let mut command = ns.command("nsenter");
        command.args([&pids, "chroot"]).arg(&self.root).args(["/bin/sh", "-c", text]);
        command.env_clear().env("PATH", host_path());
        if self.kernel != Kernel::New {
            // SAFETY: between fork and exec only prctl is called, a plain system call.
            unsafe { command.pre_exec(without_nfnetlink) };
        }
        if self.kernel == Kernel::Ancient {
            // SAFETY: between fork and exec only personality is called, a plain system call.
            unsafe { command.pre_exec(as_an_ancient_one) };
        }
        command
    }

    /// Runs this inside, in a network; whatever it ends with.
    pub fn run_in(&self, ns: &Ns, text: &str) -> Res<Output> {
        // PATH for the chroot program is the machine's; what runs inside has the firmware's.
        let text = format!("export PATH={PATH} HOME=/tmp; cd /tmp; {text}");
        Ok(self.command(ns, &text).output()?)
    }

    /// The same, but it must succeed; what it said.
    pub fn sh_in(&self, ns: &Ns, text: &str) -> Res<String> {
        let out = self.run_in(ns, text)?;
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        if out.status.success() {
            return Ok(said);
        }
        let log = fs::read_to_string(self.path("/tmp/hooks.log")).unwrap_or_default();
        Err(format!("{text}: {}: {said}{log}", out.status).into())
    }

    /// Waits until no script that nobody waits for is running.
    pub fn settle(&self) -> Res<()> {
        let jobs = self.path("/tmp/jobs");
        wait_for("scripts in the background", 20.0, || {
            fs::read_dir(&jobs).is_ok_and(|mut jobs| jobs.next().is_none())
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What is below goes with it, and the memory; processes that still see it are ended with the
        // fields.
        let Ok(path) = CString::new(self.root.as_os_str().as_bytes()) else { return };
        // SAFETY: the path is NUL-terminated and outlives the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Starts the first process of a router; with it all others end. It takes in the orphans, as the shell does
/// whenever it waits.
fn start(root: &Path, router: &Ns) -> Res<Daemon> {
    let first = "mount -t proc proc /proc && echo up && while :; do sleep 1000; done";
    let path = root.display().to_string();
    let mut init = router.spawn(
        "unshare",
        &["--pid", "--fork", "--kill-child", "chroot", &path, "/bin/sh", "-c", first],
        &[("PATH", &host_path())],
    )?;
    wait_for("the first process", 10.0, || init.said().contains("up") || init.alive().is_err())?;
    init.alive()?;
    Ok(init)
}

fn host_path() -> String {
    std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())
}

/// BusyBox under all its names, the libraries that it needs, and iptables.
fn programs(root: &Path, kernel: Kernel) -> Res<()> {
    for library in ["lib", "lib32", "lib64"] {
        if fs::exists(format!("/usr/{library}"))? {
            symlink(format!("/host/usr/{library}"), root.join(library))?;
            symlink(format!("/host/usr/{library}"), root.join("usr").join(library))?;
        }
    }
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].iter().find(|p| Path::new(p).exists());
    let busybox = busybox.ok_or("busybox is not there")?;
    let names = Command::new(busybox).arg("--list").output()?;
    let target =
        format!("/host{}", if *busybox == "/bin/busybox" { "/usr/bin/busybox" } else { busybox });
    for name in String::from_utf8_lossy(&names.stdout).lines() {
        symlink(&target, root.join("bin").join(name))?;
    }
    let kind = if kernel == Kernel::New { "nft" } else { "legacy" };
    for (name, program) in ["iptables", "ip6tables"].into_iter().flat_map(|name| {
        ["", "-save", "-restore"].map(|s| (format!("{name}{s}"), format!("{name}-{kind}{s}")))
    }) {
        if !fs::exists(format!("/usr/sbin/{program}"))? {
            return Err(format!("{program} is not there").into());
        }
        symlink(format!("/host/usr/sbin/{program}"), root.join("usr/sbin").join(name))?;
    }
    // In memory, as on the routers.
    for (name, place) in [("var", "tmp/var"), ("run", "tmp/run"), ("mmc", "tmp/none")] {
        symlink(place, root.join(name))?;
    }
    Ok(())
}

/// Makes `/jffs`: in memory, but of a kind that is none in memory, as the installers want it.
fn flash(root: &Path) -> Res<()> {
    let layers = ["lower", "upper", "work"].map(|name| root.join("host").join(name));
    for layer in &layers {
        fs::create_dir(layer)?;
    }
    let [lower, upper, work] = layers.map(|layer| layer.display().to_string());
    let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount("flash", &root.join("jffs"), "overlay", 0, &layers)
}

/// The release, with this program in it, made once for each thread: they do not see each other's files.
fn release() -> Res<PathBuf> {
    thread_local!(static MADE: OnceCell<PathBuf> = const { OnceCell::new() });
    MADE.with(|made| match made.get() {
        Some(folder) => Ok(folder.clone()),
        None => {
            let folder = make_release()?;
            Ok(made.get_or_init(|| folder).clone())
        }
    })
}

fn make_release() -> Res<PathBuf> {
    let target = match std::env::consts::ARCH {
        "x86_64" => "x86_64",
        "aarch64" => "aarch64_generic",
        other => return Err(format!("no release has a program for {other}").into()),
    };
    let (binaries, out) = (directory("programs")?, directory("release")?);
    let program = binaries.join(target).join("vpn-killswitch");
    fs::create_dir_all(binaries.join(target))?;
    // What is shipped has nothing for debuggers either, and routers have little room.
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(&program)
        .arg(env!("CARGO_BIN_EXE_vpn-killswitch"))
        .status()
        .map_err(|e| format!("strip: {e}"))?;
    if !stripped.success() {
        return Err(format!("strip: {stripped}").into());
    }
    let mut release = Command::new("python3");
    release.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("cross/release"));
    release.args(["--target", target]).arg("--binaries").arg(binaries).arg("--out").arg(&out);
    let made = release.output().map_err(|e| format!("python3: {e}"))?;
    if made.status.success() {
        return Ok(out);
    }
    Err(format!("cross/release: {}", String::from_utf8_lossy(&made.stderr)).into())
}

/// Writes a program.
pub fn script(path: &Path, text: &str) -> Res<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn mount(what: &str, place: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> Res<()> {
    let place_ = CString::new(place.as_os_str().as_bytes())?;
    let (what, kind, data) = (CString::new(what)?, CString::new(kind)?, CString::new(data)?);
    // SAFETY: all four are NUL-terminated and outlive the call.
    let done = unsafe {
        libc::mount(what.as_ptr(), place_.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    };
    match done {
        0 => Ok(()),
        _ => Err(format!("{}: {}", place.display(), io::Error::last_os_error()).into()),
    }
}

/// For this process and its children the kernel does not know the netlink protocol of netfilter, as one
/// that was built without it.
fn without_nfnetlink() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// Of struct seccomp_data: the number, and the lower halves of the first and the third argument.
    const HALF: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };
    const fn line(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf, k }
    }
    let mut program = [
        line(LOAD, 0, 0, 0),
        line(EQUAL, libc::SYS_socket as u32, 0, 5),
        line(LOAD, 16 + HALF, 0, 0),
        line(EQUAL, libc::AF_NETLINK as u32, 0, 3),
        line(LOAD, 32 + HALF, 0, 0),
        line(EQUAL, libc::NETLINK_NETFILTER as u32, 0, 1),
        line(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32, 0, 0),
        line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter and its program outlive the calls, and the length is theirs.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// This process and its children are told a version that begins with 2.6.
fn as_an_ancient_one() -> io::Result<()> {
    // SAFETY: no pointers.
    match unsafe { libc::personality(libc::UNAME26 as libc::c_ulong) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
