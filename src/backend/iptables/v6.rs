//! IPv6 where the kernel has it and there is no ip6tables: no rule can judge it, so it is switched off.
//!
//! Nothing is forwarded, and every device but the local ones, also one that appears later, has no IPv6
//! at all. What was there before is kept in a file, and comes back when protection is switched off.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ruleset::{Ruleset, build::LOCALS};
use crate::types::left_aligned;

const FOLDER: &str = "/proc/sys/net/ipv6/conf";
const MEMORY: &str = "vpn-killswitch.ipv6";

/// What must be so, and is not: files and what they must hold.
fn open(ruleset: &Ruleset) -> Vec<(PathBuf, &'static str)> {
    let mut wanted = vec![(Path::new(FOLDER).join("all/forwarding"), "0")];
    let is_local = |set: &str| set.strip_suffix("_range").unwrap_or(set) == LOCALS;
    let local = |name: &str| {
        let sets = ruleset.sets.iter().filter(|s| is_local(&s.name));
        sets.into_iter().any(|s| s.contains(&left_aligned(name.as_bytes())))
    };
    for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name != "all" && name != "lo" && !local(&name) {
            wanted.push((entry.path().join("disable_ipv6"), "1"));
        }
    }
    wanted.retain(|(file, value)| fs::read_to_string(file).is_ok_and(|now| now.trim() != *value));
    wanted.sort();
    wanted
}

/// Which devices may still use IPv6, for a person.
pub fn differences(ruleset: &Ruleset) -> Vec<String> {
    let name = |(file, _): &(PathBuf, _)| format!("IPv6 is not switched off: {}", file.display());
    open(ruleset).iter().map(name).collect()
}

/// Switches it off. What was changed.
///
/// # Errors
/// What could not be.
pub fn close(ruleset: &Ruleset, memory: &Path) -> Result<Vec<String>, String> {
    let mut changes = Vec::new();
    // Behind forwarding, whose change the kernel hands on to all devices, look again.
    for (file, value) in open(ruleset) {
        let old = fs::read_to_string(&file).unwrap_or_default();
        let path = memory.join(MEMORY);
        let mut kept = fs::read_to_string(&path).unwrap_or_default();
        let line = format!("{} ", file.display());
        if !kept.contains(&line) {
            kept.push_str(&format!("{line}{}\n", old.trim()));
            // Without it IPv6 stays off until the next reboot.
            let _ = fs::write(&path, kept);
        }
        fs::write(&file, value).map_err(|e| format!("{}: {e}", file.display()))?;
        changes.push(format!("{} is {value}", file.display()));
    }
    Ok(changes)
}

/// Gives back what [`close`] took.
pub fn give_back(memory: &Path) {
    let path = memory.join(MEMORY);
    for line in fs::read_to_string(&path).unwrap_or_default().lines() {
        if let Some((file, value)) = line.rsplit_once(' ') {
            // A device that is gone needs nothing.
            let _ = fs::write(file, value);
        }
    }
    let _ = fs::remove_file(path);
}
