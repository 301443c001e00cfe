//! The resolver and a real server (dnsmasq), over real links: what it sends carries its mark and takes
//! the device that it was told, by UDP and by TCP, and nothing else does.

#![allow(clippy::indexing_slicing, reason = "test code: a wrong index is a failed test")]

mod lab;

use lab::ns::{Daemon, Ns};
use lab::topology::connect;
use lab::{Res, wait_for};
use std::net::IpAddr;
use std::time::Duration;
use vpn_killswitch::resolve::{Answer, Server, resolve};

const MARK: u32 = 0x0010_0000;
const BUDGET: Duration = Duration::from_secs(5);
/// Over either link; the default route takes the first.
const SERVERS: [&str; 2] = ["10.9.9.53", "2001:db8:9::53"];
/// Only on the second link, and on every link there could be.
const LINK_LOCAL: &str = "fe80::53";
/// More than fit into 512 bytes.
const MANY: u8 = 60;

struct Net {
    router: Ns,
    /// Keeps the server.
    provider: Ns,
    dnsmasq: Daemon,
}

impl Net {
    fn new() -> Res<Self> {
        let (router, provider) = (Ns::new("router")?, Ns::new("provider")?);
        connect(&router, "wan0", &provider, "p0")?;
        connect(&router, "wan1", &provider, "p1")?;
        provider.ip(&format!(
            "addr add {}/32 dev lo\naddr add {}/128 dev lo\n\
             addr add 10.0.0.1/24 dev p0\naddr add 10.0.1.1/24 dev p1\n\
             addr add 2001:db8::1/64 dev p0\naddr add 2001:db8:1::1/64 dev p1\n\
             addr add {LINK_LOCAL}/64 dev p1\n",
            SERVERS[0], SERVERS[1]
        ))?;
        router.ip(
            "addr add 10.0.0.2/24 dev wan0\naddr add 10.0.1.2/24 dev wan1\n\
             addr add 2001:db8::2/64 dev wan0\naddr add 2001:db8:1::2/64 dev wan1\n\
             route add default via 10.0.0.1\nroute add default via 10.0.1.1 metric 9\n\
             route add default via 2001:db8::1\nroute add default via 2001:db8:1::1 metric 9999\n",
        )?;
        // The router lets out what carries the mark over the second link, and counts it by protocol.
        router.nft(&format!(
            "table inet t {{
                counter asked_udp {{ }}
                counter asked_tcp {{ }}
                chain out {{
                    type filter hook output priority 0; policy drop;
                    oifname lo accept
                    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
                    meta mark {MARK} oifname wan1 udp dport 53 counter name asked_udp accept
                    meta mark {MARK} oifname wan1 tcp dport 53 counter name asked_tcp accept
                }}
            }}"
        ))?;
        let mut args: Vec<String> = [
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--local=/example.net/",
            "--local-ttl=600",
            "--host-record=vpn.example.net,192.0.2.1,2001:db8:5::1",
            "--host-record=four.example.net,192.0.2.4",
            "--cname=alias.example.net,vpn.example.net",
            "--txt-record=text.example.net,words",
        ]
        .map(str::to_owned)
        .into();
        args.extend((1..=MANY).map(|n| format!("--host-record=many.example.net,198.51.100.{n}")));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut dnsmasq = provider.spawn("dnsmasq", &args, &[])?;
        wait_for("dnsmasq", 5.0, || dnsmasq.said().contains("started"))?;
        dnsmasq.alive()?;
        Ok(Self { router, provider, dnsmasq })
    }

    fn ask(
        &self,
        names: &[&str],
        server: &str,
        device: Option<&str>,
        mark: u32,
    ) -> Res<Vec<Answer>> {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let server = Server::new(server.parse()?, device.map(str::to_owned));
        self.router.enter(|| resolve(&names, &[server], mark, BUDGET))
    }

    /// Packets that went out, by a counter's name.
    fn sent(&self, counter: &str) -> Res<u32> {
        let text = self.router.sh(&format!("nft list counter inet t {counter}"))?;
        let words = text.split_whitespace().skip_while(|w| *w != "packets").nth(1);
        Ok(words.ok_or("no counter")?.parse()?)
    }
}

fn addrs(answer: &Answer) -> Vec<String> {
    answer.result.iter().flat_map(|f| &f.addrs).map(IpAddr::to_string).collect()
}

#[test]
fn a_real_server_is_asked_with_the_mark_over_the_device() -> Res<()> {
    let net = Net::new()?;
    for server in [SERVERS[0], SERVERS[1], LINK_LOCAL] {
        let names =
            ["vpn.example.net", "alias.example.net", "four.example.net", "VPN.Example.NET."];
        let answers = net.ask(&names, server, Some("wan1"), MARK)?;
        let both = ["192.0.2.1", "2001:db8:5::1"];
        for (answer, expected) in answers.iter().zip([&both[..], &both, &["192.0.2.4"], &both]) {
            assert_eq!(addrs(answer), expected, "{server}: {answer:?}");
            assert!(answer.result.iter().all(|f| f.ttl == Duration::from_secs(600)));
        }
    }
    // Three times four names, each for two families, and not one by TCP.
    assert_eq!((net.sent("asked_udp")?, net.sent("asked_tcp")?), (24, 0));

    let answers = net.ask(&["many.example.net"], SERVERS[0], Some("wan1"), MARK)?;
    let found = addrs(&answers[0]);
    assert!(found.len() == 16 && found.iter().all(|a| a.starts_with("198.51.100.")), "{found:?}");
    assert!(net.sent("asked_tcp")? >= 4, "it was asked by TCP");

    let answers =
        net.ask(&["gone.example.net", "text.example.net"], SERVERS[0], Some("wan1"), MARK)?;
    let reasons = [
        "10.9.9.53 says that the name does not exist",
        "10.9.9.53 says that the name has no address",
    ];
    for (answer, reason) in answers.iter().zip(reasons) {
        assert_eq!(answer.result, Err(reason.to_owned()));
    }
    Ok(())
}

#[test]
fn without_the_mark_or_the_device_nothing_gets_out() -> Res<()> {
    let mut net = Net::new()?;
    for (device, mark) in [(Some("wan1"), 0), (Some("wan1"), 1), (Some("wan0"), MARK), (None, MARK)]
    {
        for server in SERVERS {
            let answers = net.ask(&["vpn.example.net"], server, device, mark)?;
            let Err(reason) = &answers[0].result else { return Err("it got out".into()) };
            assert!(reason.contains("cannot be asked: Operation not permitted"), "{reason}");
        }
    }
    assert_eq!((net.sent("asked_udp")?, net.sent("asked_tcp")?), (0, 0));
    // All the while the server was there.
    net.dnsmasq.alive()?;
    assert_eq!(addrs(&net.ask(&["vpn.example.net"], SERVERS[0], Some("wan1"), MARK)?[0]).len(), 2);

    // A device without a link, and one that has gone: a reason, and no waiting for ever.
    net.provider.ip("link set p1 down\n")?;
    let answers = net.ask(&["vpn.example.net"], LINK_LOCAL, Some("wan1"), MARK)?;
    assert!(answers[0].result.is_err());
    net.router.ip("link del wan1\n")?;
    let answers = net.ask(&["vpn.example.net"], SERVERS[0], Some("wan1"), MARK)?;
    let reason = "10.9.9.53 cannot be asked: No such device (os error 19)";
    assert_eq!(answers[0].result, Err(reason.to_owned()));
    Ok(())
}
