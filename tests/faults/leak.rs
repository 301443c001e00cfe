//! Atomicity on real packets: while the policy is exchanged again and again, not one packet of a
//! flood gets through (G6).

use crate::lab::Res;
use crate::lab::product::{Product, configuration};
use crate::lab::topology::{ECHO, Lab, Tunnel, internet};
use crate::lab::traffic::{Flood, Flow, Kind};
use crate::lab::watch::Seen;
use crate::stage::binary;

/// Packets per second of each flow.
const RATE: u32 = 1000;
const APPLIES: usize = 200;
const CONTROLS: usize = 25;

/// A flood of both families from the client towards the internet, past the tunnel that is down,
/// while `work` runs; returns how many packets were sent, how many of them got out, and how many
/// packets of any kind were on the uplink without business there.
fn flooded(lab: &Lab, work: impl FnOnce() -> Res<()>) -> Res<[u32; 3]> {
    let watch = lab.watch()?;
    let flows = internet()
        .iter()
        .flat_map(|ip| [Kind::Udp, Kind::Syn].map(|kind| Flow::new(kind, (*ip, ECHO))))
        .collect();
    let flood = Flood::start(&lab.client, None, flows, RATE);
    flood.more(10)?;
    work()?;
    flood.more(10)?;
    let sent = flood.stop()?;
    let seen = watch.finish()?;
    let out = Seen::distinct(&seen.uplink, &sent);
    Ok([sent.iter().map(|s| s.sent).sum(), out, seen.strays().count() as u32])
}

#[test]
fn exchanging_the_policy_lets_nothing_through() -> Res<()> {
    let lab = Lab::new(Tunnel::Veth)?;
    let product = Product::new(binary(), &lab.router)?;
    let policies = [
        configuration("strict", ""),
        // Every chain, set and rule of which another policy can consist changes on the way.
        configuration("dns", "\toption reject '0'\n\toption log '0'\n")
            .replace("\tlist local_device 'br-guest'\n", "\tlist tunnel_device 'tun*'\n"),
    ];
    product.configure(&policies[0])?;
    product.ok(&["apply"])?;
    // Somebody's rule that goes before the second layer, which would hide what the first one does.
    lab.router
        .sh("ip -4 rule add priority 100 lookup main; ip -6 rule add priority 100 lookup main")?;
    lab.tunnel_down()?;
    lab.forget_connections()?;

    let [sent, leaked, strays] = flooded(&lab, || {
        for n in 0..APPLIES {
            product.configure(&policies[(n + 1) % 2])?;
            let said = product.ok(&["apply"])?;
            assert_eq!(said, "Protection is in force.\n", "it changed nothing");
        }
        Ok(())
    })?;
    eprintln!("{APPLIES} exchanges: {sent} packets sent, {leaked} leaked");

    // The control: the same rules, exchanged by deleting the table and making it again.
    let rules = product.ok(&["show"])?;
    let [control_sent, control_leaked, _] = flooded(&lab, || {
        for _ in 0..CONTROLS {
            lab.router.nft("delete table inet vpn_killswitch")?;
            lab.router.nft(&rules)?;
        }
        Ok(())
    })?;
    eprintln!("control, {CONTROLS} in two steps: {control_sent} sent, {control_leaked} leaked");

    assert!(sent > 2000, "{sent} packets prove little");
    assert_eq!((leaked, strays), (0, 0), "of {sent} packets");
    assert!(control_leaked > 0, "the control does not leak: the flood would not show it");
    Ok(())
}
