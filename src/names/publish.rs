//! Tells dnsmasq, the router's own resolver, what is known.
//!
//! Two files: one says which names dnsmasq must not ask anybody about, the other which addresses they
//! have. The first one matters as much: a question for the other family, which would go out and is
//! refused, makes musl's `getaddrinfo` fail for both.
//!
//! On OpenWrt dnsmasq reads them from folders of its own (package/network/services/dnsmasq); elsewhere
//! they lie in `/var/run/vpn-killswitch`, for `addn-hosts` and `servers-file`.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::program::{self, Environment};
use crate::streams;

/// The folder whose files OpenWrt's dnsmasq reads as `hosts` files, again at each SIGHUP.
const HOSTS_FOLDER: &str = "tmp/hosts";
/// Where its folders for configuration are (`dnsmasq.d`, `dnsmasq.cfg01411c.d`): read when it starts.
const CONF_FOLDERS: &str = "tmp";
/// Our file in these.
const FILE: &str = "vpn-killswitch";
/// Where both files are on other systems.
const OWN_FOLDER: &str = "var/run/vpn-killswitch";
const INIT_SCRIPT: &str = "etc/init.d/dnsmasq";

/// A file that may hold a name and no address yet.
type Names = [(String, Vec<IpAddr>)];

/// Makes the files say what is known, and tells dnsmasq when they changed. Without names there are no
/// files.
///
/// # Errors
/// The first file that could not be written; dnsmasq goes on with what it had.
pub fn publish(root: &Path, names: &Names) -> io::Result<()> {
    let mut hosts = String::new();
    let mut servers = String::new();
    for (name, addrs) in names {
        // Itself not, but what is below it as ever: the most specific entry counts.
        let _ = writeln!(servers, "server=/{name}/\nserver=/*.{name}/#");
        for addr in addrs {
            let _ = writeln!(hosts, "{addr} {name}");
        }
    }
    let own = root.join(OWN_FOLDER);
    let hosts_folder = root.join(HOSTS_FOLDER);
    let reread = if hosts_folder.is_dir() {
        agree(&hosts_folder.join(FILE), &hosts)?
    } else {
        let reread = agree(&own.join("hosts"), &hosts)?;
        agree(&own.join("servers"), &servers)? || reread
    };
    let mut restart = false;
    for folder in conf_folders(root) {
        restart |= agree(&folder.join(FILE), &servers)?;
    }
    let init = root.join(INIT_SCRIPT);
    if restart && init.is_file() {
        // It takes a second; nothing here waits for it.
        let _ = restarted(&init);
    } else if reread {
        hang_up("dnsmasq");
    }
    Ok(())
}

fn restarted(init: &Path) -> io::Result<bool> {
    let null = streams::null()?;
    let words = ["/bin/sh", "-c", "\"$0\" restart >/dev/null 2>&1 &"].map(OsStr::new);
    let [shell, option, script] = words;
    let words = [shell, option, script, init.as_os_str()];
    let (output, errors) = (streams::output(), streams::errors());
    let streams = [null.as_fd(), output.as_fd(), errors.as_fd()];
    Ok(program::start(&words, Environment::Same, streams)?.ended_well())
}

fn conf_folders(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join(CONF_FOLDERS)) else { return Vec::new() };
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // `/tmp` is everybody's: only a folder that is no link, and so was made by name.
        name.starts_with("dnsmasq")
            && name.ends_with(".d")
            && path.symlink_metadata().is_ok_and(|m| m.is_dir())
    };
    entries.flatten().map(|e| e.path()).filter(is_one).collect()
}

/// Makes one file say `text`; whether it did not before. Empty means no file.
fn agree(path: &Path, text: &str) -> io::Result<bool> {
    let old = fs::read_to_string(path);
    if text.is_empty() {
        return match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        };
    }
    if old.is_ok_and(|old| old == text) {
        return Ok(false);
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
    fs::create_dir_all(folder)?;
    // dnsmasq skips names that begin with a dot, and reads as a user of its own.
    let temporary = folder.join(format!(".{}", name.to_string_lossy()));
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| true)
}

/// Sends SIGHUP to every process of that program in this network namespace. By its file, not by the name
/// that the kernel shows: a shell that runs `/etc/init.d/dnsmasq` has that too, and would die of it, with
/// dnsmasq stopped and not yet started again.
fn hang_up(program: &str) {
    let link = |process: &str, what: &str| fs::read_link(format!("/proc/{process}/{what}")).ok();
    let net = |process: &str| link(process, "ns/net");
    let Some(here) = net("self") else { return };
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Ok(pid) = name.parse::<libc::pid_t>() else { continue };
        let file = link(&name, "exe").unwrap_or_default();
        if file.file_name().is_some_and(|f| f == program) && net(&name).as_ref() == Some(&here) {
            // SAFETY: kill(2) takes no pointers.
            unsafe { libc::kill(pid, libc::SIGHUP) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn root(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("vks-publish-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        root
    }

    fn names() -> Vec<(String, Vec<IpAddr>)> {
        let addrs = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        vec![("vpn.example.net".to_owned(), addrs), ("later.example.net".to_owned(), Vec::new())]
    }

    #[test]
    fn on_openwrt_the_files_lie_where_dnsmasq_looks() {
        let root = root("openwrt");
        fs::create_dir_all(root.join("tmp/hosts")).unwrap();
        fs::create_dir_all(root.join("tmp/dnsmasq.cfg01411c.d")).unwrap();
        publish(&root, &names()).unwrap();
        let hosts = fs::read_to_string(root.join("tmp/hosts/vpn-killswitch")).unwrap();
        assert_eq!(hosts, "192.0.2.1 vpn.example.net\n2001:db8::1 vpn.example.net\n");
        let conf = root.join("tmp/dnsmasq.cfg01411c.d/vpn-killswitch");
        let servers = fs::read_to_string(&conf).unwrap();
        assert!(servers.contains("server=/later.example.net/\nserver=/*.later.example.net/#\n"));
        assert!(!root.join(OWN_FOLDER).exists());

        publish(&root, &[]).unwrap();
        assert!(!conf.exists() && !root.join("tmp/hosts/vpn-killswitch").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn elsewhere_they_lie_in_a_folder_of_our_own_and_everyone_may_read_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = root("elsewhere");
        publish(&root, &names()).unwrap();
        for file in ["hosts", "servers"] {
            let meta = fs::metadata(root.join(OWN_FOLDER).join(file)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, 0o644);
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_file_is_written_once() {
        let root = root("once");
        let file = root.join("x");
        assert!(agree(&file, "a\n").unwrap());
        assert!(!agree(&file, "a\n").unwrap());
        assert!(agree(&file, "b\n").unwrap());
        assert!(agree(&file, "").unwrap());
        assert!(!agree(&file, "").unwrap());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_link_in_tmp_is_not_followed() {
        let root = root("link");
        fs::create_dir_all(root.join("tmp")).unwrap();
        fs::create_dir_all(root.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join("tmp/dnsmasq.x.d")).unwrap();
        publish(&root, &names()).unwrap();
        assert_eq!(fs::read_dir(root.join("elsewhere")).unwrap().count(), 0);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_script_by_the_name_of_a_program_is_not_that_program() {
        use std::os::unix::fs::PermissionsExt as _;
        use std::os::unix::process::ExitStatusExt as _;
        let root = root("hang-up");
        fs::create_dir_all(root.join("init.d")).unwrap();
        fs::create_dir_all(root.join("sbin")).unwrap();
        // The kernel calls both by this name.
        let (script, program) = (root.join("init.d/vks-daemon"), root.join("sbin/vks-daemon"));
        fs::write(&script, "#!/bin/sh\necho ready\nread line\nexit 7\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy("/bin/cat", &program).unwrap();
        let start = |file: &Path| {
            let mut command = Command::new(file);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let (mut script, mut program) = (start(&script), start(&program));
        let mut ready = [0; 6];
        io::Read::read_exact(script.stdout.as_mut().unwrap(), &mut ready).unwrap();
        hang_up("vks-daemon");
        assert_eq!(program.wait().unwrap().signal(), Some(libc::SIGHUP));
        script.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(script.wait().unwrap().code(), Some(7));
        fs::remove_dir_all(&root).unwrap();
    }
}
