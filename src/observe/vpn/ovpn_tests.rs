use super::*;
use proptest::prelude::*;

/// Reads `text` as the file a.ovpn; other files are those given.
fn read(text: &str, others: &[(&str, &str)]) -> (Vec<String>, Vec<String>, Reading<'static>) {
    let mut files: Vec<(String, String)> = vec![("a.ovpn".to_owned(), text.to_owned())];
    files.extend(others.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
    // The reading outlives this function.
    let open: Open<'static> = Box::leak(Box::new(move |name: &str| {
        let file = files.iter().find(|(n, _)| n == name).cloned();
        file.ok_or_else(|| format!("{name} does not exist"))
    }));
    let mut reading = Reading::new(open);
    reading.file("a.ovpn", "test");
    let brief = |t: &Target| {
        let from = t.source_port.map_or(String::new(), |p| format!(" from {p}"));
        format!("{} {} {}{from} ({})", t.host, t.port, t.proto, t.source)
    };
    let targets = reading.targets().iter().map(brief).collect();
    (targets, reading.problems.clone(), reading)
}

fn targets(text: &str) -> Vec<String> {
    let (targets, problems, _) = read(text, &[]);
    assert!(problems.is_empty(), "{problems:?}");
    targets
}

fn problems(text: &str) -> Vec<String> {
    read(text, &[]).1
}

#[test]
fn one_server_by_address_over_tcp() {
    let (targets, problems, reading) = read(
        "client\ndev tun\nproto tcp\nremote 192.0.2.10 443\nresolv-retry infinite\n\
         remote-random\nnobind\ntun-mtu 1500\nmssfix 1450\npersist-key\npersist-tun\nping 15\n\
         ping-restart 0\nping-timer-rem\nreneg-sec 0\ncomp-lzo no\nverify-x509-name CN=se1.example.net\n\
         remote-cert-tls server\nauth-user-pass\nverb 3\npull\nfast-io\ncipher AES-256-CBC\nauth SHA512\n\
         <ca>\n-----BEGIN CERTIFICATE-----\nremote 203.0.113.66 666\n-----END CERTIFICATE-----\n</ca>\n\
         key-direction 1\n<tls-auth>\n#\n# 2048 bit OpenVPN static key\n#\n\
         -----BEGIN OpenVPN Static key V1-----\n00ff\n-----END OpenVPN Static key V1-----\n</tls-auth>\n",
        &[],
    );
    assert_eq!(targets, ["192.0.2.10 443 tcp (a.ovpn:4)"]);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(reading.device(), DevicePattern::parse("tun*").ok());
}

#[test]
fn several_servers_and_ports_over_udp() {
    assert_eq!(
        targets(
            "client\ndev tun\nproto udp\n\nremote 192.0.2.1 51820\nremote 192.0.2.1 1194\n\
             remote 192.0.2.1 80 # by day\nremote \"nl.example.net\" 4569 ; by night\n\n\
             remote-random\nresolv-retry infinite\nnobind\n",
        ),
        [
            "192.0.2.1 51820 udp (a.ovpn:5)",
            "192.0.2.1 1194 udp (a.ovpn:6)",
            "192.0.2.1 80 udp (a.ovpn:7)",
            "nl.example.net 4569 udp (a.ovpn:8)",
        ]
    );
}

#[test]
fn a_file_as_windows_writes_it() {
    assert_eq!(
        targets(
            "\u{feff}client\r\ndev tun\r\nproto udp\r\nremote se-sto.example.net 1301\r\n\
             cipher AES-256-GCM\r\nca mullvad_ca.crt\r\nauth-user-pass 'C:\\user pass.txt'\r\n"
        ),
        ["se-sto.example.net 1301 udp (a.ovpn:4)"]
    );
}

#[test]
fn the_order_of_options_does_not_matter_to_remotes_but_to_blocks() {
    assert_eq!(
        targets("client\nremote a.example.net\nproto tcp6\nport 443\nremote 2001:db8::1 5 udp6\n"),
        ["a.example.net 443 tcp (a.ovpn:2)", "2001:db8::1 5 udp (a.ovpn:5)"]
    );
    assert_eq!(
        targets(
            "client\nport 1000\nremote ignored.example.net\n\
             <connection>\nremote a.example.net\n</connection>\n\
             <connection>\n  remote b.example.net 443 tcp-client\n  nobind\n</connection>\n\
             <connection>\nproto tcp4\nport 5\nremote [2001:db8::1]\n</connection>\nport 2000\n"
        ),
        [
            "a.example.net 1000 udp (a.ovpn:5)",
            "b.example.net 443 tcp (a.ovpn:8)",
            "2001:db8::1 5 tcp (a.ovpn:14)",
        ]
    );
}

#[test]
fn our_own_port_is_known_where_one_is_bound() {
    let of = |options: &str| targets(&format!("remote 192.0.2.1\n{options}\n")).pop().unwrap();
    // Without client or pull, both ends use the port.
    assert_eq!(of("dev tun"), "192.0.2.1 1194 udp from 1194 (a.ovpn:1)");
    assert_eq!(of("port 5000"), "192.0.2.1 5000 udp from 5000 (a.ovpn:1)");
    assert_eq!(of("rport 5000"), "192.0.2.1 5000 udp from 1194 (a.ovpn:1)");
    assert_eq!(of("nobind"), "192.0.2.1 1194 udp (a.ovpn:1)");
    assert_eq!(of("client"), "192.0.2.1 1194 udp (a.ovpn:1)");
    assert_eq!(of("client\nlport 7000"), "192.0.2.1 1194 udp from 7000 (a.ovpn:1)");
    assert_eq!(of("client\nlport 0"), "192.0.2.1 1194 udp (a.ovpn:1)");
    assert_eq!(of("client\nbind"), "192.0.2.1 1194 udp from 1194 (a.ovpn:1)");
    assert_eq!(of("client\nlocal 192.0.2.9"), "192.0.2.1 1194 udp from 1194 (a.ovpn:1)");
    assert_eq!(of("client\nlocal 192.0.2.9 99"), "192.0.2.1 1194 udp from 99 (a.ovpn:1)");
    assert_eq!(of("proto tcp-client"), "192.0.2.1 1194 tcp (a.ovpn:1)");
    assert_eq!(of("proto tcp\nlport 7000"), "192.0.2.1 1194 tcp from 7000 (a.ovpn:1)");
}

#[test]
fn a_proxy_stands_in_front_of_the_server() {
    assert_eq!(
        targets(
            "client\nproto tcp\nremote vpn.example.net 443\nhttp-proxy 192.0.2.5 8080 auth.txt basic\n"
        ),
        ["192.0.2.5 8080 tcp (a.ovpn:3)"]
    );
    assert_eq!(
        targets(
            "client\n<connection>\nremote vpn.example.net 443 tcp\nsocks-proxy proxy.example.net\n</connection>\n"
        ),
        ["proxy.example.net 1080 tcp (a.ovpn:3)"]
    );
    let said = problems("client\nremote vpn.example.net\nsocks-proxy 192.0.2.5 1080\n");
    assert!(said[0].starts_with("a.ovpn:2: UDP through a SOCKS proxy"), "{said:?}");
}

#[test]
fn what_waits_to_be_called_calls_nobody() {
    assert!(
        targets("port 1194\nproto udp\ndev tun\nserver 10.8.0.0 255.255.255.0\nmark x\n")
            .is_empty()
    );
    assert!(targets("mode server\ntls-server\nremote 192.0.2.1\n").is_empty());
    assert!(targets("dev tun\nifconfig 10.0.0.1 10.0.0.2\nsecret a.key\n").is_empty());
    assert!(targets("proto tcp-server\nremote 192.0.2.1\n").is_empty());
    assert_eq!(
        targets("client\nproto-force tcp\nremote 192.0.2.1 1 udp\nremote 192.0.2.1 2 tcp\n"),
        ["192.0.2.1 2 tcp (a.ovpn:4)"]
    );
}

#[test]
fn marks_users_and_devices() {
    let (_, problems, reading) = read("mark 51820\nuser nobody\ndev vpn\ndev-type tun\n", &[]);
    assert_eq!((reading.mark, reading.user.as_deref()), (Some(51820), Some("nobody")));
    assert_eq!(reading.device(), DevicePattern::parse("vpn*").ok());
    assert!(problems.is_empty());
    assert_eq!(device("tun3"), DevicePattern::parse("tun3").ok());
    assert_eq!((device("null"), device("a/b")), (None, None));
    assert_eq!(read("mark 0\n", &[]).2.mark, None);
}

#[test]
fn files_include_files_within_bounds() {
    let (found, problems, _) = read(
        "client\nconfig common.conf\nremote a.example.net\nconfig gone.conf\n",
        &[("common.conf", "proto tcp\n--port 443\nremote b.example.net\n")],
    );
    assert_eq!(
        found,
        ["b.example.net 443 tcp (common.conf:3)", "a.example.net 443 tcp (a.ovpn:3)"]
    );
    assert_eq!(problems, ["a.ovpn:4: gone.conf does not exist"]);

    let (found, problems, _) =
        read("remote 192.0.2.1\nclient\nconfig a.ovpn\nconfig a.ovpn\n", &[]);
    assert!(!found.is_empty() && found.len() <= FILES_MAX);
    assert!(problems.iter().all(|p| p == "a.ovpn:3: too many files that include files"
        || p == "a.ovpn:4: too many files that include files"));
}

#[test]
fn what_openvpn_would_refuse_is_said_with_its_line() {
    for (text, what) in [
        ("remote\n", "a.ovpn:1: remote without a host"),
        ("\nremote a.example.net 99999\n", "a.ovpn:2: '99999' is not a port"),
        ("remote a.example.net 443 upd\n", "a.ovpn:1: 'upd' is not a protocol"),
        ("proto sctp\n", "a.ovpn:1: 'sctp' is not a protocol"),
        ("remote \"a.example.net\n", "a.ovpn:1: a quote (\") without an end"),
        ("ca 'x\n", "a.ovpn:1: a quote (') without an end"),
        ("ca c:\\x\n", "a.ovpn:1: a backslash"),
        ("verb 3\n<ca>\nremote b.example.net\n", "a.ovpn:2: <ca> has no end"),
        ("<connection>\n\nremote a.example.net x\n</connection>\n", "a.ovpn:3: 'x' is not a port"),
        ("mark 0x10\n", "a.ovpn:1: '0x10' is not a mark"),
        ("user 'a b'\n", "a.ovpn:1: 'a b' is no user's name"),
        ("remote-random-hostname\n", "a.ovpn:1: remote-random-hostname"),
    ] {
        let (found, problems, _) = read(text, &[]);
        assert!(found.is_empty(), "{text}: {found:?}");
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].starts_with(what), "{text}: {problems:?}");
    }
}

#[test]
fn words_are_split_as_openvpn_splits_them() {
    let of = |line: &str| split(line).unwrap();
    assert_eq!(of("  a\tb  'c d' \"e\\\"f\" g\\ h\\\\"), ["a", "b", "c d", "e\"f", "g h\\"]);
    assert_eq!(of("a 'b\\c' # d"), ["a", "b\\c"]);
    assert_eq!(of("a b;c d#e \"\"f"), ["a", "b;c", "d#e", "", "f"]);
    assert!(of("; a").is_empty() && of("#").is_empty() && of("").is_empty());
    assert_eq!(of(&"a ".repeat(40)).len(), WORDS_MAX);
}

proptest! {
    #[test]
    fn no_file_is_a_surprise(text in "(remote|port|proto|<connection>|</connection>|<ca>|</ca>|config|a.ovpn|lport|udp|mark|dev|user|local|http-proxy|--|[ \"'\\\\#;\n\u{e9}0-9]){0,60}") {
        let _ = read(&text, &[]);
    }

    #[test]
    fn nor_is_a_line(line in "\\PC{0,80}") {
        let _ = split(&line);
    }
}
