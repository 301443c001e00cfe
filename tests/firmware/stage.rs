//! The laboratory's router with a firmware on it, and what protects it.

use crate::lab::ns::Ns;
use crate::lab::topology::{Lab, Tunnel, connect, internet};
use crate::lab::traffic::{Flow, send};
use crate::lab::watch::Seen;
use crate::lab::{Res, wait_for};
use crate::machine::{Kernel, Machine, script};
use crate::trial::{SOME, Trial, Who};
use std::fs;

/// Where the configuration is.
const CONFIG: &str = "/jffs/etc/config/vpn-killswitch";

/// A firmware, with the names that devices have there.
pub struct Firmware {
    pub name: &'static str,
    /// What stands for its services, and the names by which these are called.
    pub rc: &'static str,
    pub services: &'static [&'static str],
    /// Its devices.
    pub wan: &'static str,
    tunnel: &'static str,
    /// What restarts the firewall.
    pub restart: &'static str,
    /// Where the owner's own firewall script is: a file, or a setting in nvram.
    owner: &'static str,
    /// What is in its nvram.
    settings: &'static str,
    /// Where its program `nvram` is, and what else it is known by.
    pub marks: &'static [&'static str],
}

pub static DDWRT: Firmware = Firmware {
    name: "ddwrt",
    marks: &["usr/sbin/nvram"],
    rc: include_str!("ddwrt"),
    services: &["startservice", "stopservice"],
    wan: "eth1",
    tunnel: "oet1",
    restart: "stopservice firewall; startservice firewall",
    owner: "rc_firewall",
    settings: "ipv6_enable=1 sfe=1 oet_tunnels=1 oet1_en=1 oet1_proto=2",
};

pub static TOMATO: Firmware = Firmware {
    name: "tomato",
    marks: &["bin/nvram"],
    rc: include_str!("tomato"),
    services: &["service"],
    wan: "vlan2",
    tunnel: "tun11",
    restart: "service firewall restart",
    owner: "script_fire",
    settings: "ipv6_service=native",
};

pub static MERLIN: Firmware = Firmware {
    name: "merlin",
    marks: &["bin/nvram", "usr/sbin/helper.sh"],
    rc: include_str!("merlin"),
    services: &["service"],
    wan: "eth0",
    tunnel: "wgc1",
    restart: "service restart_firewall",
    owner: "/jffs/scripts/firewall-start",
    settings: "ipv6_service=native",
};

/// What protects the router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// The program, by its installer.
    Product,
    /// The rule with which this project began, where the firmware's owner puts it.
    OneLiner,
}

/// The router.
pub struct Stage {
    pub lab: Lab,
    pub firmware: &'static Firmware,
    pub system: System,
    /// More words for every call of the program.
    pub words: &'static str,
    machine: Machine,
}

impl Stage {
    /// On a router that has never been switched on: no rules, and nothing is forwarded. Its uplink and its
    /// tunnel have their addresses and routes; what protects it is on its flash.
    pub fn new(firmware: &'static Firmware, system: System, kernel: Kernel) -> Res<Self> {
        let lab = Lab::new(Tunnel::Veth)?;
        lab.router.nft("delete table inet fw4\n")?;
        lab.router.sysctls(&[("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0")])?;
        let machine = Machine::new(&lab.router, kernel, firmware)?;
        let stage = Self { lab, firmware, system, words: "", machine };
        for (old, new) in [
            ("br-lan", "br0"),
            ("br-guest", "br1"),
            ("wan0", firmware.wan),
            ("wg0", firmware.tunnel),
        ] {
            stage.lab.router.ip(&format!(
                "link set {old} down\nlink set {old} name {new}\nlink set {new} up\n"
            ))?;
        }
        // IPv6 addresses are lost with the link.
        stage.lab.router.ip("addr add 2001:db8:1:1::1/64 dev br0 nodad\n\
                             addr add 2001:db8:1:2::1/64 dev br1 nodad\n")?;
        stage.lab.router.wait_up(firmware.wan)?;
        stage.lab.provider.wait_up("isp0")?;
        stage.lab.uplink_up(firmware.wan)?;
        // The VPN server's network knows no way back to the router's IPv6 prefix.
        stage.lab.router.nft(&format!(
            "table ip6 lab {{ chain out {{ type nat hook postrouting priority srcnat; \
             oifname \"{}\" masquerade; }}; }}\n",
            firmware.tunnel
        ))?;
        stage.tunnel_up()?;
        let settings = format!(
            "lan_ifname=br0 lan1_ifname=br1 wan_ifname={wan} wan_iface={wan} tunnel={} {}",
            firmware.tunnel,
            firmware.settings,
            wan = firmware.wan
        );
        stage.sh(&format!(
            "mkdir /tmp/.nvram; for s in {settings}; do nvram set $s; done; nvram commit"
        ))?;
        Ok(stage)
    }

    /// Runs this on the router; it must succeed.
    pub fn sh(&self, text: &str) -> Res<String> {
        self.machine.sh_in(&self.lab.router, text)
    }

    /// Installs what protects it on the router as it runs, and switches it on.
    pub fn install(&self) -> Res<()> {
        self.put(&self.lab.router)?;
        if !self.words.is_empty() {
            // The guard is running already, without them.
            let words = format!("s/--platform [a-z]*/& {}/", self.words);
            let hook = "/jffs/vpn-killswitch/hook";
            self.sh(&format!("{hook} stop; sed -i '{words}' {hook}; {hook} again"))?;
        }
        match self.system {
            System::Product => {
                let out = self.program("enable")?;
                if out.status.success() {
                    return Ok(());
                }
                Err(format!("enable: {}", String::from_utf8_lossy(&out.stderr)).into())
            }
            System::OneLiner => self.restart_firewall(),
        }
    }

    /// The same on a router that is then switched off: its flash is all that it keeps.
    pub fn install_before_reboot(&mut self) -> Res<()> {
        // What is done to this network is forgotten.
        self.put(&Ns::new("workshop")?)?;
        if self.system == System::Product {
            self.configure(&self.configuration('1'))?;
        }
        self.machine.reboot(&self.lab.router)
    }

    fn put(&self, network: &Ns) -> Res<()> {
        match self.system {
            System::Product => {
                let installer = format!("sh /mnt/install-{}.sh", self.firmware.name);
                self.machine.sh_in(network, &installer)?;
                self.configure(&self.configuration('0'))
            }
            System::OneLiner => {
                let line = format!("iptables -I FORWARD -i br0 -o {} -j DROP", self.firmware.wan);
                let owner = self.firmware.owner;
                if owner.starts_with('/') {
                    self.sh("nvram set jffs2_scripts=1; nvram commit")?;
                    return script(&self.machine.path(owner), &format!("#!/bin/sh\n{line}\n"));
                }
                self.sh(&format!("nvram set {owner}='{line}'; nvram commit")).map(drop)
            }
        }
    }

    /// Adds a line to the firewall script of the firmware's owner.
    pub fn owner_adds(&self, line: &str) -> Res<()> {
        let owner = self.firmware.owner;
        if owner.starts_with('/') {
            return self.sh(&format!("echo '{line}' >>{owner}")).map(drop);
        }
        let text = format!("$(nvram get {owner}); {line}");
        self.sh(&format!("nvram set {owner}=\"{text}\"; nvram commit")).map(drop)
    }

    fn configuration(&self, enabled: char) -> String {
        crate::lab::product::configuration("strict", "")
            .replace("enabled '1'", &format!("enabled '{enabled}'"))
            .replace("'wg0'", &format!("'{}'", self.firmware.tunnel))
            // As nvram has it.
            .replace("local_device 'br-lan'", "local_interface 'lan'")
            .replace("'br-guest'", "'br1'")
    }

    /// Writes the configuration.
    pub fn configure(&self, text: &str) -> Res<()> {
        let file = self.machine.path(CONFIG);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(file, text)?)
    }

    /// The firewall starts again, as the firmware does it.
    pub fn restart_firewall(&self) -> Res<()> {
        self.sh(self.firmware.restart)?;
        self.settle()
    }

    /// Takes the program off again.
    pub fn uninstall(&self) -> Res<()> {
        let said = self.sh(&format!("sh /mnt/install-{}.sh uninstall", self.firmware.name))?;
        let left = self.sh("find /jffs /opt -name '*killswitch*'")?;
        if !said.contains("OPEN") || !left.is_empty() {
            return Err(format!("uninstall: {said}; left: {left}").into());
        }
        Ok(())
    }

    /// A command of the program, as the hooks call it.
    pub fn program(&self, words: &str) -> Res<std::process::Output> {
        let Firmware { name, .. } = self.firmware;
        let text =
            format!("/jffs/vpn-killswitch/vpn-killswitch --platform {name} {} {words}", self.words);
        self.machine.run_in(&self.lab.router, &text)
    }

    /// The firmware starts, up to where it asks for the uplink.
    pub fn boot(&self) -> Res<()> {
        self.sh("nvram load; rc boot").map(drop)
    }

    /// The uplink has an address.
    pub fn wan_up(&self, device: &str) -> Res<()> {
        self.sh(&format!("rc wan_up {device}")).map(drop)
    }

    /// The firmware has started.
    pub fn booted(&self) -> Res<()> {
        self.sh("rc booted")?;
        self.settle()
    }

    /// From the first script to the last, with the uplink there; and the tunnel is up.
    pub fn start(&self) -> Res<()> {
        self.boot()?;
        self.wan_up(self.firmware.wan)?;
        self.booted()?;
        self.lab.ready()
    }

    /// Waits until no script of the firmware is running.
    pub fn settle(&self) -> Res<()> {
        self.machine.settle()
    }

    /// Waits until the second layer is there.
    pub fn second_layer(&self) -> Res<()> {
        wait_for("the second layer", 10.0, || {
            ["-4", "-6"].iter().all(|family| {
                let rules = self.lab.router.command("ip").args([family, "rule"]).output();
                rules.is_ok_and(|r| String::from_utf8_lossy(&r.stdout).contains("prohibit"))
            })
        })
    }

    /// An error unless the program finds everything as it should be.
    pub fn verify(&self) -> Res<()> {
        if self.system != System::Product {
            return Ok(());
        }
        let out = self.program("check")?;
        // Protecting, blocking.
        if matches!(out.status.code(), Some(0 | 4)) {
            return Ok(());
        }
        let text = [out.stdout, out.stderr].concat();
        let log = fs::read_to_string(self.machine.path("/tmp/hooks.log")).unwrap_or_default();
        Err(format!("check: {}: {}{log}", out.status, String::from_utf8_lossy(&text)).into())
    }

    /// The same within the time in which the guard looks at what the kernel tells nobody of.
    pub fn verify_soon(&self) -> Res<()> {
        let mut last = self.verify();
        drop(wait_for("the guard", 15.0, || {
            last = if last.is_ok() { Ok(()) } else { self.verify() };
            last.is_ok()
        }));
        last
    }

    /// The tunnel comes up, with a new device if there is none.
    pub fn tunnel_up(&self) -> Res<()> {
        let name = self.firmware.tunnel;
        if !self.lab.router.has_device(name) {
            connect(&self.lab.router, name, &self.lab.vpn, "peer0")?;
            self.lab
                .vpn
                .ip("addr add 10.9.0.1/24 dev peer0\naddr add fd09::1/64 dev peer0 nodad\n")?;
        }
        self.lab.router.ip(&format!(
            "link set {name} up\n\
             addr replace 10.9.0.2/24 dev {name}\n\
             addr replace fd09::2/64 dev {name} nodad\n\
             route replace default via 10.9.0.1 dev {name} metric 5\n\
             route replace default via fd09::1 dev {name} metric 5\n"
        ))
    }

    pub fn tunnel_down(&self) -> Res<()> {
        self.lab.router.ip(&format!("link set {} down\n", self.firmware.tunnel))
    }

    pub fn tunnel_delete(&self) -> Res<()> {
        self.lab.router.ip(&format!("link del {}\n", self.firmware.tunnel))
    }

    /// The uplink is lost with its device, and comes back as another one, with another address.
    pub fn reconnect(&self, trial: &mut Trial, old: &str, new: &str, host: u8) -> Res<()> {
        self.sh("rc wan_down")?;
        self.lab.router.ip(&format!("link del {old}\n"))?;
        // Its far end goes with it.
        connect(&self.lab.router, new, &self.lab.provider, "isp0")?;
        trial.watch.also(&self.lab.provider, "isp0")?;
        self.lab.provider.ip(&format!(
            "addr add 100.64.7.1/24 dev isp0\n\
             addr add 2001:db8:64::1/64 dev isp0 nodad\n\
             route add 2001:db8:1::/48 via 2001:db8:64::{host}\n"
        ))?;
        self.lab.router.ip(&format!(
            "addr add 100.64.7.{host}/24 dev {new}\n\
             addr add 2001:db8:64::{host}/64 dev {new} nodad\n\
             route add default via 100.64.7.1 dev {new} metric 100\n\
             route add default via 2001:db8:64::1 dev {new} metric 100\n\
             route add 203.0.113.10/32 via 100.64.7.1 dev {new}\n\
             route add 2001:db8:113::10/128 via 2001:db8:64::1 dev {new}\n"
        ))?;
        self.wan_up(new)?;
        self.settle()
    }

    /// The networks whose clients are protected.
    pub fn clients(&self) -> [(Who, &Ns); 2] {
        [(Who::Lan, &self.lab.client), (Who::Guest, &self.lab.guest)]
    }

    /// Fresh flows of all clients; each packet must arrive, and through the tunnel.
    pub fn delivered(&self) -> Res<u32> {
        let mut count = 0;
        for (who, ns) in self.clients() {
            // Of a protocol without ports only one client at a time gets through masquerading.
            self.lab.forget_connections()?;
            let watch = self.lab.watch()?;
            let sent = send(ns, None, Flow::all_kinds(&internet()), SOME, 400)?;
            let seen = watch.finish()?;
            Seen::all_arrived(&seen.vpn, &sent)
                .map_err(|e| format!("{who:?}, through the tunnel: {e}"))?;
            count += sent.iter().map(|s| s.sent).sum::<u32>();
            if let Some(p) = seen.strays().next() {
                return Err(format!("{who:?}: beside the tunnel: {p}").into());
            }
        }
        Ok(count)
    }
}
