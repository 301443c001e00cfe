//! The router's firmware: which one this is, and where its settings last.
//!
//! Looks at which files there are, and reads none.

use std::path::{Path, PathBuf};

/// A firmware, or none that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// OpenWrt.
    Openwrt,
    /// DD-WRT.
    Ddwrt,
    /// FreshTomato.
    Tomato,
    /// Asuswrt-Merlin.
    Merlin,
    /// Any other Linux, Entware on it or not.
    Generic,
}

/// What each is called.
const NAMES: [(&str, Platform); 5] = [
    ("openwrt", Platform::Openwrt),
    ("ddwrt", Platform::Ddwrt),
    ("tomato", Platform::Tomato),
    ("merlin", Platform::Merlin),
    ("generic", Platform::Generic),
];
/// What only one of them has, the first to be found first. Some OpenWrt has a program `nvram` as well.
const MARKS: [(&str, Platform); 4] = [
    ("etc/openwrt_release", Platform::Openwrt),
    ("usr/sbin/helper.sh", Platform::Merlin),
    ("usr/sbin/nvram", Platform::Ddwrt),
    ("bin/nvram", Platform::Tomato),
];
/// The configuration, in a folder that lasts.
const FILE: &str = "etc/config/vpn-killswitch";

impl Platform {
    /// By its name.
    ///
    /// # Errors
    /// Which names there are, for a person.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(known, _)| *known == name).map(|(_, platform)| *platform);
        found.ok_or_else(|| {
            let [names @ .., last] = NAMES.map(|(name, _)| name);
            format!("unknown platform '{name}'; known are {} and {last}", names.join(", "))
        })
    }

    /// By what there is below `root`.
    pub fn detect(root: &Path) -> Self {
        let there = |(mark, _): &&(&str, Self)| root.join(mark).exists();
        MARKS.iter().find(there).map_or(Self::Generic, |(_, platform)| *platform)
    }

    /// Whether its networks are settings in nvram.
    pub fn has_nvram(self) -> bool {
        matches!(self, Self::Ddwrt | Self::Tomato | Self::Merlin)
    }

    /// Where the configuration is, or would be: of the places that last here the first that has it, or
    /// else has a folder for it.
    pub fn config(self, root: &Path) -> PathBuf {
        let places: &[&str] = match self {
            Self::Openwrt => &[""],
            Self::Generic => &["", "opt"],
            // Their root is read-only, or made anew at each start.
            Self::Ddwrt | Self::Tomato | Self::Merlin => &["jffs", "opt"],
        };
        let paths: Vec<PathBuf> = places.iter().map(|place| root.join(place).join(FILE)).collect();
        let has_file = paths.iter().find(|path| path.symlink_metadata().is_ok());
        let has_folder = || paths.iter().find(|path| path.parent().is_some_and(Path::is_dir));
        let found = has_file.or_else(has_folder).or(paths.first());
        found.cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root(name: &str, files: &[&str]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("vks-platform-{name}-{}", std::process::id()));
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    #[test]
    fn each_is_told_by_what_it_has() {
        let of = |name, files: &[&str]| {
            let root = root(name, files);
            let found = Platform::detect(&root);
            fs::remove_dir_all(&root).unwrap();
            found
        };
        assert_eq!(of("owrt", &["etc/openwrt_release", "usr/sbin/nvram"]), Platform::Openwrt);
        assert_eq!(of("dd", &["usr/sbin/nvram"]), Platform::Ddwrt);
        assert_eq!(of("tomato", &["bin/nvram"]), Platform::Tomato);
        assert_eq!(of("merlin", &["bin/nvram", "usr/sbin/helper.sh"]), Platform::Merlin);
        assert_eq!(of("none", &["etc/passwd"]), Platform::Generic);
        for (name, platform) in NAMES {
            assert_eq!(Platform::parse(name), Ok(platform));
        }
        assert!(Platform::parse("amiga").unwrap_err().ends_with("merlin and generic"));
    }

    #[test]
    fn the_configuration_is_where_it_lasts() {
        let config = |platform: Platform, root: &Path| {
            platform.config(root).strip_prefix(root).unwrap().to_owned()
        };
        let [etc, jffs, opt] = ["", "jffs", "opt"].map(|place| Path::new(place).join(FILE));
        let empty = root("empty", &["etc/passwd"]);
        for (name, platform) in NAMES {
            let first = if matches!(name, "openwrt" | "generic") { &etc } else { &jffs };
            assert_eq!(config(platform, &empty), *first);
        }
        // A folder that the installer made, and then a file.
        fs::create_dir_all(empty.join("opt/etc/config")).unwrap();
        assert_eq!(config(Platform::Merlin, &empty), opt);
        assert_eq!(config(Platform::Generic, &empty), opt);
        fs::create_dir_all(empty.join("jffs/etc/config")).unwrap();
        assert_eq!(config(Platform::Merlin, &empty), jffs);
        fs::write(empty.join(&opt), "").unwrap();
        assert_eq!(config(Platform::Merlin, &empty), opt);
        assert_eq!(config(Platform::Openwrt, &empty), etc);
        fs::remove_dir_all(&empty).unwrap();
    }
}
