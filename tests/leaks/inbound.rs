//! What comes in: port forwards and packets for the tunnel's own address.

use crate::lab::server::Servers;
use crate::lab::topology::{ECHO, FORWARDED, client, internet, tunnel, uplink};
use crate::lab::traffic::{Flow, Kind, send};
use crate::lab::{Res, wait_for};
use crate::stage::Expect::{AllLeak, SomeLeak, Tight};
use crate::stage::System::{DdWrt, None, Product, Zones};
use crate::stage::{AFTER, FlowCount, Outcome, RATE, STRICT, Scenario, Setting, Stage};
use std::sync::atomic::Ordering;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "inbound::port_forward_answers",
        run: port_forward_answers,
        systems: &[(None, AllLeak), (DdWrt, SomeLeak), (Zones, AllLeak), (STRICT, Tight)],
    },
    Scenario {
        name: "inbound::port_forward_let_out",
        run: port_forward_answers,
        systems: &[(Product(Setting::Replies), AllLeak)],
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

/// Packets for the tunnel's address from the uplink and the LAN must not reach a socket; those
/// from the tunnel must. "Leaked" here means heard by a program on the router.
fn tunnel_address(stage: &mut Stage) -> Res<Outcome> {
    let servers = Servers::start(&stage.lab.router, &tunnel(), &[ECHO])?;
    stage.engage()?;
    stage.lab.provider.ip("route add 10.9.0.2/32 via 100.64.7.2 dev isp0\n\
                           route add fd09::2/128 via 2001:db8:64::2 dev isp0\n")?;
    let mut outcome = Outcome::default();
    let mut heard = 0;
    for (ns, tight) in
        [(&stage.lab.provider, true), (&stage.lab.client, true), (&stage.lab.vpn, false)]
    {
        for ip in tunnel() {
            let flows = vec![Flow::new(Kind::Udp, (ip, ECHO))];
            let sent = send(ns, Option::None, flows, AFTER, RATE)?;
            // A probe through the tunnel comes last: when it is heard, all others would have been.
            let probe = vec![Flow::new(Kind::Udp, (ip, ECHO))];
            let probes = send(&stage.lab.vpn, Option::None, probe, 1, RATE)?[0].sent;
            wait_for("the probe", 5.0, || servers.heard.load(Ordering::Acquire) >= heard + probes)?;
            let mut count = servers.heard.load(Ordering::Acquire);
            // A busy machine may still be delivering the rest of what is allowed.
            if !tight {
                wait_for("packets from the tunnel", 5.0, || {
                    count = servers.heard.load(Ordering::Acquire);
                    count == heard + probes + sent[0].sent
                })?;
            } else {
                outcome.flows.push(FlowCount {
                    flow: sent[0].flow.clone(),
                    exposed: sent[0].sent,
                    after: sent[0].sent,
                    leaked: count - heard - probes,
                });
            }
            heard = count;
        }
    }
    stage.verify()?;
    Ok(outcome)
}
