//! DD-WRT, FreshTomato and Asuswrt-Merlin as far as files go: which of them it is, where the first
//! configuration is written, and what it says. The stand-in for `nvram` prints settings from a file.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: what is missing is a failed test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vpn_killswitch::config::{self, Config};

struct Firmware(PathBuf);

impl Firmware {
    fn new(name: &str, files: &[&str], settings: &str) -> Self {
        let root =
            std::env::temp_dir().join(format!("vks-platforms-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("settings"), settings).unwrap();
        let nvram = format!(
            "#!/bin/sh\n[ \"$1\" = get ] && sed -n \"s/^$2=//p\" {}\n",
            root.join("settings").display()
        );
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &nvram).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(root)
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vpn-killswitch"));
        command.arg("--root").arg(&self.0).args(words).output().unwrap()
    }

    /// Writes the first configuration, which must be at `path`.
    fn set_up(&self, path: &str, words: &[&str]) -> Config {
        let ran = self.run(&[words, &["setup"]].concat());
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        config::parse(&fs::read(self.0.join(path)).unwrap()).unwrap()
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn devices(config: &Config) -> (Vec<String>, Vec<String>) {
    let names = |list: &[vpn_killswitch::types::DevicePattern]| {
        list.iter().map(ToString::to_string).collect()
    };
    assert!(!config.enabled);
    (names(&config.tunnel_devices), names(&config.local_devices))
}

const JFFS: &str = "jffs/etc/config/vpn-killswitch";
const OPT: &str = "opt/etc/config/vpn-killswitch";

fn lists(tunnels: &[&str], locals: &[&str]) -> (Vec<String>, Vec<String>) {
    let own = |list: &[&str]| list.iter().map(|d| (*d).to_owned()).collect();
    (own(tunnels), own(locals))
}

#[test]
fn dd_wrt() {
    let settings = "lan_ifname=br0\nwan_iface=vlan2\nopenvpncl_enable=1\nopenvpncl_tuntap=tun\n\
                    openvpncl_remoteip=192.0.2.1\nopenvpncl_remoteport=1194\noet_tunnels=1\n\
                    oet1_en=1\noet1_proto=2\noet1_port=51820\n";
    let firmware = Firmware::new("ddwrt", &["usr/sbin/nvram"], settings);
    let config = firmware.set_up(JFFS, &[]);
    assert_eq!(devices(&config), lists(&["oet1", "tun1"], &["br0"]));
    let text = fs::read_to_string(firmware.0.join(JFFS)).unwrap();
    assert!(text.contains("#   vlan2: uplink"));
    // The rules that it makes are those of its devices, and its server is found.
    fs::write(firmware.0.join(JFFS), text.replace("enabled '0'", "enabled '1'")).unwrap();
    let rules = firmware.run(&["show", "--backend", "iptables"]);
    let rules = String::from_utf8(rules.stdout).unwrap();
    assert!(rules.contains("br0") && rules.contains("oet1") && rules.contains("192.0.2.1"));
}

#[test]
fn tomato_keeps_it_in_opt_if_the_installer_made_that() {
    let settings = "lan_ifname=br0\nlan1_ifname=br1\nlan3_ifname=br3\nwan_iface=ppp0\n\
                    vpn_client_eas=1,\nvpn_client1_if=tun\nvpn_client1_addr=192.0.2.1\n\
                    wg0_enable=1\nwg0_peers=\n";
    let firmware = Firmware::new("tomato", &["bin/nvram"], settings);
    fs::create_dir_all(firmware.0.join(OPT).parent().unwrap()).unwrap();
    assert_eq!(
        devices(&firmware.set_up(OPT, &[])),
        lists(&["tun11", "wg0"], &["br0", "br1", "br3"])
    );
    assert!(!firmware.0.join("jffs").exists());
}

#[test]
fn merlin_and_who_is_told_what_it_is() {
    let settings = "lan_ifname=br0\nwan0_ifname=eth0\nvpn_clientx_eas=\nvpn_client5_if=tun\n\
                    vpn_client5_addr=192.0.2.1\nwgc1_enable=1\nwgc1_ep_addr=192.0.2.2\n";
    let files = ["bin/nvram", "usr/sbin/helper.sh"];
    let firmware = Firmware::new("merlin", &files, settings);
    assert_eq!(devices(&firmware.set_up(JFFS, &[])), lists(&["tun15", "wgc1"], &["br0"]));
    // Somebody says that it is another: then its files are there.
    let ran = firmware.run(&["--platform", "openwrt", "setup"]);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.contains("/etc/config/vpn-killswitch was written"), "{said}");
    assert!(is_file(&firmware.0, "etc/config/vpn-killswitch"));
    // What is there is kept.
    let ran = firmware.run(&["--platform", "merlin", "setup"]);
    assert!(String::from_utf8(ran.stdout).unwrap().contains("nothing was changed"));
}

fn is_file(root: &Path, file: &str) -> bool {
    root.join(file).is_file()
}
