//! Tests of the laboratory itself: an instrument that nobody has tested proves nothing.

#![allow(clippy::indexing_slicing, reason = "test code: a wrong index is a failed test")]

mod lab;

use lab::Res;
use lab::capture::Capture;
use lab::ns::Ns;
use lab::packet::{Mark, Packet};
use lab::topology::{Lab, Tunnel, connect, internet};
use lab::traffic::{Flood, Flow, Kind, send};
use lab::watch::Seen;

#[test]
fn every_packet_is_counted_once_where_it_went() -> Res<()> {
    let mut lab = Lab::new(Tunnel::Veth)?;
    let watch = lab.watch()?;
    let through = send(&lab.client, None, Flow::all_kinds(&internet()), 100, 500)?;
    lab.tunnel_down()?;
    lab.forget_connections()?;
    let past = send(&lab.client, None, Flow::all_kinds(&internet()), 100, 500)?;
    lab.tunnel_delete()?;
    lab.tunnel_up()?;
    lab.ready()?;
    lab.forget_connections()?;
    let again = send(&lab.client, None, Flow::all_kinds(&internet()), 100, 500)?;
    let seen = watch.finish()?;
    for (sent, in_tunnel) in [(&through, true), (&past, false), (&again, true)] {
        for flow in sent {
            let one = std::slice::from_ref(flow);
            let (vpn, uplink) = (Seen::distinct(&seen.vpn, one), Seen::distinct(&seen.uplink, one));
            let expected = if in_tunnel { (flow.sent, 0) } else { (0, flow.sent) };
            assert!(flow.sent >= 100);
            assert_eq!((vpn, uplink), expected, "{flow:?}");
            assert_eq!(Seen::distinct(&seen.internet, one), flow.sent, "{flow:?}");
        }
    }
    Ok(())
}

#[test]
fn the_real_tunnel_hides_what_it_carries_and_comes_back() -> Res<()> {
    let mut lab = Lab::new(Tunnel::WireGuard)?;
    for _ in 0..2 {
        let watch = lab.watch()?;
        let sent = send(&lab.client, None, Flow::all_kinds(&internet()), 50, 250)?;
        let seen = watch.finish()?;
        let tally = seen.tally(&sent);
        assert_eq!((tally.tunnel, tally.leaked), (tally.sent, 0));
        assert!(seen.uplink.len() >= tally.sent as usize, "the encrypted packets are there");
        lab.tunnel_delete()?;
        lab.tunnel_up()?;
        lab.ready()?;
    }
    Ok(())
}

#[test]
fn an_established_stream_is_seen_at_both_ends() -> Res<()> {
    let lab = Lab::new(Tunnel::Veth)?;
    let watch = lab.watch()?;
    let flows = internet().map(|ip| Flow::new(Kind::Stream, (ip, 443))).to_vec();
    let flood = Flood::start(&lab.client, None, flows, 200);
    flood.more(50)?;
    let sent = flood.stop()?;
    let tally = watch.finish()?.tally(&sent);
    assert_eq!((tally.tunnel, tally.leaked), (tally.sent, 0));
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Res<()> {
    let (path, child) = {
        let ns = Ns::new("short-lived")?;
        let _daemon = ns.spawn("sleep", &["60"], &[])?;
        let pids = ns.sh("for p in /proc/[0-9]*; do echo $p $(readlink $p/ns/net); done")?;
        let own = ns.sh("readlink /proc/self/ns/net")?;
        let line = pids.lines().find(|l| {
            let comm = l.split(' ').next().map(|p| std::fs::read_to_string(format!("{p}/comm")));
            l.ends_with(own.trim()) && comm.is_some_and(|c| c.is_ok_and(|c| c.trim() == "sleep"))
        });
        let process = line.and_then(|l| l.split(' ').next()).ok_or("no sleep")?;
        (ns.path(), process.to_owned())
    };
    assert!(!std::fs::exists(&child)?, "{child} lives");
    let still = std::fs::read_link(&path).ok().filter(|l| l.to_string_lossy().starts_with("net:"));
    assert_eq!(still, None, "the namespace is still open");
    Ok(())
}

#[test]
fn a_capture_outlives_its_device_going_down() -> Res<()> {
    // A device that comes and goes must not end or confuse a capture.
    let (a, b) = (Ns::new("a")?, Ns::new("b")?);
    connect(&a, "x", &b, "y")?;
    let capture = Capture::start(&b, "y")?;
    b.ip("link set y down\nlink set y up\n")?;
    a.ip("addr add 192.0.2.1/24 dev x\nneigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev x\n")?;
    let flows = vec![Flow::new(Kind::Udp, ([192, 0, 2, 2], 9))];
    let sent = send(&a, None, flows, 20, 500)?;
    assert_eq!(Seen::distinct(&capture.finish()?, &sent), sent[0].sent);
    Ok(())
}

#[test]
fn frames_are_read_as_they_are() {
    let mark = Mark { flow: 0xbeef, seq: 77 };
    assert_eq!(Mark::find(format!("..{}..", mark.text().to_uppercase()).as_bytes()), Some(mark));
    assert_eq!(Mark::find(b"vksl0001zzzzzzzz"), None);
    // A router solicitation behind a hop-by-hop header.
    let mut v6 = vec![0x60, 0, 0, 0, 0, 16, 0, 255];
    v6.extend([0xfe; 32]);
    v6.extend([58, 0, 0, 0, 0, 0, 0, 0, 133, 0, 0, 0, 0, 0, 0, 0]);
    let packet = Packet::parse(&v6, false, 0x86dd, false);
    assert_eq!(packet.icmp(), Some((133, 0)));
    assert!(packet.is_housekeeping());
    // Cut anywhere, it is an unknown packet, and unknown is not allowed.
    for cut in 0..50 {
        let packet = Packet::parse(&v6[..cut], false, 0x86dd, false);
        assert!(!packet.is_housekeeping() || cut > 49, "{cut}: {packet}");
    }
}
