//! What the router forwards: whatever happens to the tunnel, the routes and the uplinks.

use crate::lab::Res;
use crate::lab::ns::Ns;
use crate::lab::product::{MODES, configuration};
use crate::lab::topology::{ENDPOINT_PORT, OPEN_ROUTER, connect, endpoint, internet};
use crate::lab::traffic::{Flood, Flow, Kind, send};
use crate::lab::watch::Seen;
use crate::stage::Expect::{AllLeak, SomeLeak, Tight};
use crate::stage::System::{DdWrt, None, Zones};
use crate::stage::{
    AFTER, BEFORE, GUARDED, LAYER1, LAYER2, Outcome, RATE, STRICT, Scenario, Stage,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "forward::tunnel_up",
        run: tunnel_up,
        systems: &[
            (None, Tight),
            (DdWrt, Tight),
            (Zones, Tight),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::tunnel_link_down",
        run: |s| client(s, |s| s.lab.tunnel_down()),
        systems: &[
            (None, AllLeak),
            (DdWrt, SomeLeak),
            (Zones, Tight),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::tunnel_deleted",
        run: |s| client(s, |s| s.lab.tunnel_delete()),
        systems: &[(None, AllLeak), (STRICT, Tight), (LAYER1, Tight), (LAYER2, Tight)],
    },
    Scenario {
        name: "forward::tunnel_recreated",
        run: recreated,
        systems: &[(None, Tight), (STRICT, Tight), (LAYER1, Tight), (GUARDED, Tight)],
    },
    Scenario {
        name: "forward::tunnel_flaps",
        run: |s| client(s, flap),
        systems: &[(None, AllLeak), (STRICT, Tight), (LAYER1, Tight), (GUARDED, Tight)],
    },
    Scenario {
        name: "forward::routes_fall_back",
        run: |s| client(s, routes_gone),
        systems: &[
            (None, AllLeak),
            (DdWrt, SomeLeak),
            (Zones, Tight),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::injected_halves",
        run: |s| client(s, |s| inject(s, &["0.0.0.0/1", "128.0.0.0/1"], &["::/1", "8000::/1"])),
        systems: &[
            (None, AllLeak),
            (DdWrt, SomeLeak),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::injected_prefix",
        run: |s| client(s, |s| inject(s, &["192.0.2.0/24"], &["2001:db8:80::/48"])),
        systems: &[(None, AllLeak), (STRICT, Tight), (LAYER1, Tight), (LAYER2, Tight)],
    },
    Scenario {
        name: "forward::injected_host",
        run: |s| client(s, |s| inject(s, &["192.0.2.80/32"], &["2001:db8:80::80/128"])),
        systems: &[(None, AllLeak), (STRICT, Tight), (LAYER1, Tight), (LAYER2, Tight)],
    },
    Scenario {
        name: "forward::public_prefix_on_link",
        run: |s| client(s, on_link),
        systems: &[
            (None, AllLeak),
            (DdWrt, SomeLeak),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::ipv6_falls_back",
        run: ipv6_falls_back,
        systems: &[
            (None, AllLeak),
            (DdWrt, AllLeak),
            (Zones, Tight),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::established_before",
        run: established_before,
        systems: &[
            (None, AllLeak),
            (DdWrt, SomeLeak),
            (Zones, SomeLeak),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::new_uplink",
        run: new_uplink,
        systems: &[
            (None, AllLeak),
            (DdWrt, AllLeak),
            (Zones, Tight),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::uplink_renamed",
        run: |s| client(s, rename),
        systems: &[
            (None, AllLeak),
            (DdWrt, AllLeak),
            (Zones, Tight),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::guest_network",
        run: |s| from(s, |s| s.lab.guest.clone(), |s| s.lab.tunnel_down()),
        systems: &[
            (None, AllLeak),
            (DdWrt, AllLeak),
            (Zones, Tight),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::unlisted_network",
        run: unlisted_network,
        systems: &[
            (None, AllLeak),
            (DdWrt, AllLeak),
            (Zones, Tight),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::firewall_reloaded",
        run: |s| client(s, reload_firewall),
        systems: &[
            (None, AllLeak),
            (DdWrt, AllLeak),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
    Scenario {
        name: "forward::changed_under_flood",
        run: |s| client(s, change),
        systems: &[(None, AllLeak), (STRICT, Tight)],
    },
    Scenario {
        name: "forward::tunnel_by_rules_made_before",
        run: tunnel_by_rules,
        systems: &[(None, AllLeak), (STRICT, Tight), (GUARDED, Tight), (LAYER2, Tight)],
    },
    Scenario {
        name: "forward::client_to_vpn_server",
        run: client_to_endpoint,
        systems: &[
            (None, AllLeak),
            (DdWrt, SomeLeak),
            (Zones, Tight),
            (STRICT, Tight),
            (LAYER1, Tight),
            (LAYER2, Tight),
        ],
    },
];

/// The client's flood with an event in its middle.
fn client(stage: &mut Stage, event: fn(&mut Stage) -> Res<()>) -> Res<Outcome> {
    from(stage, |s| s.lab.client.clone(), event)
}

fn from(
    stage: &mut Stage,
    who: fn(&Stage) -> Ns,
    event: fn(&mut Stage) -> Res<()>,
) -> Res<Outcome> {
    stage.engage()?;
    let who = who(stage);
    Ok(stage.during(&who, Flow::all_kinds(&internet()), event)?.0)
}

fn tunnel_up(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    let mut outcome = Outcome::default();
    for who in [stage.lab.client.clone(), stage.lab.guest.clone()] {
        let one = stage.all_delivered(&who, Flow::all_kinds(&internet()))?;
        outcome.flows.extend(one.flows);
        outcome.others.extend(one.others);
    }
    Ok(outcome)
}

/// The hook comes behind the new device, or the guard sees it.
fn recreated(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    let old = stage.lab.router.index("wg0")?;
    stage.lab.tunnel_delete()?;
    stage.lab.tunnel_up()?;
    stage.hotplug()?;
    if stage.lab.router.index("wg0")? == old {
        return Err("the new device has the old index: nothing was tested".into());
    }
    stage.lab.ready()?;
    let who = stage.lab.client.clone();
    stage.all_delivered(&who, Flow::all_kinds(&internet()))
}

fn flap(stage: &mut Stage) -> Res<()> {
    for _ in 0..5 {
        stage.lab.tunnel_down()?;
        stage.lab.tunnel_up()?;
        stage.hotplug()?;
        stage.lab.tunnel_delete()?;
        stage.lab.tunnel_up()?;
        stage.hotplug()?;
    }
    stage.lab.tunnel_down()
}

fn routes_gone(stage: &mut Stage) -> Res<()> {
    stage.lab.router.ip("route del default via 10.9.0.1 dev wg0 metric 5\n\
                         route del default via fd09::1 dev wg0 metric 5\n")
}

fn inject(stage: &mut Stage, v4: &[&str], v6: &[&str]) -> Res<()> {
    let mut lines = String::new();
    for prefix in v4 {
        lines += &format!("route add {prefix} via 100.64.7.1 dev wan0\n");
    }
    for prefix in v6 {
        lines += &format!("route add {prefix} via 2001:db8:64::1 dev wan0\n");
    }
    stage.lab.router.ip(&lines)
}

/// The uplink claims that the internet host is its neighbour.
fn on_link(stage: &mut Stage) -> Res<()> {
    stage.lab.provider.sysctls(&[
        ("ipv4/conf/isp0/proxy_arp", "1"),
        ("ipv4/neigh/isp0/proxy_delay", "0"),
        ("ipv6/conf/isp0/proxy_ndp", "1"),
        ("ipv6/neigh/isp0/proxy_delay", "0"),
    ])?;
    stage.lab.provider.ip("neigh add proxy 2001:db8:80::80 dev isp0\n")?;
    stage.lab.router.ip("addr add 192.0.2.2/24 dev wan0\n\
                         addr add 2001:db8:80::2/64 dev wan0 nodad\n")
}

fn ipv6_falls_back(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    let who = stage.lab.client.clone();
    let (mut outcome, seen, sent) = stage.during(&who, Flow::all_kinds(&internet()), |s| {
        s.lab.router.ip("route del default via fd09::1 dev wg0 metric 5\n")
    })?;
    // IPv4 goes on through the tunnel as if nothing had happened.
    Seen::all_arrived(&seen.vpn, sent.iter().filter(|s| s.flow.to.is_ipv4()))?;
    let leaked_v4 = outcome.flows.iter().any(|f| f.flow.to.is_ipv4() && f.leaked > 0);
    if leaked_v4 {
        return Err("IPv4 left the tunnel".into());
    }
    outcome.flows.retain(|f| f.flow.to.is_ipv6());
    Ok(outcome)
}

/// Connections that run over the uplink, two-way, when the kill switch comes into force.
fn established_before(stage: &mut Stage) -> Res<Outcome> {
    stage.lab.tunnel_down()?;
    stage.lab.forget_connections()?;
    let mut flows = Flow::all_kinds(&internet());
    flows.extend(internet().map(|ip| Flow::new(Kind::Stream, (ip, 443))));
    // Each attempt is a new connection; what is established is the stream.
    flows.retain(|flow| flow.kind != Kind::Syn);
    let flood = Flood::start(&stage.lab.client, Option::None, flows, RATE);
    flood.more(BEFORE)?;
    stage.engage()?;
    // Whatever was on its way is past the router: a packet crosses it within one system call.
    let watch = stage.lab.watch()?;
    let before = flood.now();
    flood.more(AFTER)?;
    let sent = flood.stop()?;
    let seen = watch.finish()?;
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, before))
}

fn new_uplink(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    let lab = &stage.lab;
    // The far end is watched before the near end exists for the router.
    let hold = Ns::new("parking")?;
    connect(&hold, "usb0", &lab.provider, "isp1")?;
    lab.provider.ip("addr add 100.64.8.1/24 dev isp1\n\
                     addr add 2001:db8:65::1/64 dev isp1 nodad\n")?;
    let mut watch = lab.watch()?;
    watch.also(&lab.provider, "isp1")?;
    let flood = Flood::start(&lab.client, Option::None, Flow::all_kinds(&internet()), RATE);
    flood.more(BEFORE)?;
    let before = flood.now();
    hold.ip(&format!("link set usb0 netns {}\n", lab.router.path()))?;
    lab.router.eager("usb0")?;
    lab.router.ip("link set usb0 up\n")?;
    // A default router that does not answer at once is not asked again for a minute (IPv6).
    lab.router.wait_up("usb0")?;
    lab.provider.wait_up("isp1")?;
    lab.router.ip("addr add 100.64.8.2/24 dev usb0\n\
                   addr add 2001:db8:65::2/64 dev usb0 nodad\n\
                   route add default via 100.64.8.1 dev usb0 metric 1\n\
                   route add default via 2001:db8:65::1 dev usb0 metric 1\n")?;
    let after = flood.now();
    flood.more(AFTER)?;
    let sent = flood.stop()?;
    let seen = watch.finish()?;
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, before).over_at(after, &sent))
}

fn rename(stage: &mut Stage) -> Res<()> {
    stage.lab.router.ip("link set wan0 down\n\
                         link set wan0 name pppoe-wan\n\
                         link set pppoe-wan up\n")?;
    stage.lab.router.wait_up("pppoe-wan")?;
    stage.lab.provider.wait_up("isp0")?;
    stage.lab.router.eager("pppoe-wan")?;
    stage.lab.uplink_up("pppoe-wan")?;
    stage.lab.tunnel_down()
}

/// A network that the configuration does not name. It has no right to the tunnel either, so
/// nothing of it has to arrive.
fn unlisted_network(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    stage.lab.tunnel_down()?;
    let watch = stage.lab.watch()?;
    let flows = Flow::all_kinds(&internet());
    let sent = send(&stage.lab.iot, Option::None, flows, AFTER, RATE)?;
    let seen = watch.finish()?;
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, 0))
}

/// What a firewall reload does to tables that are not ours, while the tunnel is down.
fn reload_firewall(stage: &mut Stage) -> Res<()> {
    stage.lab.tunnel_down()?;
    stage.lab.router.sh("iptables-legacy -F; iptables-legacy -P FORWARD ACCEPT")?;
    for _ in 0..3 {
        stage.lab.router.nft("delete table inet fw4\n")?;
        stage.lab.router.nft(OPEN_ROUTER)?;
    }
    if stage.iptables == Some("legacy") {
        // That has flushed ours too; the second layer held, and the hook brings them back.
        return stage.hotplug();
    }
    Ok(())
}

/// The owner changes this and that while the tunnel is down; no policy may be open in between.
fn change(stage: &mut Stage) -> Res<()> {
    stage.lab.tunnel_down()?;
    let Some(product) = &stage.product else { return Ok(()) };
    for _ in 0..3 {
        for (mode, more) in MODES {
            product.configure(&configuration(mode, more))?;
            // With the tunnel down its exit code is not the point here.
            let out = product.run(&["apply"])?;
            if !matches!(out.status.code(), Some(0 | 4)) {
                let text = String::from_utf8_lossy(&out.stderr).into_owned();
                return Err(format!("apply: {}: {text}", out.status).into());
            }
        }
    }
    Ok(())
}

/// A host route leads to the VPN server outside the tunnel; that way is the router's alone.
fn client_to_endpoint(stage: &mut Stage) -> Res<Outcome> {
    stage.engage()?;
    let mut flows = Flow::all_kinds(&endpoint());
    flows.extend(endpoint().map(|ip| Flow::new(Kind::Udp, (ip, ENDPOINT_PORT))));
    flows.extend(endpoint().map(|ip| Flow::new(Kind::Syn, (ip, ENDPOINT_PORT))));
    let watch = stage.lab.watch()?;
    let sent = send(&stage.lab.client, Option::None, flows, AFTER, RATE)?;
    let seen = watch.finish()?;
    stage.verify()?;
    Ok(Outcome::count(seen.strays(), &sent, 0))
}

/// The tunnel is reached by routing rules, as wg-quick makes them, that were there first. They took
/// the places right before the main table, and ours must not cut them off.
fn tunnel_by_rules(stage: &mut Stage) -> Res<Outcome> {
    stage.lab.router.ip("route del default via 10.9.0.1 dev wg0 metric 5\n\
                         route del default via fd09::1 dev wg0 metric 5\n\
                         route add default via 10.9.0.1 dev wg0 table 51820\n\
                         route add default via fd09::1 dev wg0 table 51820\n")?;
    for family in ["-4", "-6"] {
        stage.lab.router.sh(&format!(
            "ip {family} rule add not fwmark 51820 table 51820\n\
             ip {family} rule add table main suppress_prefixlength 0"
        ))?;
    }
    stage.engage()?;
    for who in [stage.lab.client.clone(), stage.lab.guest.clone(), stage.lab.router.clone()] {
        let delivered = stage.all_delivered(&who, Flow::all_kinds(&internet()))?;
        if delivered.leaked() > 0 {
            return Err(format!("beside the tunnel: {delivered}{}", delivered.details()).into());
        }
    }
    stage.lab.forget_connections()?;
    let who = stage.lab.client.clone();
    Ok(stage.during(&who, Flow::all_kinds(&internet()), |s| s.lab.tunnel_down())?.0)
}
