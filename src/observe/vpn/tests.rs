use super::*;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory with these files; gone when this is.
struct Root(PathBuf);

impl Root {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("vks-vpn-{}-{n}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(root)
    }

    /// What is found, in a line each.
    fn find(&self, links: &[Link]) -> (Vec<String>, Vec<String>) {
        let (found, problems) = find(&self.0, links);
        (found.iter().map(brief).collect(), problems)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn brief(f: &Found) -> String {
    let mut out = format!("{}: {} {}", f.name, f.host, f.proto);
    for (what, value) in [
        ("port", f.port.map(|p| p.to_string())),
        ("from", f.source_port.map(|p| p.to_string())),
        ("mark", f.mark.map(|m| m.to_string())),
        ("user", f.user.clone()),
        ("interface", f.interface.clone()),
        ("device", f.device.as_ref().map(ToString::to_string)),
    ] {
        if let Some(value) = value {
            out.push_str(&format!(" {what} {value}"));
        }
    }
    format!("{out} [{}]", f.source)
}

fn link(name: &str, kind: &str) -> Link {
    Link { name: name.to_owned(), kind: kind.to_owned(), ..Link::default() }
}

#[test]
fn nothing_is_found_where_there_is_nothing() {
    assert_eq!(Root::new(&[]).find(&[]), (Vec::new(), Vec::new()));
}

#[test]
fn wg_quicks_files() {
    let file = "[Interface]\nPrivateKey = x\nAddress = 10.64.0.2/32 # ours\nDNS = 192.0.2.53\n\
        # Endpoint = old.example.net:1\n[Peer]\npublickey = AbCdEfGhIjKl=\n\
        AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = vpn.example.net:51820\n\n\
        [Peer]\nPublicKey = Roaming0=\nAllowedIPs = 10.0.0.0/8\n\
        [Peer]\nPublicKey = Sixth000=\nEndpoint = [2001:db8::1]:5\n";
    let root = Root::new(&[
        ("etc/wireguard/home.conf", file),
        (
            "etc/wireguard/narrow.conf",
            "[Interface]\nListenPort=4000\nFwMark=0x10\n[Peer]\nEndpoint=192.0.2.1:6\n",
        ),
        ("etc/wireguard/bad.conf", "[interface]\nListenPort = x\n[peer]\nEndpoint = 192.0.2.1\n"),
        ("etc/wireguard/wg0.conf", "[Peer]\nEndpoint = shadowed.example.net:1\n"),
        ("etc/config/network", "config interface wg0\n option proto wireguard\n"),
    ]);
    let (found, problems) = root.find(&[]);
    assert_eq!(
        found,
        [
            "home peer AbCdEfGh: vpn.example.net udp port 51820 user 0 device home [/etc/wireguard/home.conf:9]",
            "home peer Sixth000: 2001:db8::1 udp port 5 user 0 device home [/etc/wireguard/home.conf:16]",
            "narrow peer : 192.0.2.1 udp port 6 from 4000 mark 16 device narrow [/etc/wireguard/narrow.conf:5]",
        ]
    );
    assert_eq!(
        problems,
        [
            "/etc/wireguard/bad.conf:2: 'x' is not a port",
            "/etc/wireguard/bad.conf:4: bad peer : '192.0.2.1' has no port",
        ]
    );
}

#[test]
fn openvpn_by_the_init_script() {
    let root = Root::new(&[
        (
            "etc/config/openvpn",
            "config openvpn nord\n option enabled 1\n option config /etc/openvpn/nord.ovpn\n option dev tun5\n\
             config openvpn uci\n option enable 1\n option client 1\n option nobind 1\n option dev tun\n\
             option proto tcp\n list remote 'a.example.net 443'\n list remote 'b.example.net 1194 udp'\n\
             option user nobody\n\
             config openvpn off\n option config /etc/openvpn/../openvpn/off.conf\n\
             config openvpn server\n option enabled 1\n option port 1194\n option server '10.8.0.0 255.255.255.0'\n",
        ),
        ("etc/openvpn/nord.ovpn", "client\ndev tun\nremote 192.0.2.4 1194 udp\nconfig more.inc\n"),
        ("etc/openvpn/more.inc", "mark 77\n"),
        ("etc/openvpn/off.conf", "client\nremote off.example.net\n"),
        ("etc/openvpn/auto.conf", "client\ndev tun\nremote auto.example.net\n"),
        ("etc/openvpn/not-started.ovpn", "client\nremote no.example.net\n"),
    ]);
    let (found, problems) = root.find(&[]);
    assert_eq!(
        found,
        [
            "openvpn nord: 192.0.2.4 udp port 1194 mark 77 device tun5 [/etc/openvpn/nord.ovpn:3]",
            "openvpn uci: a.example.net tcp port 443 user 0 device tun* [/etc/config/openvpn: uci]",
            "openvpn uci: a.example.net tcp port 443 user nobody device tun* [/etc/config/openvpn: uci]",
            "openvpn uci: b.example.net udp port 1194 user 0 device tun* [/etc/config/openvpn: uci]",
            "openvpn uci: b.example.net udp port 1194 user nobody device tun* [/etc/config/openvpn: uci]",
            "openvpn auto: auto.example.net udp port 1194 user 0 device tun* [/etc/openvpn/auto.conf:3]",
        ]
    );
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn openvpn_by_netifd() {
    let network = "config interface vpn\n option proto openvpn\n option config /etc/openvpn/vpn.conf\n\
        option ovpnproto tcp\n option username u\n list remote '2001:db8::5 443'\n\
        config interface off\n option proto openvpn\n option disabled 1\n list remote x.example.net\n";
    let old = "config openvpn vpn\n option enabled 1\n option config /etc/openvpn/vpn.conf\n";
    let file = "client\ndev tun1\nport 1195\nremote vpn.example.net\n";
    let root = Root::new(&[
        ("etc/config/network", network),
        ("etc/config/openvpn", old),
        ("etc/openvpn/vpn.conf", file),
        ("lib/netifd/proto/openvpn.sh", ""),
    ]);
    let (found, problems) = root.find(&[]);
    assert_eq!(
        found,
        [
            "openvpn vpn: vpn.example.net tcp port 1195 user 0 interface vpn device tun1 [/etc/openvpn/vpn.conf:4]",
            "openvpn vpn: 2001:db8::5 tcp port 443 user 0 interface vpn device tun1 [/etc/config/network: vpn]",
        ]
    );
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn the_kernels_own_openvpn_packets_have_no_user() {
    let config = |port| {
        format!("client\ndev tun\nremote 192.0.2.1 {port}\nremote 192.0.2.1 443 tcp\nmark 5\n")
    };
    let root = Root::new(&[("etc/openvpn/a.conf", &config(1194))]);
    for other in [link("tun0", "tun"), link("tap0", "ovpn")] {
        assert_eq!(root.find(&[other]).0.len(), 2);
    }
    let (found, problems) = root.find(&[link("tun0", "ovpn")]);
    assert_eq!(
        found,
        [
            "openvpn a: 192.0.2.1 udp port 1194 mark 5 device tun* [/etc/openvpn/a.conf:3]",
            "openvpn a: 192.0.2.1 udp port 1194 device tun* [/etc/openvpn/a.conf:3]",
            "openvpn a: 192.0.2.1 tcp port 443 mark 5 device tun* [/etc/openvpn/a.conf:4]",
        ]
    );
    assert!(problems.is_empty(), "{problems:?}");

    let root = Root::new(&[("etc/openvpn/a.conf", &config(53))]);
    let (found, problems) = root.find(&[link("tun0", "ovpn-dco-v2")]);
    assert_eq!(found.len(), 2);
    assert!(problems[0].contains("port 53 is a DNS port"), "{problems:?}");
}

#[test]
fn the_other_protocols_of_netifd() {
    let network = "config interface p\n option proto pptp\n option server pptp.example.net\n\
        config interface l\n option proto l2tp\n option server 'l2tp.example.net:1702'\n\
        config interface s\n option proto sstp\n option server 192.0.2.3\n option port 4443\n\
        config interface f\n option proto openfortivpn\n option peeraddr 192.0.2.4\n\
        config interface v\n option proto vpnc\n option server 192.0.2.5\n option natt_mode cisco-udp\n\
        config interface o\n option proto openconnect\n option uri 'https://vpn.example.net:8443/group'\n\
        config interface g\n option proto openconnect\n option vpn_protocol gp\n option server '[2001:db8::1]'\n\
        config interface h\n option proto openconnect\n option server oc.example.net\n option port 1443\n option no_dtls 1\n\
        config interface x\n option proto openconnect\n option server oc.example.net\n option proxy 'socks5://192.0.2.9:1080'\n\
        config interface lan\n option proto static\n option server 192.0.2.99\n\
        config interface bad\n option proto sstp\n option server 192.0.2.6\n option port none\n\
        config interface off\n option proto sstp\n option server 192.0.2.7\n option disabled 1\n";
    let (found, problems) = Root::new(&[("etc/config/network", network)]).find(&[]);
    let place = |name: &str, device: &str| {
        format!("interface {name} device {device} [/etc/config/network: {name}]")
    };
    let (p, l, s) = (place("p", "pptp-p"), place("l", "l2tp-l"), place("s", "sstp-s"));
    let (f, v, o) = (place("f", "vpn-f"), place("v", "vpn-v"), place("o", "vpn-o"));
    let (g, h, x) = (place("g", "vpn-g"), place("h", "vpn-h"), place("x", "vpn-x"));
    assert_eq!(
        found,
        [
            format!("pptp p: pptp.example.net tcp port 1723 user 0 {p}"),
            format!("pptp p: pptp.example.net gre {p}"),
            format!("l2tp l: l2tp.example.net udp port 1702 from 1701 {l}"),
            format!("sstp s: 192.0.2.3 tcp port 4443 user 0 {s}"),
            format!("openfortivpn f: 192.0.2.4 tcp port 443 user 0 {f}"),
            format!("vpnc v: 192.0.2.5 udp port 500 user 0 {v}"),
            format!("vpnc v: 192.0.2.5 udp port 4500 user 0 {v}"),
            format!("vpnc v: 192.0.2.5 esp user 0 {v}"),
            format!("vpnc v: 192.0.2.5 udp port 10000 user 0 {v}"),
            format!("openconnect o: vpn.example.net tcp port 8443 user 0 {o}"),
            format!("openconnect o: vpn.example.net udp port 8443 user 0 {o}"),
            format!("openconnect g: 2001:db8::1 tcp port 443 user 0 {g}"),
            format!("openconnect g: 2001:db8::1 udp port 4501 user 0 {g}"),
            format!("openconnect h: oc.example.net tcp port 1443 user 0 {h}"),
            format!("openconnect x: 192.0.2.9 tcp port 1080 user 0 {x}"),
        ]
    );
    assert_eq!(problems, ["/etc/config/network: bad: sstp: port: 'none' is not a port"]);
}

#[test]
fn xl2tpds_own_port() {
    let network = "config interface l\n option proto l2tp\n option server 192.0.2.1\n";
    let uci = |legacy| {
        format!("config global globals\n option use_legacy_config {legacy}\n option port 1800\n")
    };
    let file = "[global]\nport = 1900\n";
    for (legacy, from) in [(0, "from 1800"), (1, "from 1900")] {
        let root = Root::new(&[
            ("etc/config/network", network),
            ("etc/config/xl2tp", &uci(legacy)),
            ("etc/xl2tpd/xl2tpd.conf", file),
        ]);
        assert!(root.find(&[]).0[0].contains(from));
    }
}

#[test]
fn ipsec() {
    let ipsec = "config ipsec\n option debug 0\n\
        config remote office\n option enabled 1\n option gateway gw.example.net\n\
        config remote two\n option enabled 1\n list remote_addrs 192.0.2.1\n list remote_addrs 192.0.2.0/24\n\
        config remote any\n option enabled 1\n option gateway any\n\
        config remote off\n option gateway 192.0.2.8\n";
    let (found, problems) = Root::new(&[("etc/config/ipsec", ipsec)]).find(&[]);
    let office = "[/etc/config/ipsec: office]";
    assert_eq!(
        found[..3],
        [
            format!("ipsec office: gw.example.net udp port 500 from 500 user 0 {office}"),
            format!("ipsec office: gw.example.net udp port 4500 from 4500 {office}"),
            format!("ipsec office: gw.example.net esp {office}"),
        ]
    );
    assert_eq!((found.len(), problems.len()), (6, 1));
    assert!(problems[0].contains("'192.0.2.0/24' is not the address or name"), "{problems:?}");
}

#[test]
fn what_cannot_be_read_is_a_problem_and_stops_nothing() {
    let root = Root::new(&[
        ("etc/config/network", "config interface wg0\n option proto 'wireguard\n"),
        (
            "etc/config/openvpn",
            "config openvpn a\n option enabled 1\n option config /etc/openvpn/a.ovpn\n\
             config openvpn b\n option enabled 1\n option config /etc/openvpn/b.ovpn\n\
             config openvpn c\n option enabled 1\n option config /etc/openvpn\n",
        ),
        (
            "etc/openvpn/b.ovpn",
            "client\nremote 192.0.2.1 1194\nremote 127.0.0.1 1195\nremote a..b 5\n",
        ),
    ]);
    let (found, problems) = root.find(&[]);
    assert_eq!(found, ["openvpn b: 192.0.2.1 udp port 1194 user 0 [/etc/openvpn/b.ovpn:2]"]);
    let begins = [
        "/etc/config/network:2: ",
        "/etc/config/openvpn: a: /etc/openvpn/a.ovpn does not exist",
        "/etc/openvpn/b.ovpn:3: openvpn b: '127.0.0.1' is this router itself",
        "/etc/openvpn/b.ovpn:4: openvpn b: 'a..b' is not the address or name",
        "/etc/config/openvpn: c: /etc/openvpn: not a file",
    ];
    assert_eq!(problems.len(), begins.len(), "{problems:?}");
    for (problem, begin) in problems.iter().zip(begins) {
        assert!(problem.starts_with(begin), "{problem}");
    }
}

#[test]
fn there_is_an_end_to_it() {
    let remotes: String = (0..1000).map(|n| format!("remote 192.0.2.1 {}\n", n + 1)).collect();
    let root = Root::new(&[("etc/openvpn/a.conf", &format!("client\n{remotes}"))]);
    let (found, problems) = root.find(&[]);
    assert_eq!(found.len(), FOUND_MAX);
    assert_eq!(problems, ["1000 VPN servers are configured; the first 256 of them can be reached"]);
}

#[test]
fn names_are_one_line_and_short() {
    assert_eq!(plain("a\n\u{1b}[2Jb", 9), "a\u{fffd}\u{fffd}[2Jb");
    assert_eq!((plain("äöü", 3), plain("äöü", 2)), ("äöü".into(), "ä…".into()));
    let file = format!("{}\n.conf", "x".repeat(100));
    let root = Root::new(&[(&format!("etc/openvpn/{file}"), "client\nremote 192.0.2.1\n")]);
    let (found, _) = find(&root.0, &[]);
    assert_eq!(found[0].name.chars().count(), NAME_MAX);
    assert!(!found[0].source.contains('\n'));
}

#[test]
fn addresses_of_the_web_are_taken_apart() {
    for (text, host, at) in [
        ("vpn.example.net", "vpn.example.net", None),
        ("https://u@vpn.example.net:1/x:y", "vpn.example.net", Some("1")),
        ("[2001:db8::1]:5", "2001:db8::1", Some("5")),
        ("2001:db8::1", "2001:db8::1", None),
        ("", "", None),
    ] {
        assert_eq!(authority(text), (host, at), "{text}");
    }
}
