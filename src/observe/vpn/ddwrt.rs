//! DD-WRT's own VPN clients, as its nvram says: OpenVPN and WireGuard.

use super::wireguard::{Configured, Peer};
use super::{Finder, openvpn, port};
use crate::observe::nvram::Nvram;

/// Lists the OpenVPN client's servers.
pub(super) fn find_openvpn(finder: &mut Finder<'_>) {
    let Some(nvram) = Nvram::open(finder.root) else { return };
    let lines = nvram.openvpn();
    if !lines.is_empty() {
        let lines: Vec<_> =
            lines.iter().map(|(s, l)| (format!("nvram: {s}"), l.as_str())).collect();
        openvpn::from_lines(finder, &lines, "client");
    }
}

/// The WireGuard tunnels. Which peer is which the kernel's answer would tell by its key, which nobody
/// here needs: what runs is listed beside what is configured.
pub(super) fn wireguard(finder: &mut Finder<'_>) -> Vec<Configured> {
    let Some(nvram) = Nvram::open(finder.root) else { return Vec::new() };
    let mut out = Vec::new();
    for tunnel in nvram.wireguard() {
        let (own, peers) = nvram.peers(tunnel);
        let name = format!("oet{tunnel}");
        let mut servers = Vec::new();
        for peer in peers {
            let source = format!("nvram: {}", peer.setting);
            match port(&peer.port) {
                Err(why) => finder.problem(&format!("{source}: {why}")),
                Ok(port) => {
                    let host = finder.host(&source, &name, &peer.host);
                    servers.extend(host.map(|host| Peer {
                        key: String::new(),
                        host,
                        port,
                        source,
                    }));
                }
            }
        }
        let listen_port = crate::types::port(&own);
        out.push(Configured { name, netifd: false, listen_port, mark: None, peers: servers });
    }
    out
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use crate::observe::nvram::Nvram;
    use crate::types::Proto;

    #[test]
    fn the_clients_of_dd_wrt_are_found_with_their_devices() {
        let root = std::env::temp_dir().join(format!("vks-ddwrt-{}", std::process::id()));
        fs::create_dir_all(root.join("usr/sbin")).unwrap();
        let settings = root.join("settings");
        fs::write(
            &settings,
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
        )
        .unwrap();
        let program = root.join("usr/sbin/nvram");
        let settings = settings.display();
        let script = format!("#!/bin/sh\n[ \"$1\" = get ] && sed -n \"s/^$2=//p\" {settings}\n");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();

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
