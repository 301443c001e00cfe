//! VPN servers are found as the VPN programs themselves know them: a real WireGuard, whose packets are
//! looked at, and the real OpenVPN, which tells what it makes of a configuration.

#![allow(clippy::indexing_slicing, reason = "test code: a wrong index is a failed test")]

mod lab;

use lab::ns::{Ns, directory, prepare};
use lab::topology::connect;
use lab::{Res, wait_for};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use vpn_killswitch::observe::look;
use vpn_killswitch::observe::vpn::{Found, find};

/// A root directory with this file, and with the laboratory's own `/run`.
fn root(path: &str, text: &str) -> Res<PathBuf> {
    let root = directory("root")?;
    std::fs::create_dir_all(root.join("var"))?;
    std::os::unix::fs::symlink("/run", root.join("var/run"))?;
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().ok_or("no parent")?)?;
    std::fs::write(path, text)?;
    Ok(root)
}

/// What is found from inside.
fn found(ns: &Ns, root: &Path) -> Res<(Vec<Found>, Vec<String>)> {
    ns.enter(|| -> Res<_> { Ok(find(root, &look()?.links)) })?
}

#[test]
fn wireguard_as_a_program_sends_what_was_found() -> Res<()> {
    wireguard(false)
}

#[test]
#[ignore = "needs a kernel with WireGuard"]
fn wireguard_in_the_kernel_sends_what_was_found() -> Res<()> {
    wireguard(true)
}

fn wireguard(in_kernel: bool) -> Res<()> {
    prepare()?;
    let (router, server) = (Ns::new("router")?, Ns::new("server")?);
    connect(&router, "wan", &server, "eth0")?;
    router.ip("addr add 192.0.2.1/24 dev wan\n")?;
    server.ip("addr add 192.0.2.2/24 dev eth0\n")?;
    let socket = server.enter(|| UdpSocket::bind(("192.0.2.2", 3000)))??;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;

    let key = server.sh("wg genkey | wg pubkey")?.trim().to_owned();
    let root = root(
        "etc/config/network",
        &format!(
            "config interface wg0\n option proto wireguard\n\
             config wireguard_wg0\n option public_key '{key}'\n\
             option endpoint_host vpn.example.net\n option endpoint_port 3000\n"
        ),
    )?;
    let (cold, problems) = found(&router, &root)?;
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!((cold.len(), cold[0].user.as_deref()), (1, Some("0")));

    let mut program = None;
    if in_kernel {
        router.ip("link add wg0 type wireguard\n")?;
    } else {
        let env = [("WG_PROCESS_FOREGROUND", "1"), ("LOG_LEVEL", "error")];
        let mut daemon = router.spawn("wireguard-go", &["wg0"], &env)?;
        wait_for("wireguard-go", 10.0, || {
            daemon.alive().is_err() || Path::new("/run/wireguard/wg0.sock").exists()
        })?;
        daemon.alive()?;
        program = Some(daemon);
    }
    router.nft(
        "table inet look { chain out { type filter hook output priority 0; \
         ip daddr 192.0.2.2 udp dport 3000 meta mark 51966 counter name marked; \
         ip daddr 192.0.2.2 udp dport 3000 counter name every; }\n\
         counter marked { }\n counter every { }\n}",
    )?;
    router.sh(&format!(
        "wg genkey | wg set wg0 private-key /dev/stdin fwmark 51966 peer {key} \
         endpoint 192.0.2.2:3000 allowed-ips 0.0.0.0/0 persistent-keepalive 1"
    ))?;
    router.ip("link set wg0 up\n")?;
    // The first packet of the handshake.
    let (_, from) = socket.recv_from(&mut [0; 2000])?;

    let (warm, problems) = found(&router, &root)?;
    assert!(problems.is_empty(), "{problems:?}");
    let host = |f: &Found| f.host.to_string();
    assert_eq!(warm.iter().map(host).collect::<Vec<_>>(), ["vpn.example.net", "192.0.2.2"]);
    for f in &warm {
        assert_eq!((f.port, f.source_port, f.mark), (Some(3000), Some(from.port()), Some(51966)));
        assert_eq!(
            (&f.user, f.device.as_ref().map(ToString::to_string)),
            (&None, Some("wg0".into()))
        );
    }
    let source = if in_kernel { "kernel: wg0" } else { "/var/run/wireguard/wg0.sock" };
    assert_eq!(warm[1].source, source);
    let count =
        |name: &str| router.sh(&format!("nft list counter inet look {name} | grep packets"));
    assert_eq!(count("marked")?, count("every")?);
    assert!(!count("every")?.contains("packets 0"));
    drop(program);
    Ok(())
}

/// Some certificate of nobody's, which OpenVPN wants before it sends anything.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBgzCCASmgAwIBAgIUKhL2RhKwzqghLtR15zrS1ZoAtAkwCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLZXhhbXBsZS5uZXQwIBcNMjYxMTIyMTMyMDUzWhgPMjEyNjEw
MjkxMzIwNTNaMBYxFDASBgNVBAMMC2V4YW1wbGUubmV0MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAESjBhEymQLtPTBuEgntJBcBiXA+JC0tXuRrhwGnBt4GhBjRWi
b+UC5uSvGDEtD4aYoXf4UHrKMs/j6xp9CoJrrqNTMFEwHQYDVR0OBBYEFFURjOgR
61BmeD0D+TlPgPd4ApxQMB8GA1UdIwQYMBaAFFURjOgR61BmeD0D+TlPgPd4ApxQ
MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgRErDm00zLYbIwhUv
tmJBD63MG43kJ2Ip2/8YoC3qmV0CIQDkDQJC2VuFbjVVmhz6IGsHSyCfBLp+tiFv
AJISvPIKdA==
-----END CERTIFICATE-----";

#[test]
fn openvpn_sends_what_was_found() -> Res<()> {
    prepare()?;
    let (router, server) = (Ns::new("router")?, Ns::new("server")?);
    connect(&router, "wan", &server, "eth0")?;
    router.ip("addr add 192.0.2.1/24 dev wan\n")?;
    server.ip("addr add 192.0.2.2/24 dev eth0\n")?;
    let login = directory("login")?.join("login");
    std::fs::write(&login, "user\npassword\n")?;
    let login = login.display();
    for (port, options) in
        [(5001, "mark 51966"), (5002, "verb 3"), (5003, "lport 7000\nuser nobody")]
    {
        let socket = server.enter(|| UdpSocket::bind(("192.0.2.2", port)))??;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let text = format!(
            "client\ndev null\nremote 192.0.2.2 {port}\nauth-user-pass {login}\n{options}\n\
             <ca>\n{AUTHORITY}\n</ca>\n"
        );
        let root = root("etc/openvpn/a.conf", &text)?;
        let (found, problems) = found(&router, &root)?;
        assert!(problems.is_empty(), "{problems:?}");
        let narrow = &found[0];
        let matches = [
            narrow.port.map(|p| format!("udp dport {p}")),
            narrow.source_port.map(|p| format!("udp sport {p}")),
            narrow.mark.map(|m| format!("meta mark {m}")),
            narrow.user.as_ref().map(|u| format!("meta skuid {u}")),
        ];
        let matches = matches.into_iter().flatten().collect::<Vec<_>>().join(" ");
        // What was found is sent, and nothing else to that port.
        router.nft(&format!(
            "table inet look{port} {{ chain out {{ type filter hook output priority 0; \
             {matches} accept; udp dport {port} drop; }}; }}"
        ))?;
        let conf = root.join("etc/openvpn/a.conf");
        let conf = conf.to_str().ok_or("no text")?;
        let mut daemon = router.spawn("openvpn", &["--config", conf], &[])?;
        let (_, from) = socket
            .recv_from(&mut [0; 2000])
            .map_err(|e| format!("{matches}: {e}: {:?} {}", daemon.alive(), daemon.said()))?;
        assert!(narrow.source_port.is_none_or(|p| p == from.port()), "{matches}: {from}");
        assert_eq!(narrow.source_port.is_some(), options.contains("lport"));
    }
    Ok(())
}

/// `192.0.2.1 1194 udp from 1194`, as both sides are written down for comparison.
type Servers = BTreeSet<String>;

fn ours(ns: &Ns, text: &str) -> Res<Servers> {
    let root = root("etc/openvpn/a.conf", text)?;
    let (found, problems) = found(ns, &root)?;
    if !problems.is_empty() {
        return Err(format!("{text}\n{problems:?}").into());
    }
    let from = |f: &Found| f.source_port.map_or(String::new(), |p| format!(" from {p}"));
    Ok(found
        .iter()
        .map(|f| format!("{} {} {}{}", f.host, f.port.unwrap_or(0), f.proto, from(f)))
        .collect())
}

/// What OpenVPN says that it read; none when it refuses the file.
fn theirs(ns: &Ns, text: &str) -> Res<Option<Servers>> {
    let file = directory("openvpn")?.join("a.conf");
    std::fs::write(&file, text)?;
    let mut child = ns
        .command("openvpn")
        .args(["--verb", "4", "--suppress-timestamps", "--config"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut profiles: Vec<Vec<(String, String)>> = Vec::new();
    let mut complete = false;
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        let line = line?;
        if line.starts_with("Connection profiles END") {
            complete = true;
            break;
        }
        if line.starts_with("Connection profiles [") {
            profiles.push(Vec::new());
        } else if let (Some(profile), Some((key, value))) =
            (profiles.last_mut(), line.split_once(" = "))
        {
            profile.push((key.trim().to_owned(), value.trim_matches('\'').to_owned()));
        }
    }
    child.kill()?;
    child.wait()?;
    if !complete {
        return Ok(None);
    }
    let mut out = Servers::new();
    for profile in &profiles {
        let of = |key: &str| {
            let found = profile.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
            found.ok_or_else(|| format!("no {key} in {profile:?}"))
        };
        let (remote, proto) = (of("remote")?, of("proto")?);
        if remote == "[UNDEF]" || proto.contains("server") {
            continue;
        }
        let from = match (of("bind_local")?, of("local_port")?) {
            ("ENABLED", port) if port != "0" => format!(" from {port}"),
            _ => String::new(),
        };
        let proto = &proto[..3];
        out.insert(format!("{} {} {proto}{from}", remote.to_lowercase(), of("remote_port")?));
    }
    Ok(Some(out))
}

/// What OpenVPN wants before it looks at anything else.
const HEAD: &str = "dev null\nauth-user-pass /dev/null\nremote-cert-tls server\n\
    <ca>\nremote 203.0.113.9 9\n</ca>\n";

fn line() -> impl Strategy<Value = String> {
    let port = prop::sample::select(vec!["1", "443", "1194", "51820", "65535"]);
    let host = prop::sample::select(vec![
        "192.0.2.1",
        "VPN.example.net",
        "\"a.example.net\"",
        "'b.example.net'",
        "2001:db8::1",
    ]);
    let proto = prop::sample::select(vec![
        "udp",
        "udp4",
        "udp6",
        "tcp",
        "tcp4",
        "tcp6",
        "tcp-client",
        "tcp4-client",
        "tcp6-client",
    ]);
    prop_oneof![
        3 => host.clone().prop_map(|h| format!("remote {h}")),
        3 => (host.clone(), port.clone()).prop_map(|(h, p)| format!("  remote\t{h} {p} # x")),
        3 => (host, port.clone(), proto.clone()).prop_map(|(h, p, t)| format!("--remote {h} {p} {t} ; x")),
        2 => proto.prop_map(|t| format!("proto {t}")),
        1 => port.clone().prop_map(|p| format!("port {p}")),
        1 => port.clone().prop_map(|p| format!("rport {p}")),
        1 => port.prop_map(|p| format!("lport {p}")),
        1 => prop::sample::select(vec!["nobind", "bind", "local 127.0.0.1", "", "; remote x"])
            .prop_map(str::to_owned),
    ]
}

fn file() -> impl Strategy<Value = String> {
    let block = prop::collection::vec(line(), 1..4)
        .prop_map(|lines| format!("<connection>\n{}\n</connection>", lines.join("\n")));
    let lines = prop::collection::vec(prop_oneof![4 => line(), 1 => block], 1..7);
    let begin = prop::sample::select(vec!["client", "tls-client", "tls-client\npull"]);
    (begin, lines).prop_map(|(begin, lines)| format!("{HEAD}{begin}\n{}\n", lines.join("\n")))
}

#[test]
fn openvpn_reads_its_files_as_we_do() -> Res<()> {
    prepare()?;
    let ns = Ns::new("openvpn")?;
    let sample = format!("{HEAD}client\nremote 192.0.2.1 1300\nremote a.example.net 443 tcp\n");
    assert_eq!(theirs(&ns, &sample)?.ok_or("refused")?.len(), 2);

    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let mut compared = 0;
    for _ in 0..200 {
        let text = file().new_tree(&mut runner).map_err(|e| e.message().to_owned())?.current();
        // What it refuses, nobody starts.
        if let Some(theirs) = theirs(&ns, &text)? {
            assert_eq!(ours(&ns, &text)?, theirs, "{text}");
            compared += usize::from(!theirs.is_empty());
        }
    }
    println!("{compared} configurations compared");
    assert!(compared >= 50, "only {compared}");
    Ok(())
}
