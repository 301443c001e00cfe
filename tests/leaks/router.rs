//! What the router itself sends: names, its own programs, the VPN server's address.

use crate::lab::Res;
use crate::lab::packet::{Mark, TCP, UDP};
use crate::lab::server::{resolver_idle, start_resolver};
use crate::lab::topology::{
    ECHO, ENDPOINT_PORT, endpoint, gateway, internet, lan, resolver, tunnel_peer,
};
use crate::lab::traffic::{Flow, Kind, can_become, question, send};
use crate::lab::watch::{Seen, missing};
use crate::stage::Expect::{AllLeak, Tight};
use crate::stage::System::{DdWrt, None, Product, Zones};
use crate::stage::{AFTER, Outcome, RATE, STRICT, Scenario, Setting, Stage};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

const DNS: crate::stage::System = Product(Setting::Dns);
/// Some user without privileges.
const NOBODY: u32 = 65534;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "router::resolver_asks_provider",
        run: resolver_asks_provider,
        systems: &[
            (None, AllLeak),
            (DdWrt, AllLeak),
            (Zones, AllLeak),
            (STRICT, Tight),
            (DNS, Tight),
        ],
    },
    Scenario {
        name: "router::dns_and_dot_of_any_process",
        run: dns_of_any_process,
        systems: &[(None, AllLeak), (Zones, AllLeak), (STRICT, Tight), (DNS, Tight)],
    },
    Scenario {
        name: "router::own_traffic",
        run: own_traffic,
        systems: &[(None, AllLeak), (DdWrt, AllLeak), (Zones, AllLeak), (STRICT, Tight)],
    },
    Scenario {
        name: "router::endpoint_other_ports",
        run: endpoint_other_ports,
        systems: &[(None, AllLeak), (DdWrt, AllLeak), (Zones, AllLeak), (STRICT, Tight)],
    },
    Scenario {
        name: "router::rerouted_by_mark",
        run: rerouted_by_mark,
        systems: &[
            (None, AllLeak),
            (DdWrt, AllLeak),
            (Zones, AllLeak),
            (STRICT, Tight),
            (DNS, Tight),
        ],
    },
    Scenario {
        name: "router::dns_redirected",
        run: dns_redirected,
        systems: &[
            (None, AllLeak),
            (DdWrt, AllLeak),
            (Zones, AllLeak),
            (STRICT, Tight),
            (DNS, Tight),
        ],
    },
    Scenario {
        name: "router::rerouted_into_tunnel",
        run: rerouted_into_tunnel,
        systems: &[(None, AllLeak), (STRICT, Tight)],
    },
];

/// The client asks the router; the router's resolver knows only the provider's servers, one of
/// them on the uplink itself.
fn resolver_asks_provider(stage: &mut Stage) -> Res<Outcome> {
    let servers: Vec<IpAddr> = [resolver(), gateway()].concat();
    let _dnsmasq = start_resolver(&stage.lab, &servers)?;
    stage.engage()?;
    let watch = stage.lab.watch()?;
    let flow = || vec![Flow::new(Kind::Dns, (lan()[0], 53))];
    let up = send(&stage.lab.client, Option::None, flow(), AFTER, RATE)?;
    resolver_idle(&stage.lab)?;
    stage.lab.tunnel_down()?;
    let mut sent = send(&stage.lab.client, Option::None, flow(), AFTER, RATE)?;
    resolver_idle(&stage.lab)?;
    sent.extend(up.clone());
    ask_by_tcp(stage)?;
    let seen = watch.finish()?;
    // While the tunnel is up, the server that lies behind it gets every question.
    let asked = Seen::distinct(&seen.vpn, &up);
    if asked != up[0].sent {
        return Err(missing(&up[0], up[0].sent, asked));
    }
    stage.verify()?;
    let by_tcp = seen.strays().any(|p| p.proto == TCP && p.dport == 53);
    if stage.system.is_control() && !by_tcp {
        return Err("the control asked nothing by TCP: nothing was tested".into());
    }
    Ok(Outcome::count(seen.strays(), &sent, 0))
}

/// A few questions by TCP. The resolver may not answer when its servers are out of reach.
fn ask_by_tcp(stage: &Stage) -> Res<()> {
    stage.lab.client.enter(|| -> Res<()> {
        for seq in 0..2 {
            let question = question(Mark { flow: 0, seq });
            let mut stream =
                TcpStream::connect_timeout(&(lan()[0], 53).into(), Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            stream.write_all(&(question.len() as u16).to_be_bytes())?;
            stream.write_all(&question)?;
            let _no_answer_is_no_error = stream.read(&mut [0; 512]);
        }
        Ok(())
    })?
}

/// Floods from the router as root and as nobody, with the tunnel down.
fn as_root_and_nobody(stage: &mut Stage, root: Vec<Flow>, nobody: Vec<Flow>) -> Res<Outcome> {
    if !can_become(NOBODY) {
        return Err("not run: cannot become another user in this user namespace".into());
    }
    stage.engage()?;
    stage.lab.tunnel_down()?;
    let watch = stage.lab.watch()?;
    let mut sent = send(&stage.lab.router, Option::None, root, AFTER, RATE)?;
    sent.extend(send(&stage.lab.router, Some(NOBODY), nobody, AFTER, RATE)?);
    let seen = watch.finish()?;
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, 0))
}

fn dns_of_any_process(stage: &mut Stage) -> Res<Outcome> {
    let flows = || -> Vec<Flow> {
        let servers = [resolver(), gateway()].concat();
        let ports = [(Kind::Udp, 53), (Kind::Connect, 53), (Kind::Udp, 853), (Kind::Connect, 853)];
        servers
            .iter()
            .flat_map(|ip| ports.map(|(kind, port)| Flow::new(kind, (*ip, port))))
            .collect()
    };
    // An unmarked attempt is known by its address and port only, so root's come by hand.
    let by_hand =
        |f: Flow| Flow::new(if f.kind == Kind::Connect { Kind::Syn } else { f.kind }, f.to);
    let root = flows().into_iter().map(by_hand).collect();
    as_root_and_nobody(stage, root, flows())
}

fn own_traffic(stage: &mut Stage) -> Res<Outcome> {
    let nobody = internet()
        .into_iter()
        .flat_map(|ip| [Flow::new(Kind::Udp, (ip, ECHO)), Flow::new(Kind::Connect, (ip, 11))])
        .collect();
    as_root_and_nobody(stage, Flow::all_kinds(&internet()), nobody)
}

/// The VPN server may be shared: its address is open for the tunnel's own port only.
fn endpoint_other_ports(stage: &mut Stage) -> Res<Outcome> {
    let other = ENDPOINT_PORT + 1;
    let mut root = Flow::all_kinds(&endpoint());
    root.extend(endpoint().map(|ip| Flow::new(Kind::Udp, (ip, other))));
    root.extend(endpoint().map(|ip| Flow::new(Kind::Syn, (ip, ENDPOINT_PORT))));
    let nobody = endpoint()
        .into_iter()
        .flat_map(|ip| [Flow::new(Kind::Udp, (ip, other)), Flow::new(Kind::Connect, (ip, other))])
        .collect();
    let outcome = as_root_and_nobody(stage, root, nobody)?;
    // And the tunnel's own port is open, or no tunnel would ever come back.
    let watch = stage.lab.watch()?;
    let own = endpoint().map(|ip| Flow::new(Kind::Udp, (ip, ENDPOINT_PORT))).to_vec();
    let sent = send(&stage.lab.router, Option::None, own, AFTER, RATE)?;
    let seen = watch.finish()?;
    for s in &sent {
        let to_endpoint: Vec<_> = seen
            .uplink
            .iter()
            .filter(|p| p.is_to(&endpoint(), UDP, ENDPOINT_PORT))
            .cloned()
            .collect();
        Seen::all_arrived(&to_endpoint, [s])?;
    }
    Ok(outcome)
}

/// A policy routing program's rules, as pbr and mwan3 make them: what carries the mark goes by a
/// table of its own, with these default routes.
fn marked_by_table(stage: &Stage, v4: &str, v6: &str) -> Res<()> {
    let rule = "rule add priority 30000 fwmark 0x10000/0xff0000 lookup 77";
    stage
        .lab
        .router
        .ip(&format!("route add default {v4} table 77\nroute add default {v6} table 77\n"))?;
    stage.lab.router.sh(&format!("ip -4 {rule}; ip -6 {rule}")).map(drop)
}

/// Marks what the router itself sends, after its first routing decision and so for another one.
fn mark_own(stage: &Stage, priority: &str) -> Res<()> {
    stage.lab.router.nft(&format!(
        "table inet pbr {{\n\tchain output {{\n\
         \t\ttype route hook output priority {priority}; policy accept;\n\
         \t\tmeta l4proto {{ tcp, udp }} meta mark set meta mark & 0xff00ffff | 0x10000\n\
         \t}}\n}}\n"
    ))
}

/// The way is through the tunnel, until another program's mark sends the packets by the uplink.
fn rerouted_by_mark(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    marked_by_table(stage, "via 100.64.7.1 dev wan0", "via 2001:db8:64::1 dev wan0")?;
    let watch = stage.lab.watch()?;
    let mut sent = Vec::new();
    let mut unmarked = Vec::new();
    for priority in ["mangle", "0"] {
        mark_own(stage, priority)?;
        let mut flows: Vec<_> =
            resolver().into_iter().map(|ip| Flow::new(Kind::Dns, (ip, 53))).collect();
        if stage.system != DNS {
            flows.extend(Flow::kinds(&internet(), &[Kind::Udp, Kind::Syn]));
        }
        sent.extend(send(&stage.lab.router, Option::None, flows, AFTER, RATE)?);
        let pings = Flow::kinds(&internet(), &[Kind::Ping]);
        unmarked.extend(send(&stage.lab.router, Option::None, pings, AFTER, RATE)?);
        stage.lab.router.nft("delete table inet pbr\n")?;
    }
    let seen = watch.finish()?;
    // The tunnel was there all the time: what had no mark went through it.
    Seen::all_arrived(&seen.vpn, &unmarked)?;
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, 0))
}

/// Questions for a server behind the tunnel, and for the router itself, are sent to the provider
/// by another program's DNAT. It comes after the first routing decision too.
fn dns_redirected(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    let [v4, v6] = gateway();
    stage.lab.router.nft(&format!(
        "table inet hijack {{\n\tchain output {{\n\
         \t\ttype nat hook output priority -100; policy accept;\n\
         \t\tmeta nfproto ipv4 udp dport 53 dnat ip to {v4}\n\
         \t\tmeta nfproto ipv6 udp dport 53 dnat ip6 to {v6}\n\
         \t}}\n}}\n"
    ))?;
    let watch = stage.lab.watch()?;
    let asked = [tunnel_peer(), lan()].concat();
    let flows = asked.iter().map(|ip| Flow::new(Kind::Dns, (*ip, 53))).collect();
    let sent = send(&stage.lab.router, Option::None, flows, AFTER, RATE)?;
    let seen = watch.finish()?;
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, 0))
}

/// The other way round: the uplink is the way, and only the mark leads into the tunnel. What
/// carries it must arrive, though it was first routed to the uplink; what does not is exposed.
fn rerouted_into_tunnel(stage: &mut Stage) -> Res<Outcome> {
    stage.lab.router.ip("route del default via 10.9.0.1 dev wg0 metric 5\n\
                         route del default via fd09::1 dev wg0 metric 5\n")?;
    stage.engage()?;
    marked_by_table(stage, "via 10.9.0.1 dev wg0", "via fd09::1 dev wg0")?;
    let flows = || Flow::kinds(&internet(), &[Kind::Udp, Kind::Syn]);
    let watch = stage.lab.watch()?;
    let sent = send(&stage.lab.router, Option::None, flows(), AFTER, RATE)?;
    let seen = watch.finish()?;
    let outcome = Outcome::count(seen.strays(), &sent, 0);
    for priority in ["mangle", "0"] {
        mark_own(stage, priority)?;
        let router = stage.lab.router.clone();
        let mut delivered = stage.all_delivered(&router, flows())?;
        if stage.system == None {
            // An open router tells the sender of a last, late answer that nobody waits for it. The kernel's
            // errors have no mark, so they go the way of what has none.
            delivered = delivered.without_own_answers();
        }
        if delivered.leaked() > 0 {
            return Err(format!("beside the tunnel: {delivered}{}", delivered.details()).into());
        }
        stage.lab.router.nft("delete table inet pbr\n")?;
    }
    stage.verify()?;
    Ok(outcome)
}
