//! Replacing the configuration file on disk: what it keeps, and what is left when it fails.
//!
//! The faults are made in mount namespaces of the test's own threads, which needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "that is how a test fails"
)]

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use vpn_killswitch::config::edit::write_atomic;

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("write-atomic-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn names(directory: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(name).collect();
    names.sort();
    names
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn mount(source: &CStr, target: &Path, kind: &CStr, flags: libc::c_ulong, data: &CStr) {
    let target = c_path(target);
    // SAFETY: all pointers are C strings that live during the call.
    let result = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    };
    assert_eq!(result, 0, "mount {target:?}: {}", io::Error::last_os_error());
}

/// Runs the body in a thread with mounts of its own; they end with the thread.
fn with_own_mounts(body: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: affects this thread only.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
            assert_eq!(result, 0, "this test needs root: {}", io::Error::last_os_error());
            mount(c"none", Path::new("/"), c"", libc::MS_REC | libc::MS_PRIVATE, c"");
            body();
        });
    });
}

#[test]
fn contents_are_replaced_and_mode_and_owner_stay() {
    let directory = Directory::new();
    let path = directory.file("vpn-killswitch", "old");
    for mode in [0o600, 0o644, 0o4755, 0o440] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), Some(12345)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        write_atomic(&path, format!("{mode:o}").as_bytes()).unwrap();
        let new = fs::metadata(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{mode:o}"));
        assert_eq!((new.mode() & 0o7777, new.uid(), new.gid()), (mode, 65534, 12345));
        assert_ne!(new.ino(), inode, "written in place");
    }
    assert_eq!(names(&directory.0), ["vpn-killswitch"]);
}

#[test]
fn a_new_file_is_private() {
    let directory = Directory::new();
    let path = directory.0.join("new");
    write_atomic(&path, b"").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(names(&directory.0), ["new"]);
}

#[test]
fn links_are_followed() {
    let directory = Directory::new();
    fs::create_dir(directory.0.join("real")).unwrap();
    let real = directory.file("real/file", "old");
    symlink("real/file", directory.0.join("one")).unwrap();
    symlink("one", directory.0.join("two")).unwrap();
    write_atomic(&directory.0.join("two"), b"new").unwrap();
    assert_eq!(fs::read(&real).unwrap(), b"new");
    assert!(!real.is_symlink());
    assert_eq!(fs::read_link(directory.0.join("two")).unwrap(), Path::new("one"));
    assert_eq!(names(&directory.0), ["one", "real", "two"]);
    assert_eq!(names(&directory.0.join("real")), ["file"]);
}

#[test]
fn what_is_not_a_file_is_refused() {
    let directory = Directory::new();
    let path = |name| directory.0.join(name);
    fs::create_dir(path("directory")).unwrap();
    symlink("nothing", path("dangling")).unwrap();
    symlink("loop", path("loop")).unwrap();
    directory.file("file", "");
    let before = names(&directory.0);
    for (name, kind) in [
        ("directory", ErrorKind::InvalidInput),
        ("dangling", ErrorKind::NotFound),
        ("missing/file", ErrorKind::NotFound),
        ("file/file", ErrorKind::NotADirectory),
    ] {
        assert_eq!(write_atomic(&path(name), b"x").unwrap_err().kind(), kind, "{name}");
    }
    assert!(write_atomic(&path("loop"), b"x").is_err());
    assert!(write_atomic(Path::new("/"), b"x").is_err());
    assert!(write_atomic(Path::new(""), b"x").is_err());
    assert_eq!(
        write_atomic(Path::new("/dev/null"), b"x").unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(names(&directory.0), before);
}

#[test]
fn what_a_crash_left_is_in_nobodys_way() {
    let directory = Directory::new();
    let path = directory.file("vpn-killswitch", "old");
    let left = format!(".vpn-killswitch.{}-0.new", std::process::id());
    directory.file(&left, "half");
    write_atomic(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    // Not ours to judge: it may belong to a process in another namespace that is just writing.
    assert_eq!(names(&directory.0), [left.as_str(), "vpn-killswitch"]);
}

#[test]
fn a_full_disk_keeps_the_old_file() {
    let directory = Directory::new();
    with_own_mounts(|| {
        mount(c"none", &directory.0, c"tmpfs", 0, c"size=8k");
        let path = directory.file("vpn-killswitch", "old");
        let error = write_atomic(&path, &[b'x'; 20_000]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&directory.0), ["vpn-killswitch"]);
        write_atomic(&path, b"fits").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"fits");
    });
}

#[test]
fn a_disk_without_inodes_keeps_the_old_file() {
    let directory = Directory::new();
    with_own_mounts(|| {
        mount(c"none", &directory.0, c"tmpfs", 0, c"nr_inodes=2");
        let path = directory.file("vpn-killswitch", "old");
        assert_eq!(write_atomic(&path, b"new").unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&directory.0), ["vpn-killswitch"]);
    });
}

#[test]
fn a_read_only_disk_keeps_the_old_file() {
    let directory = Directory::new();
    let path = directory.file("vpn-killswitch", "old");
    with_own_mounts(|| {
        let source = c_path(&directory.0);
        mount(&source, &directory.0, c"", libc::MS_BIND, c"");
        let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
        mount(&source, &directory.0, c"", flags, c"");
        let error = write_atomic(&path, b"new").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    });
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(&directory.0), ["vpn-killswitch"]);
}

#[test]
fn a_failed_rename_leaves_no_temporary_file() {
    let directory = Directory::new();
    let path = directory.file("vpn-killswitch", "old");
    with_own_mounts(|| {
        // A mount point cannot be replaced.
        mount(&c_path(&path), &path, c"", libc::MS_BIND, c"");
        assert_eq!(write_atomic(&path, b"new").unwrap_err().kind(), ErrorKind::ResourceBusy);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&directory.0), ["vpn-killswitch"]);
    });
}

#[test]
fn a_reader_sees_the_old_or_the_new_contents() {
    let directory = Directory::new();
    let versions = [vec![b'a'; 3000], vec![b'b'; 70_000]];
    let path = directory.0.join("vpn-killswitch");
    write_atomic(&path, &versions[0]).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) {
                let read = fs::read(&path).unwrap();
                assert!(versions.contains(&read), "{} bytes", read.len());
                seen += 1;
            }
            seen
        });
        for n in 0..40 {
            write_atomic(&path, &versions[n % 2]).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

/// Runs the body in a child process and kills it when it has entered or left that many system
/// calls. True if it ended before that.
fn killed_at(number: u32, body: impl FnOnce()) -> bool {
    // SAFETY: the child only runs the body, which starts no threads, and ends without unwinding.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            libc::ptrace(libc::PTRACE_TRACEME);
            libc::raise(libc::SIGSTOP);
            body();
            libc::_exit(0);
        }
        let mut status = 0;
        let mut wait = || {
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        assert!(libc::WIFSTOPPED(wait()));
        for _ in 0..number {
            assert_eq!(libc::ptrace(libc::PTRACE_SYSCALL, child, 0, 0), 0);
            let status = wait();
            if libc::WIFEXITED(status) {
                assert_eq!(libc::WEXITSTATUS(status), 0);
                return true;
            }
            assert!(libc::WIFSTOPPED(status));
        }
        libc::kill(child, libc::SIGKILL);
        assert!(libc::WIFSIGNALED(wait()));
        false
    }
}

#[test]
fn killed_at_every_system_call() {
    let directory = Directory::new();
    let path = directory.0.join("vpn-killswitch");
    let (mut old, mut new, mut left) = (0, 0, 0);
    for number in 1.. {
        fs::write(&path, "old").unwrap();
        let ended = killed_at(number, || {
            write_atomic(&path, b"new").ok();
        });
        match fs::read_to_string(&path).unwrap().as_str() {
            "old" => old += 1,
            "new" => new += 1,
            other => panic!("killed at {number}: {other:?}"),
        }
        for name in names(&directory.0) {
            assert!(name == "vpn-killswitch" || name.starts_with(".vpn-killswitch."), "{name}");
            if name.starts_with('.') {
                left += 1;
                fs::remove_file(directory.0.join(name)).unwrap();
            }
        }
        if ended {
            assert_eq!(fs::read(&path).unwrap(), b"new");
            break;
        }
    }
    println!("killed: {old} times old, {new} times new contents, {left} times a hidden file left");
    // From before the temporary file exists to behind the rename.
    assert!(old > left && left >= 8 && new >= 4, "{old} {new} {left}");
}
