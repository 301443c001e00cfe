//! Engines in the kernel that forward connections which are established beside its rules: Qualcomm's SFE
//! and ECM, Broadcom's CTF and flow cache. Which there are, and how the firmwares make them forget.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::nvram::Nvram;
use crate::program::{self, Environment};

/// An engine.
#[derive(Debug, PartialEq, Eq)]
pub struct Shortcut {
    /// What people call it.
    pub name: &'static str,
    /// What is there where the kernel has it.
    mark: &'static str,
    /// Settings in nvram, each with its value where the engine is switched off.
    off: &'static [(&'static str, &'static str)],
    forget: Forget,
}

/// How it forgets all connections.
#[derive(Debug, PartialEq, Eq)]
enum Forget {
    /// By a file that takes a 1.
    File(&'static str),
    /// By a program, in one of the folders.
    Program(&'static str, &'static str),
    /// Each with the entry of connection tracking that it stands for.
    WithTracking,
}

/// DD-WRT's switch for SFE and CTF is `sfe`; Asuswrt's and FreshTomato's are `ctf_disable` and
/// `fc_disable`.
const KNOWN: [Shortcut; 5] = [
    Shortcut {
        name: "SFE (fast_classifier)",
        mark: "sys/module/fast_classifier",
        off: &[("sfe", "0")],
        forget: Forget::File("sys/fast_classifier/defunct_all"),
    },
    Shortcut {
        name: "SFE (shortcut_fe_cm)",
        mark: "sys/module/shortcut_fe_cm",
        off: &[],
        forget: Forget::File("sys/sfe_cm/defunct_all"),
    },
    Shortcut {
        name: "ECM",
        mark: "sys/module/ecm",
        off: &[],
        forget: Forget::File("sys/kernel/debug/ecm/ecm_db/defunct_all"),
    },
    Shortcut {
        name: "CTF",
        mark: "sys/module/ctf",
        off: &[("ctf_disable", "1"), ("sfe", "0")],
        forget: Forget::WithTracking,
    },
    Shortcut {
        name: "flow cache",
        mark: "proc/fcache",
        off: &[("fc_disable", "1")],
        forget: Forget::Program("fc", "flush"),
    },
];
/// The folders of programs, below the root.
const FOLDERS: [&str; 4] = ["bin", "sbin", "usr/bin", "usr/sbin"];
/// How long such a program may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Shortcut {
    fn runs(&self, root: &Path, nvram: Option<&Nvram>) -> bool {
        let off = |nvram: &Nvram| self.off.iter().any(|(name, value)| nvram.get(name) == *value);
        root.join(self.mark).exists() && !nvram.is_some_and(off)
    }

    /// Has it forget its connections: whose packets are allowed comes back by the rules. Whether it does.
    pub fn forget(&self, root: &Path) -> bool {
        match self.forget {
            Forget::File(file) => {
                let file = OpenOptions::new().write(true).open(root.join(file));
                file.and_then(|mut file| file.write_all(b"1\n")).is_ok()
            }
            Forget::Program(program, word) => {
                let mut files = FOLDERS.iter().map(|folder| root.join(folder).join(program));
                files.find(|file| file.is_file()).is_some_and(|file| {
                    let words = [file.as_os_str(), word.as_ref()];
                    program::run(&words, Environment::Same, &[], PATIENCE).is_ok_and(|s| s.well)
                })
            }
            Forget::WithTracking => true,
        }
    }
}

/// Those that are there and not switched off.
pub fn running(root: &Path) -> Vec<&'static Shortcut> {
    let there: Vec<_> = KNOWN.iter().filter(|s| root.join(s.mark).exists()).collect();
    if there.is_empty() {
        return there;
    }
    let nvram = Nvram::open(root);
    there.into_iter().filter(|s| s.runs(root, nvram.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn engines_are_seen_unless_they_are_off_and_forget() {
        let root = std::env::temp_dir().join(format!("vks-shortcut-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let names = || running(&root).iter().map(|s| s.name).collect::<Vec<_>>();
        let forget = || running(&root).iter().map(|s| s.forget(&root)).collect::<Vec<_>>();
        assert!(names().is_empty());
        write("sys/module/fast_classifier/x", "");
        write("sys/module/ctf/x", "");
        write("proc/fcache/x", "");
        assert_eq!(names(), ["SFE (fast_classifier)", "CTF", "flow cache"]);
        // An SFE without the file, and a flow cache without its program.
        assert_eq!(forget(), [false, true, false]);
        assert!(!root.join("sys/fast_classifier").exists());
        write("sys/fast_classifier/defunct_all", "");
        let told = root.join("told");
        write("bin/fc", &format!("#!/bin/sh\necho \"$@\" > {}\n", told.display()));
        assert_eq!(forget(), [true, true, true]);
        let text = |file: &str| fs::read_to_string(root.join(file)).unwrap();
        assert_eq!(text("sys/fast_classifier/defunct_all"), "1\n");
        assert_eq!(text("told"), "flush\n");
        // Switched off, by the firmwares' own settings.
        let off = "#!/bin/sh\ncase $2 in sfe) echo 0;; fc_disable | ctf_disable) echo 1;; esac\n";
        write("usr/sbin/nvram", off);
        assert!(names().is_empty());
        // DD-WRT's one switch is for both.
        write("usr/sbin/nvram", "#!/bin/sh\n[ $2 = sfe ] && echo 0\n");
        assert_eq!(names(), ["flow cache"]);
        fs::remove_dir_all(&root).unwrap();
    }
}
