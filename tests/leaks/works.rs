//! What must still work while the router is closed: a kill switch that locks its owner out will
//! be switched off.

use crate::lab::capture::Capture;
use crate::lab::ns::directory;
use crate::lab::packet::{ICMP, ICMPV6, Packet, TCP};
use crate::lab::product::configuration;
use crate::lab::server::{Servers, talks};
use crate::lab::topology::{ECHO, client, gateway, internet, lan, tunnel_peer, uplink};
use crate::lab::traffic::{Flood, Flow, Kind, send};
use crate::lab::watch::Seen;
use crate::lab::{Res, wait_for};
use crate::stage::Expect::Tight;
use crate::stage::System::{None, Product};
use crate::stage::{AFTER, BEFORE, Outcome, RATE, STRICT, Scenario, Setting, Stage};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "works::lan_and_management",
        run: lan_and_management,
        systems: &[(None, Tight), (STRICT, Tight)],
    },
    Scenario {
        name: "works::clients_get_leases",
        run: clients_get_leases,
        systems: &[(None, Tight), (STRICT, Tight)],
    },
    Scenario {
        name: "works::changes_do_not_interrupt",
        run: changes_do_not_interrupt,
        systems: &[(STRICT, Tight)],
    },
    Scenario {
        name: "works::uplink_housekeeping",
        run: uplink_housekeeping,
        systems: &[(None, Tight), (STRICT, Tight)],
    },
    Scenario {
        name: "works::status_without_tunnel",
        run: status_without_tunnel,
        systems: &[(STRICT, Tight)],
    },
    Scenario {
        name: "works::clients_are_told",
        run: clients_are_told,
        systems: &[(STRICT, Tight), (Product(Setting::Silent), Tight)],
    },
];

/// The guest's addresses.
fn guest() -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 2);
    [[192, 168, 2, 2].into(), v6.into()]
}

/// Management, LAN to LAN and, while it is up, the tunnel in both directions.
fn lan_and_management(stage: &mut Stage) -> Res<Outcome> {
    let lab = &stage.lab;
    let _servers = [
        Servers::start(&lab.router, &lan(), &[22, 53, 67, 80, 443])?,
        Servers::start(&lab.client, &client(), &[ECHO])?,
        Servers::start(&lab.guest, &guest(), &[ECHO])?,
        Servers::start(&lab.vpn, &tunnel_peer(), &[ECHO])?,
    ];
    lab.vpn.ip("route add 192.168.1.0/24 via 10.9.0.2\n\
                route add 2001:db8:1:1::/64 via fd09::2\n")?;
    stage.engage()?;
    let watch = stage.lab.watch()?;
    for tunnel in [true, false] {
        let lab = &stage.lab;
        for family in 0..2 {
            for port in [22, 53, 67, 80, 443] {
                talks(&lab.client, lan()[family], port)?;
                talks(&lab.guest, lan()[family], port)?;
            }
            talks(&lab.client, guest()[family], ECHO)?;
            talks(&lab.guest, client()[family], ECHO)?;
            talks(&lab.router, client()[family], ECHO)?;
            talks(&lab.router, lan()[family], 80)?;
            if tunnel {
                talks(&lab.client, tunnel_peer()[family], ECHO)?;
                talks(&lab.vpn, client()[family], ECHO)?;
                talks(&lab.router, tunnel_peer()[family], ECHO)?;
                talks(&lab.router, internet()[family], ECHO)?;
            }
        }
        stage.lab.tunnel_down()?;
    }
    stage.verify()?;
    Ok(Outcome::count(watch.finish()?.strays(), &[], 0))
}

/// A real DHCP client in the LAN and a real server on the router, with the tunnel down.
fn clients_get_leases(stage: &mut Stage) -> Res<Outcome> {
    let leases = directory("leases")?.join("leases");
    let file = format!("--dhcp-leasefile={}", leases.display());
    let args = [
        "--no-daemon",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--port=0",
        "--interface=br-lan",
        "--dhcp-range=192.168.1.100,192.168.1.200,5m",
        "--dhcp-authoritative",
        "--no-ping",
        &file,
    ];
    stage.engage()?;
    stage.lab.tunnel_down()?;
    let watch = stage.lab.watch()?;
    let mut server = stage.lab.router.spawn("dnsmasq", &args, &[])?;
    // The client asks again and again until the server is there.
    let asked = stage.lab.client.sh("busybox udhcpc -i eth0 -n -q -f -t 20 -T 1 -s /bin/true 2>&1");
    server.alive()?;
    asked.map_err(|e| format!("{e}\n{}", server.said()))?;
    // The server writes it down behind its answer.
    wait_for("a lease in the server's file", 5.0, || {
        std::fs::read_to_string(&leases).is_ok_and(|text| text.contains(" 192.168.1.1"))
    })?;
    stage.verify()?;
    Ok(Outcome::count(watch.finish()?.strays(), &[], 0))
}

/// Settings change while traffic flows through the tunnel: not one packet is lost.
fn changes_do_not_interrupt(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    let watch = stage.lab.watch()?;
    let flood = Flood::start(&stage.lab.client, Option::None, Flow::all_kinds(&internet()), RATE);
    flood.more(BEFORE)?;
    let product = stage.product.as_ref().ok_or("no product")?;
    for more in ["\toption reject '0'\n", "\tlist local_device 'br-iot'\n", "", ""] {
        product.configure(&configuration("strict", more))?;
        product.ok(&["apply"])?;
        flood.more(BEFORE)?;
    }
    let sent = flood.stop()?;
    let seen = watch.finish()?;
    Seen::all_arrived(&seen.internet, &sent)?;
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, 0))
}

/// Leases are renewed and neighbours found, with the tunnel down.
fn uplink_housekeeping(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    stage.lab.tunnel_down()?;
    let lab = &stage.lab;
    let scope = lab.router.index("wan0")?;
    let all = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2), 547, 0, scope);
    let watch = lab.watch()?;
    let flows = vec![
        Flow::new(Kind::UdpFrom(68), (gateway()[0], 67)),
        Flow::new(Kind::UdpFrom(546), SocketAddr::V6(all)),
    ];
    let mut sent = send(&lab.router, Option::None, flows, AFTER, RATE)?;
    // The router forgets its neighbours and must find them again, and be found.
    let sink = lab.router.enter(|| UdpSocket::bind((uplink()[1], ECHO)))??;
    lab.router.ip("neigh flush dev wan0\n")?;
    lab.provider.ip("neigh flush dev isp0\naddr add fe80::1/64 dev isp0 nodad\n")?;
    send(&lab.provider, Option::None, vec![Flow::new(Kind::Udp, (uplink()[1], ECHO))], 5, RATE)?;
    drop(sink);
    let link_local = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 547, 0, scope);
    let flows = vec![
        Flow::new(Kind::UdpFrom(68), (gateway()[0], 67)),
        Flow::new(Kind::UdpFrom(546), SocketAddr::V6(link_local)),
    ];
    sent.extend(send(&lab.router, Option::None, flows, 20, RATE)?);
    // A link that comes up asks for a router.
    lab.router.sysctls(&[
        ("ipv6/conf/wan0/accept_ra", "2"),
        ("ipv6/conf/wan0/router_solicitation_delay", "0"),
    ])?;
    let arrivals = Capture::start(&lab.provider, "isp0")?;
    lab.router.ip("link set wan0 down\nlink set wan0 up\n")?;
    let kind = |p: &Packet, kind| p.proto == ICMPV6 && p.icmp() == Some((kind, 0));
    arrivals.wait("router solicitation", 5.0, |p| !p.outgoing && kind(p, 133))?;
    let seen = watch.finish()?;
    Seen::all_arrived(&seen.uplink, &sent)?;
    for (name, number) in [("neighbour solicitation", 135), ("neighbour advertisement", 136)] {
        if !seen.uplink.iter().any(|p| kind(p, number)) {
            return Err(format!("no {name} from the router").into());
        }
    }
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, 0))
}

/// With reject, a client learns at once that there is no way; without, nothing is said.
fn clients_are_told(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    stage.lab.tunnel_down()?;
    let capture = Capture::start(&stage.lab.client, "eth0")?;
    let watch = stage.lab.watch()?;
    // Not the odd protocol: the kernel's reject wants a checksum that it does not have.
    let flows = Flow::kinds(&internet(), &[Kind::Udp, Kind::Syn, Kind::Ping]);
    let sent = send(&stage.lab.client, Option::None, flows, AFTER, RATE)?;
    let seen = watch.finish()?;
    let heard: Vec<_> = capture.finish()?.into_iter().filter(|p| !p.outgoing).collect();
    for s in &sent {
        let flow = &s.flow;
        let told = heard.iter().filter(|p| match flow.kind {
            Kind::Syn => p.proto == TCP && p.flags & 0x04 != 0 && p.src == Some(flow.to.ip()),
            _ => {
                let prohibited = if flow.to.is_ipv4() {
                    p.proto == ICMP && p.icmp() == Some((3, 13))
                } else {
                    p.proto == ICMPV6 && p.icmp() == Some((1, 1))
                };
                prohibited && p.mark.is_some_and(|m| m.flow == flow.id)
            }
        });
        let told = told.count() as u32;
        let expected = if stage.system == Product(Setting::Silent) { 0 } else { s.sent };
        if told != expected {
            return Err(format!(
                "{:?} to {}: told {told} times instead of {expected}",
                flow.kind, flow.to
            )
            .into());
        }
    }
    if stage.system == Product(Setting::Silent)
        && let Some(p) =
            heard.iter().find(|p| p.mark.is_some() || p.proto == TCP || p.is_icmp_error())
    {
        return Err(format!("not silent: {p}").into());
    }
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, 0))
}

/// A tunnel that is down, gone or back is no fault of the kill switch, and nobody has to call it.
fn status_without_tunnel(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    let posture = |stage: &Stage, step: &str, expected: i32| -> Res<()> {
        let product = stage.product.as_ref().ok_or("no product")?;
        for command in ["status", "check"] {
            let out = product.run(&[command])?;
            if out.status.code() != Some(expected) {
                let text = [out.stdout, out.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                return Err(
                    format!("{step}: {command}: {}, not {expected}: {text}", out.status).into()
                );
            }
        }
        Ok(())
    };
    posture(stage, "tunnel up", 0)?;
    stage.lab.tunnel_down()?;
    posture(stage, "tunnel down", 4)?;
    stage.lab.tunnel_delete()?;
    posture(stage, "tunnel gone", 4)?;
    stage.lab.tunnel_up()?;
    stage.hotplug()?;
    stage.lab.ready()?;
    posture(stage, "tunnel back", 0)?;
    Ok(Outcome::default())
}
