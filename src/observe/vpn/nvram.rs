//! The firmwares' own VPN clients, as nvram says: OpenVPN and WireGuard of DD-WRT, FreshTomato and
//! Asuswrt-Merlin.

use super::wireguard::{Configured, Peer};
use super::{Finder, authority, openvpn, port};
use crate::observe::nvram::Nvram;

/// Lists the OpenVPN clients' servers.
pub(super) fn find_openvpn(finder: &mut Finder<'_>) {
    let Some(nvram) = Nvram::open(finder.root) else { return };
    for client in nvram.openvpn() {
        let lines = client.lines.iter();
        let lines: Vec<_> = lines.map(|(s, l)| (format!("nvram: {s}"), l.as_str())).collect();
        openvpn::from_lines(finder, &lines, &client.name);
    }
}

/// The WireGuard tunnels. Which peer is which the kernel's answer would tell by its key, which nobody
/// here needs: what runs is listed beside what is configured.
pub(super) fn wireguard(finder: &mut Finder<'_>) -> Vec<Configured> {
    let Some(nvram) = Nvram::open(finder.root) else { return Vec::new() };
    let mut out = Vec::new();
    for tunnel in nvram.wireguard() {
        let mut servers = Vec::new();
        for peer in tunnel.peers {
            let source = format!("nvram: {}", peer.setting);
            let (host, own) = authority(&peer.host);
            match port(own.unwrap_or(&peer.port)) {
                Err(why) => finder.problem(&format!("{source}: {why}")),
                Ok(port) => {
                    let host = finder.host(&source, &tunnel.device, host);
                    servers.extend(host.map(|host| Peer {
                        key: String::new(),
                        host,
                        port,
                        source,
                    }));
                }
            }
        }
        out.push(Configured {
            name: tunnel.device,
            netifd: false,
            listen_port: tunnel.port,
            mark: None,
            peers: servers,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use crate::observe::nvram::Nvram;
    use crate::observe::vpn::Found;
    use crate::types::Proto;

    type Row = (String, String, Option<u16>, Option<u16>);

    /// The root of a firmware with these settings.
    fn firmware(name: &str, program: &str, settings: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("vks-{name}-{}", std::process::id()));
        let program = root.join(program);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let file = root.join("settings");
        fs::write(&file, settings).unwrap();
        let file = file.display();
        let script = format!("#!/bin/sh\n[ \"$1\" = get ] && sed -n \"s/^$2=//p\" {file}\n");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        root
    }

    /// A firmware with these settings, and what is found in them: device, server, port, source port.
    fn found(name: &str, program: &str, settings: &str) -> (PathBuf, Nvram, Vec<Row>) {
        let root = firmware(name, program, settings);
        if name == "merlin" {
            fs::create_dir_all(root.join("jffs/openvpn")).unwrap();
            let custom = root.join("jffs/openvpn/vpn_client2_custom3");
            fs::write(custom, "verb 4\nremote second.example.net 443 tcp\n").unwrap();
        }
        let (found, problems) = super::super::find(&root, &[]);
        assert_eq!(problems, Vec::<String>::new());
        let row = |f: &Found| {
            assert!(f.proto != Proto::Tcp || f.host.to_string() == "second.example.net");
            let device = f.device.as_ref().map(ToString::to_string).unwrap_or_default();
            (device, f.host.to_string(), f.port, f.source_port)
        };
        let rows = found.iter().map(row).collect();
        let nvram = Nvram::open(&root).unwrap();
        (root, nvram, rows)
    }

    fn row(device: &str, host: &str, port: u16, own: Option<u16>) -> Row {
        (device.to_owned(), host.to_owned(), Some(port), own)
    }

    #[test]
    fn the_clients_of_tomato_are_found_with_their_devices() {
        let settings = "lan_ifname=br0\nlan1_ifname=br1\nlan2_ifname=\nwan_iface=ppp0\nwan_ifname=vlan2\n\
             PREFIX_eas=1,3,\nPREFIX1_if=tun\nPREFIX1_proto=udp\nPREFIX1_addr=192.0.2.1\n\
             PREFIX1_port=1194\nPREFIX1_nobind=1\nPREFIX2_if=tun\nPREFIX2_addr=192.0.2.2\n\
             PREFIX3_if=tap\nPREFIX3_crypt=secret\nPREFIX3_addr=vpn.example.net\nPREFIX3_port=1194\nPREFIX3_proto=udp4\n\
             wg0_enable=1\nwg0_com=3\nwg0_port=\n\
             wg0_peers=0<name<wg.example.net:4444<key<psk<10.0.0.2/32<0.0.0.0/0<25>0<phone<<key<<<<\n\
             wg1_enable=0\nwg1_peers=0<n<192.0.2.66:1<k<p<i<a<0\n\
             wg2_enable=1\nwg2_port=51900\nwg2_peers=1<office<192.0.2.7<k<p<i<a<0\n";
        // Older and newer ones.
        for (name, prefix, list) in
            [("tomato", "vpn_client", "vpn_client_eas"), ("tomato-new", "vpnc", "vpnc_eas")]
        {
            let settings = settings.replace("PREFIX_eas", list).replace("PREFIX", prefix);
            let (root, nvram, rows) = found(name, "bin/nvram", &settings);
            assert_eq!(
                rows,
                [
                    row("wg0", "wg.example.net", 4444, Some(51820)),
                    row("wg2", "192.0.2.7", 51900, Some(51900)),
                    row("tun11", "192.0.2.1", 1194, None),
                    row("tap13", "vpn.example.net", 1194, Some(1194)),
                ]
            );
            assert_eq!(nvram.devices("wan"), ["ppp0"]);
            assert_eq!(nvram.devices("lan1"), ["br1"]);
            assert_eq!(nvram.devices("openvpn"), ["tun11", "tap13"]);
            assert_eq!(nvram.devices("wireguard"), ["wg0", "wg2"]);
            let networks = nvram.networks();
            let locals = [("br0", "lan"), ("br1", "lan1")];
            assert_eq!(networks.locals, locals.map(|(a, b)| (a.to_owned(), b.to_owned())));
            // Client 2 is not started, and has a device all the same when it is.
            assert_eq!(networks.tunnels, ["tap13", "tun11", "tun12", "wg0", "wg2"]);
            assert_eq!(networks.wan, ["ppp0"]);
            fs::remove_dir_all(&root).unwrap();
        }
    }

    #[test]
    fn the_clients_of_merlin_are_found_with_their_devices() {
        let (root, nvram, rows) = found(
            "merlin",
            "bin/nvram",
            "lan_ifname=br0\nwan0_ifname=eth0\nvpn_clientx_eas=2,9,\n\
             vpn_client1_if=tun\nvpn_client1_addr=192.0.2.1\nvpn_client1_port=1194\n\
             vpn_client2_if=tun\nvpn_client2_addr=192.0.2.2\nvpn_client2_port=1198\n\
             vpn_client2_proto=udp\n\
             wgc1_enable=0\nwgc1_ep_addr=192.0.2.5\nwgc1_ep_port=51820\n\
             wgc5_enable=1\nwgc5_ep_addr=wg.example.net\nwgc5_ep_port=51821\n",
        );
        assert_eq!(
            rows,
            [
                row("wgc5", "wg.example.net", 51821, None),
                row("tun12", "192.0.2.2", 1198, None),
                row("tun12", "second.example.net", 443, None),
            ]
        );
        assert_eq!(nvram.devices("wan"), ["eth0"]);
        assert_eq!(nvram.devices("openvpn"), ["tun12"]);
        assert_eq!(nvram.devices("wireguard"), ["wgc5"]);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_clients_of_dd_wrt_are_found_with_their_devices() {
        let root = firmware(
            "ddwrt",
            "usr/sbin/nvram",
            "lan_ifname=br0\nwan_ifname=vlan2\n\
             openvpncl_enable=1\nopenvpncl_tuntap=tun\nopenvpncl_proto=udp4\nopenvpncl_multirem=1\n\
             openvpncl_remoteip=192.0.2.1\nopenvpncl_remoteport=1194\n\
             openvpncl_remoteip2=vpn.example.net\nopenvpncl_remoteport2=443\n\
             openvpncl_config=mark 7\n\
             oet_tunnels=3\noet1_en=1\noet1_proto=2\noet1_port=51821\noet1_peers=2\n\
             oet1_endpoint0=1\noet1_rem0=192.0.2.9\noet1_peerport0=51820\n\
             oet1_endpoint1=0\noet1_rem1=192.0.2.10\noet1_peerport1=51820\n\
             oet2_en=0\noet2_proto=2\noet2_peers=1\n\
             oet3_en=1\noet3_proto=1\noet3_peers=1\n",
        );

        let nvram = Nvram::open(&root).unwrap();
        assert_eq!(nvram.devices("lan"), ["br0"]);
        assert_eq!(nvram.devices("wan"), ["vlan2"]);
        assert_eq!(nvram.devices("openvpn"), ["tun1"]);
        assert_eq!(nvram.devices("wireguard"), ["oet1"]);
        assert!(nvram.devices("guest").is_empty());

        let (found, problems) = super::super::find(&root, &[]);
        assert_eq!(problems, Vec::<String>::new());
        let summary: Vec<_> = found
            .iter()
            .map(|f| {
                let device = f.device.as_ref().map(ToString::to_string).unwrap_or_default();
                (device, f.host.to_string(), f.port, f.proto, f.source_port, f.mark)
            })
            .collect();
        let row = |device: &str, host: &str, port, source_port, mark| {
            (device.to_owned(), host.to_owned(), Some(port), Proto::Udp, source_port, mark)
        };
        assert_eq!(
            summary,
            [
                row("oet1", "192.0.2.9", 51820, Some(51821), None),
                row("tun1", "192.0.2.1", 1194, None, Some(7)),
                row("tun1", "vpn.example.net", 443, None, Some(7)),
            ]
        );
        fs::remove_dir_all(&root).unwrap();
    }
}
