//! What comes in: port forwards and packets for the tunnel's own address.

use crate::lab::capture::Capture;
use crate::lab::server::Servers;
use crate::lab::topology::{ECHO, FORWARDED, client, internet, lan, tunnel, tunnel_peer, uplink};
use crate::lab::traffic::{Flood, Flow, Kind, send};
use crate::lab::watch::{Seen, missing};
use crate::lab::{Res, wait_for};
use crate::stage::Expect::{AllLeak, SomeLeak, Tight};
use crate::stage::System::{DdWrt, None, Product, Zones};
use crate::stage::{
    AFTER, BEFORE, FlowCount, LAYER1, LAYER2, Outcome, RATE, STRICT, Scenario, Setting, Stage,
};
use std::net::IpAddr;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "inbound::port_forward_answers",
        run: port_forward_answers,
        systems: &[
            (None, AllLeak),
            (DdWrt, SomeLeak),
            (Zones, AllLeak),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "inbound::port_forward_let_out",
        run: port_forward_answers,
        systems: &[(Product(Setting::Replies), AllLeak)],
    },
    Scenario {
        name: "inbound::answers_to_the_tunnel",
        run: answers_to_the_tunnel,
        systems: &[(None, AllLeak), (STRICT, Tight), (Product(Setting::Replies), Tight)],
    },
    Scenario {
        name: "inbound::tunnel_address",
        run: tunnel_address,
        systems: &[(None, AllLeak), (Zones, AllLeak), (STRICT, Tight)],
    },
];

/// Somebody on the internet talks to the client through a forwarded port, and directly over IPv6;
/// the answers would leave in clear. With `port_forward_replies` those of the forwarded port may,
/// and those that no port forward let in may not.
fn port_forward_answers(stage: &mut Stage) -> Res<Outcome> {
    let _client = Servers::start(&stage.lab.client, &client(), &[ECHO])?;
    stage.engage()?;
    stage.lab.tunnel_down()?;
    let watch = stage.lab.watch()?;
    let direct = Flow::new(Kind::Udp, (client()[1], ECHO));
    let mut flows: Vec<Flow> =
        uplink().iter().map(|a| Flow::new(Kind::Udp, (*a, FORWARDED))).collect();
    let answers_allowed = stage.system == Product(Setting::Replies);
    if !answers_allowed {
        flows.push(direct.clone());
    }
    let sent = send(&stage.lab.internet, Option::None, flows, AFTER, RATE)?;
    let seen = watch.finish()?;
    let outcome = Outcome::count(seen.strays(), &sent, 0);
    stage.verify()?;
    if answers_allowed {
        // Only answers to the port forward: neither the client's own traffic nor other answers.
        for (host, flows) in
            [(&stage.lab.client, Flow::all_kinds(&internet())), (&stage.lab.internet, vec![direct])]
        {
            let watch = stage.lab.watch()?;
            let sent = send(host, Option::None, flows, AFTER, RATE)?;
            let leaked = Outcome::count(watch.finish()?.strays(), &sent, 0);
            if leaked.leaked() > 0 {
                return Err(format!("besides the answers: {leaked}").into());
            }
        }
    }
    Ok(outcome)
}

/// Connections that came in through the tunnel, to a client and to the router: when the tunnel is
/// gone, their answers are not those to somebody on the uplink.
fn answers_to_the_tunnel(stage: &mut Stage) -> Res<Outcome> {
    const FROM: u16 = 5000;
    const TO: u16 = 7777;
    stage.engage()?;
    stage.lab.vpn.ip("route add 192.168.1.0/24 via 10.9.0.2\n\
                      route add 2001:db8:1:1::/64 via fd09::2\n")?;
    let asked: Vec<IpAddr> = [client(), lan()].concat();
    for ip in asked {
        let question = vec![Flow::new(Kind::UdpFrom(FROM), (ip, TO))];
        let arrivals = Capture::start(&stage.lab.router, "wg0")?;
        let sent = send(&stage.lab.vpn, Option::None, question, 5, RATE)?;
        if Seen::distinct(&arrivals.finish()?, &sent) != sent[0].sent {
            return Err("the connections did not come in".into());
        }
    }
    let watch = stage.lab.watch()?;
    let answers = |hosts: [IpAddr; 2]| {
        let from_to = hosts.into_iter().zip(tunnel_peer());
        from_to.map(|(h, to)| Flow::new(Kind::UdpAt((h, TO).into()), (to, FROM))).collect()
    };
    let floods = [
        Flood::start(&stage.lab.client, Option::None, answers(client()), RATE),
        Flood::start(&stage.lab.router, Option::None, answers(lan()), RATE),
    ];
    floods.iter().try_for_each(|flood| flood.more(BEFORE))?;
    let before = floods.iter().map(Flood::now).min().unwrap_or(0);
    stage.lab.tunnel_down()?;
    floods.iter().try_for_each(|flood| flood.more(AFTER))?;
    let mut sent = Vec::new();
    for flood in floods {
        sent.extend(flood.stop()?);
    }
    let seen = watch.finish()?;
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, before))
}

/// Packets for the tunnel's address from the uplink and the LAN must not reach a socket; those
/// from the tunnel must. "Leaked" here means heard by a program on the router.
fn tunnel_address(stage: &mut Stage) -> Res<Outcome> {
    let servers = Servers::start(&stage.lab.router, &tunnel(), &[ECHO])?;
    stage.engage()?;
    stage.lab.provider.ip("route add 10.9.0.2/32 via 100.64.7.2 dev isp0\n\
                           route add fd09::2/128 via 2001:db8:64::2 dev isp0\n")?;
    let mut outcome = Outcome::default();
    for (ns, tight) in
        [(&stage.lab.provider, true), (&stage.lab.client, true), (&stage.lab.vpn, false)]
    {
        for ip in tunnel() {
            let flow = || vec![Flow::new(Kind::Udp, (ip, ECHO))];
            let sent = send(ns, Option::None, flow(), AFTER, RATE)?.remove(0);
            // A packet through the tunnel comes last: when it is heard, so are all before it.
            let probe = send(&stage.lab.vpn, Option::None, flow(), 1, RATE)?.remove(0);
            wait_for("the probe", 5.0, || servers.heard(probe.flow.id) == probe.sent)?;
            let leaked = servers.heard(sent.flow.id);
            if tight {
                let (exposed, after) = (sent.sent, sent.sent);
                outcome.flows.push(FlowCount { flow: sent.flow, exposed, after, leaked });
            } else if leaked != sent.sent {
                return Err(missing(&sent, sent.sent, leaked));
            }
        }
    }
    stage.verify()?;
    Ok(outcome)
}
