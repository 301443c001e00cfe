//! IPsec policies as a tunnel (`option ipsec`), with real packets: what the kernel will encrypt passes,
//! and nothing else does, whatever happens to keys and policies.
//!
//! The laboratory's VPN server is the gateway. Whether a policy applies can be tried on any kernel with
//! XFRM; that encrypted packets pass needs one with ESP, and these tests are ignored elsewhere
//! (`cargo test --test ipsec -- --include-ignored`).

#![allow(clippy::indexing_slicing, reason = "test code: a wrong index is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "counts of a few thousand packets")]

mod lab;

use lab::Res;
use lab::packet::{ODD, Packet};
use lab::product::Product;
use lab::topology::{ECHO, Lab, OPEN_ROUTER, Tunnel, endpoint, internet, lan, uplink};
use lab::traffic::{Flood, Flow, Kind, Sent, send};
use lab::wait_for;
use lab::watch::Seen;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Packets of each flow before an event and after it, and how many a second.
const BEFORE: u32 = 30;
const AFTER: u32 = 60;
const RATE: u32 = 200;
const ESP: u8 = 50;

/// The local network, what is never for IPsec, and everything, by family.
const LOCAL: [&str; 2] = ["192.168.1.0/24", "2001:db8:1:1::/64"];
const BYPASS: [&[&str]; 2] = [&["192.168.0.0/16"], &["2001:db8:1::/48", "fe80::/10", "ff00::/8"]];
const ALL: [&str; 2] = ["0.0.0.0/0", "::/0"];
/// A network that nobody talks to here.
const OTHER: [&str; 2] = ["198.18.0.0/15", "2001:db8:dead::/48"];

/// A router without a kill switch, or with one in this mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum System {
    None,
    Mode(&'static str),
}
const STRICT: System = System::Mode("strict");
const DNS: System = System::Mode("dns");

struct Stage {
    lab: Lab,
    product: Option<Product>,
}

impl Stage {
    /// A router whose only way out is the uplink. `firewall` is what it makes of packets.
    fn new(system: System, firewall: &str, more: &str) -> Res<Self> {
        let mut lab = Lab::new(Tunnel::Veth)?;
        lab.tunnel_delete()?;
        lab.router.nft(&format!("delete table inet fw4\n{firewall}"))?;
        // What comes out of the gateway's end has to find its way back into it.
        lab.provider.ip("route replace 192.168.1.0/24 via 203.0.113.10\n\
                         route replace 2001:db8:1::/48 via 2001:db8:113::10\n")?;
        let mut stage = Self { lab, product: None };
        if let System::Mode(mode) = system {
            let product = Product::new(env!("CARGO_BIN_EXE_vpn-killswitch"), &stage.lab.router)?;
            product.configure(&configuration(mode, more))?;
            product.ok(&["apply"])?;
            stage.product = Some(product);
        }
        Ok(stage)
    }

    /// Policies at the router for what goes to `dest`, with `level` for what leaves it.
    fn policies(&self, dest: [&str; 2], level: &str) -> Res<()> {
        let mut lines = String::new();
        for (n, (here, there)) in uplink().into_iter().zip(endpoint()).enumerate() {
            let (local, dest) = (LOCAL[n], dest[n]);
            for bypass in BYPASS[n] {
                for (from, to, way) in
                    [(local, *bypass, "out"), (*bypass, local, "in"), (*bypass, local, "fwd")]
                {
                    lines +=
                        &format!("xfrm policy add src {from} dst {to} dir {way} priority 10\n");
                }
            }
            let out = match level {
                // Kernels take no optional tunnel for what leaves.
                "use" => "tmpl proto esp reqid 1 mode transport level use".to_owned(),
                _ => template(here, there),
            };
            lines += &format!("xfrm policy add src {local} dst {dest} dir out priority 99 {out}\n");
            for way in ["in", "fwd"] {
                let back = template(there, here);
                lines += &format!(
                    "xfrm policy add src {dest} dst {local} dir {way} priority 99 {back}\n"
                );
            }
        }
        self.lab.router.ip(&lines)
    }

    /// The gateway's policies. They stay whatever happens at the router: without them it and the
    /// provider would send answers to each other in a circle.
    fn gateway(&self) -> Res<()> {
        let mut lines = String::new();
        for (n, (router, gateway)) in uplink().into_iter().zip(endpoint()).enumerate() {
            let (local, all) = (LOCAL[n], ALL[n]);
            let back = template(gateway, router);
            lines += &format!("xfrm policy add src {all} dst {local} dir out priority 99 {back}\n");
            for way in ["in", "fwd"] {
                let out = template(router, gateway);
                lines +=
                    &format!("xfrm policy add src {local} dst {all} dir {way} priority 99 {out}\n");
            }
        }
        self.lab.vpn.ip(&lines)
    }

    /// Keys at both ends.
    fn keys(&self) -> Res<()> {
        let mut lines = String::new();
        for (here, there) in uplink().into_iter().zip(endpoint()) {
            for (spi, from, to) in [(0x1001, here, there), (0x1002, there, here)] {
                lines += &format!(
                    "xfrm state add src {from} dst {to} proto esp spi {spi} reqid 1 mode tunnel \
                     enc cbc(aes) 0x000102030405060708090a0b0c0d0e0f \
                     auth hmac(sha256) 0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"
                );
            }
        }
        self.lab.router.ip(&lines)?;
        self.lab.vpn.ip(&lines)
    }

    /// What a client sends and, from its address in the local network, the router itself.
    fn flows(&self) -> (Vec<Flow>, Vec<Flow>) {
        let own = internet().into_iter().zip(lan());
        let own = own.map(|(to, from)| Flow::new(Kind::UdpAt((from, 4000).into()), (to, ECHO)));
        (Flow::all_kinds(&internet()), own.collect())
    }

    /// A flood from client and router with `event` in its middle; what was seen, and the flows with what
    /// was sent of each.
    fn during(&self, event: impl FnOnce(&Self) -> Res<()>) -> Res<(Seen, Vec<Sent>)> {
        let watch = self.lab.watch()?;
        let (client, own) = self.flows();
        let floods = [
            Flood::start(&self.lab.client, None, client, RATE),
            Flood::start(&self.lab.router, None, own, RATE),
        ];
        floods.iter().try_for_each(|f| f.more(BEFORE))?;
        event(self)?;
        floods.iter().try_for_each(|f| f.more(AFTER))?;
        let mut sent = Vec::new();
        for flood in floods {
            sent.extend(flood.stop()?);
        }
        Ok((watch.finish()?, sent))
    }

    /// An error if the program says that the kernel differs from what should be there.
    fn verify(&self) -> Res<()> {
        let Some(product) = &self.product else { return Ok(()) };
        let status = status(product)?;
        let layer = &status["layers"][0];
        if layer["name"] == "netfilter" && layer["in_force"] == true && layer["detail"] == "" {
            return Ok(());
        }
        Err(format!("layer 1: {layer}").into())
    }
}

/// What the program says of itself; degraded, for layer 2 is left out.
fn status(product: &Product) -> Res<serde_json::Value> {
    Ok(serde_json::from_slice(&product.run(&["status", "--json"])?.stdout)?)
}

fn template(from: IpAddr, to: IpAddr) -> String {
    format!("tmpl src {from} dst {to} proto esp reqid 1 mode tunnel level required")
}

fn configuration(mode: &str, more: &str) -> String {
    let [four, six] = endpoint();
    format!(
        "config killswitch 'main'\n\
         \toption enabled '1'\n\
         \toption ipsec '1'\n\
         \tlist local_device 'br-lan'\n\
         \toption router '{mode}'\n\
         {more}\
         config endpoint\n\
         \toption host '{four}'\n\
         \toption proto 'esp'\n\
         config endpoint\n\
         \toption host '{six}'\n\
         \toption proto 'esp'\n"
    )
}

/// The open router's firewall, without translation of what IPsec will encrypt.
fn firewall() -> String {
    OPEN_ROUTER.replace(
        "policy accept;\n\t\tmeta nfproto ipv4 oifname",
        "policy accept;\n\t\trt ipsec exists accept\n\t\tmeta nfproto ipv4 oifname",
    )
}

/// Packets on the uplink that are neither encrypted nor housekeeping. A mark can be read: it is clear.
fn in_clear(seen: &Seen) -> Vec<&Packet> {
    let fine = |p: &Packet| p.mark.is_none() && (p.proto == ESP || p.is_housekeeping());
    seen.uplink.iter().filter(|p| !fine(p)).collect()
}

/// An error unless nothing left in clear.
fn tight(what: &str, seen: &Seen) -> Res<()> {
    let clear = in_clear(seen);
    match clear.first() {
        None => Ok(()),
        Some(first) => Err(format!("{what}: {} packets in clear: {first}", clear.len()).into()),
    }
}

/// An error unless of every flow at least half of what was sent behind the event left in clear.
fn leaks(what: &str, seen: &Seen, sent: &[Sent]) -> Res<()> {
    for s in sent {
        let leaked = Seen::distinct(&seen.uplink, std::slice::from_ref(s));
        if leaked * 2 < AFTER {
            let Flow { kind, to, .. } = &s.flow;
            return Err(format!("{what}: {kind:?} to {to}: only {leaked} leaked").into());
        }
    }
    Ok(())
}

/// Nothing is encrypted: no policy, one that may be left aside, one for another network.
fn without_keys(system: System) -> Res<()> {
    for (what, dest, level) in [
        ("no policy", None, ""),
        ("an optional policy without keys", Some(ALL), "use"),
        ("a policy for another network", Some(OTHER), "required"),
    ] {
        let stage = Stage::new(system, &firewall(), "")?;
        if let Some(dest) = dest {
            stage.policies(dest, level)?;
        }
        let (seen, sent) = stage.during(|_| Ok(()))?;
        stage.verify()?;
        match system {
            System::None => leaks(what, &seen, &sent)?,
            STRICT => tight(what, &seen)?,
            // The router's own packets may leave; the client's may not.
            System::Mode(_) => {
                let client: Vec<_> = sent
                    .iter()
                    .filter(|s| !matches!(s.flow.kind, Kind::UdpAt(_)))
                    .cloned()
                    .collect();
                let leaked = Seen::distinct(&seen.uplink, &client);
                assert_eq!(leaked, 0, "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_no_policy_encrypts_leaks_without_a_kill_switch() -> Res<()> {
    without_keys(System::None)
}

#[test]
fn what_no_policy_encrypts_stays_strict() -> Res<()> {
    without_keys(STRICT)
}

#[test]
fn what_no_policy_encrypts_stays_dns() -> Res<()> {
    without_keys(DNS)
}

/// Everything arrives, and the uplink holds ESP only.
#[test]
#[ignore = "needs a kernel with ESP"]
fn what_a_policy_encrypts_arrives() -> Res<()> {
    for system in [STRICT, DNS] {
        let stage = Stage::new(system, &firewall(), "")?;
        stage.policies(ALL, "required")?;
        stage.gateway()?;
        stage.keys()?;
        arrives(&stage)?;
        stage.verify()?;
        let status = status(stage.product.as_ref().ok_or("no product")?)?;
        let tunnels = status["tunnels"].as_array().ok_or("no tunnels")?;
        assert!(tunnels.iter().any(|t| t["device"] == "ipsec" && t["up"] == true), "{status}");
    }
    Ok(())
}

/// All flows of client and router arrive, encrypted.
fn arrives(stage: &Stage) -> Res<()> {
    let watch = stage.lab.watch()?;
    let (client, own) = stage.flows();
    let mut sent = send(&stage.lab.client, None, client, AFTER, RATE)?;
    sent.extend(send(&stage.lab.router, None, own, AFTER, RATE)?);
    let seen = watch.finish()?;
    tight("with keys", &seen)?;
    for s in &sent {
        let arrived = Seen::distinct(&seen.internet, std::slice::from_ref(s));
        assert_eq!(arrived, s.sent, "{:?} to {}", s.flow.kind, s.flow.to);
    }
    let esp = seen.uplink.iter().filter(|p| p.proto == ESP).count();
    assert!(esp >= sent.iter().map(|s| s.sent as usize).sum(), "{esp} packets of ESP");
    assert!(sent.iter().any(|s| s.flow.kind == Kind::Odd) && ODD != ESP);
    Ok(())
}

type Event = (&'static str, fn(&Stage) -> Res<()>, bool);

/// What may happen to IPsec, and whether the kernel itself then lets packets out in clear.
const EVENTS: &[Event] = &[
    ("keys removed", |s| s.lab.router.ip("xfrm state flush\n"), false),
    ("policies removed", |s| s.lab.router.ip("xfrm policy flush\n"), true),
    (
        "keys and policies removed",
        |s| s.lab.router.ip("xfrm state flush\nxfrm policy flush\n"),
        true,
    ),
    (
        "policies become optional, keys removed",
        |s| {
            s.lab.router.ip("xfrm policy flush\nxfrm state flush\n")?;
            s.policies(ALL, "use")
        },
        true,
    ),
    (
        "policies become those of another network",
        |s| {
            s.lab.router.ip("xfrm policy flush\n")?;
            s.policies(OTHER, "required")
        },
        true,
    ),
];

fn during_events(system: System) -> Res<()> {
    for (what, event, opens) in EVENTS {
        let stage = Stage::new(system, &firewall(), "")?;
        stage.policies(ALL, "required")?;
        stage.gateway()?;
        stage.keys()?;
        arrives_or_is_sent(&stage)?;
        let (seen, sent) = stage.during(event)?;
        stage.verify()?;
        for s in &sent {
            let early = |p: &&Packet| p.mark.is_some_and(|m| m.flow == s.flow.id && m.seq < BEFORE);
            let through = seen.internet.iter().filter(early).count() as u32;
            assert!(through >= BEFORE, "{what}: {:?}: {through} before the event", s.flow.kind);
        }
        match system {
            System::None if *opens => leaks(what, &seen, &sent)?,
            _ => tight(what, &seen)?,
        }
    }
    Ok(())
}

/// One packet each way, so that neighbours are known before the flood.
fn arrives_or_is_sent(stage: &Stage) -> Res<()> {
    for to in internet() {
        lab::topology::reach(&stage.lab.client, to)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a kernel with ESP"]
fn lost_keys_and_policies_leak_without_a_kill_switch() -> Res<()> {
    during_events(System::None)
}

#[test]
#[ignore = "needs a kernel with ESP"]
fn lost_keys_and_policies_leak_nothing() -> Res<()> {
    during_events(STRICT)
}

/// Translation of the source behind our verdict takes a packet out of what the policy is for.
fn translated(system: System) -> Res<(Seen, Vec<Sent>)> {
    let masquerading =
        OPEN_ROUTER.replace("oifname \"wg0\" masquerade", "oifname \"wan0\" masquerade");
    let stage = Stage::new(system, &masquerading, "")?;
    stage.policies(ALL, "required")?;
    stage.gateway()?;
    stage.keys()?;
    let (seen, sent) = stage.during(|_| Ok(()))?;
    stage.verify()?;
    Ok((seen, sent))
}

#[test]
#[ignore = "needs a kernel with ESP"]
fn what_masquerading_takes_out_of_ipsec_stays() -> Res<()> {
    let (seen, sent) = translated(System::None)?;
    leaks("masquerading", &seen, &sent)?;
    tight("strict", &translated(STRICT)?.0)?;
    tight("dns", &translated(DNS)?.0)?;
    tight("open", &translated(System::Mode("open"))?.0)
}

/// Connections that came out of IPsec: their answers, when policies and keys are gone.
fn answers(change: impl Fn(&str) -> String) -> Res<(Seen, Vec<Sent>)> {
    const PORT: u16 = 7777;
    let stage = Stage::new(STRICT, &firewall(), "\toption port_forward_replies '1'\n")?;
    stage.policies(ALL, "required")?;
    stage.gateway()?;
    stage.keys()?;
    arrives_or_is_sent(&stage)?;
    let product = stage.product.as_ref().ok_or("no product")?;
    let table = change(&product.ok(&["show"])?);
    stage.lab.router.nft(&format!("delete table inet vpn_killswitch\n{table}"))?;
    let mut flows = (Vec::new(), Vec::new());
    for (far, near, behind) in [(internet()[0], lan()[0], 0), (internet()[1], lan()[1], 1)] {
        // To the router itself, and through its port forward to the client.
        let server = open(&stage.lab.router, (near, PORT).into())?;
        let stranger = open(&stage.lab.internet, (far, PORT).into())?;
        until_heard(&stranger, (near, PORT).into(), &server)?;
        drop(server);
        let server = open(&stage.lab.client, (lab::topology::client()[behind], ECHO).into())?;
        until_heard(&stranger, (near, lab::topology::FORWARDED).into(), &server)?;
        drop(server);
        let from = (near, PORT).into();
        flows.0.push(Flow::new(Kind::UdpAt(from), (far, PORT)));
        let from = (lab::topology::client()[behind], ECHO).into();
        flows.1.push(Flow::new(Kind::UdpAt(from), (far, PORT)));
    }
    stage.lab.router.ip("xfrm state flush\nxfrm policy flush\n")?;
    let watch = stage.lab.watch()?;
    let mut sent = send(&stage.lab.router, None, flows.0, AFTER, RATE)?;
    sent.extend(send(&stage.lab.client, None, flows.1, AFTER, RATE)?);
    Ok((watch.finish()?, sent))
}

fn open(ns: &lab::ns::Ns, at: SocketAddr) -> Res<UdpSocket> {
    let socket = ns.enter(|| UdpSocket::bind(at))?.map_err(|e| format!("{at}: {e}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}

fn until_heard(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> Res<()> {
    wait_for(&format!("a packet for {to}"), 10.0, || {
        drop(from.send_to(b"hello", to));
        at.recv(&mut [0; 64]).is_ok()
    })
}

#[test]
#[ignore = "needs a kernel with ESP"]
fn answers_to_what_came_out_of_ipsec_never_leave_in_clear() -> Res<()> {
    let (seen, _) = answers(str::to_owned)?;
    tight("answers", &seen)?;
    // The same rules without the condition: the answers leave.
    let (seen, sent) = answers(|table| {
        assert!(table.contains("meta ipsec missing "), "{table}");
        table.replace("meta ipsec missing ", "")
    })?;
    leaks("answers", &seen, &sent)
}

/// So that a laboratory of another shape is noticed.
#[test]
fn the_addresses_are_those_of_the_laboratory() {
    let of =
        |a: IpAddr, net: &str| vpn_killswitch::types::Net::parse(net).is_ok_and(|n| n.contains(&a));
    for n in 0..2 {
        assert!(of(lan()[n], LOCAL[n]) && of(lan()[n], BYPASS[n][0]) && of(internet()[n], ALL[n]));
        assert!(!of(internet()[n], OTHER[n]));
    }
}
