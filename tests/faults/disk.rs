//! A full and a read-only disk: protection does not wait for disk space, and what could not be made
//! durable is not called so (G5, G11).

use crate::lab::ns::directory;
use crate::lab::{Res, wait_for};
use crate::stage::{NEW, OLD, Stage, assert_refused, switched_off, told};
use std::ffi::CString;
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// Whether the disk is full or read-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Disk {
    /// Not a byte and not a file more.
    Full,
    ReadOnly,
}

/// A small disk of its own in this thread's private mounts.
fn mount(at: &Path, flags: libc::c_ulong) -> Res<()> {
    let path = CString::new(at.to_str().ok_or("a path")?)?;
    let options = c"size=64k,nr_inodes=12,mode=0755";
    // SAFETY: all arguments are NUL-terminated strings that outlive the call.
    let done = unsafe {
        libc::mount(
            c"small".as_ptr(),
            path.as_ptr(),
            c"tmpfs".as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

impl Disk {
    /// Makes it so, with this configuration on it.
    fn stage(self, text: &str) -> Res<Stage> {
        let root = directory("disk")?;
        mount(&root, 0)?;
        let stage = Stage::in_directory(root)?;
        stage.configure(text)?;
        match self {
            // A child that another test starts at this moment may still hold a copy of our open file.
            Self::ReadOnly => wait_for("read-only", 5.0, || {
                mount(&stage.root, libc::MS_REMOUNT | libc::MS_RDONLY).is_ok()
            })?,
            Self::Full => {
                let mut file = fs::File::create(stage.root.join("filler"))?;
                while file.write(&[0; 4096]).is_ok() {}
                let mut n = 0;
                while fs::create_dir(stage.root.join(n.to_string())).is_ok() {
                    n += 1;
                }
            }
        }
        let full = fs::write(stage.root.join("probe"), "x").is_err();
        if full { Ok(stage) } else { Err("the disk still takes files".into()) }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Full => "No space left on device",
            Self::ReadOnly => "Read-only file system",
        }
    }
}

#[test]
fn protection_does_not_wait_for_disk_space() -> Res<()> {
    for disk in [Disk::Full, Disk::ReadOnly] {
        let mut stage = disk.stage(NEW)?;
        let (old, new) = (stage.ruleset(OLD)?, stage.ruleset(NEW)?);
        stage.put(Some(&old))?;
        let out = stage.run(&["apply"])?;
        assert!(out.status.success(), "{disk:?}: {}", told(&out));
        assert!(stage.nft.check(&new).map_err(|e| e.to_string())?.is_empty(), "{disk:?}");
    }
    Ok(())
}

#[test]
fn enable_protects_and_says_that_it_will_not_last() -> Res<()> {
    for disk in [Disk::Full, Disk::ReadOnly] {
        let text = switched_off(NEW);
        let mut stage = disk.stage(&text)?;
        let new = stage.ruleset(NEW)?;
        let out = stage.run(&["enable"])?;
        let file = stage.file().display().to_string();
        let words = [
            "protection is on, but",
            "could not be written",
            "the next apply, or a reboot, ends it",
        ];
        assert_refused(&out, 1, &words);
        assert_refused(&out, 1, &[&file, disk.words()]);
        assert!(stage.nft.check(&new).map_err(|e| e.to_string())?.is_empty(), "{disk:?}");
        assert_eq!(fs::read_to_string(stage.file())?, text, "{disk:?}");
    }
    Ok(())
}

#[test]
fn disable_refuses_what_would_not_last() -> Res<()> {
    for disk in [Disk::Full, Disk::ReadOnly] {
        let mut stage = disk.stage(OLD)?;
        let old = stage.ruleset(OLD)?;
        stage.put(Some(&old))?;
        let before = stage.kernel()?;
        let out = stage.run(&["disable"])?;
        assert_refused(&out, 1, &["protection is still on", "could not be written", disk.words()]);
        assert!(stage.kernel()? == before, "{disk:?}: protection changed");
        assert_eq!(fs::read_to_string(stage.file())?, OLD, "{disk:?}");
    }
    Ok(())
}

#[test]
fn something_else_in_the_locks_place_does_not_hold_it_up() -> Res<()> {
    for make in ["mkdir", "mkfifo"] {
        let mut stage = Stage::new()?;
        let new = stage.ruleset(NEW)?;
        stage.configure(NEW)?;
        fs::create_dir_all(stage.root.join("var/run"))?;
        let lock = stage.root.join("var/run/vpn-killswitch.lock");
        assert!(std::process::Command::new(make).arg(lock).status()?.success());
        stage.ok(&["apply"])?;
        assert!(stage.nft.check(&new).map_err(|e| e.to_string())?.is_empty(), "{make}");
    }
    Ok(())
}
