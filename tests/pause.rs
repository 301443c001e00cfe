//! Pauses, with real packets: who is let out, for how long, and that the kernel alone ends it.
//!
//! The tunnel is down throughout, so a packet on the uplink is one that a pause let out.

#![allow(clippy::indexing_slicing, reason = "test code: a wrong index is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "counts of a few thousand packets")]

mod lab;

use lab::ns::Ns;
use lab::product::{Product, configuration};
use lab::topology::{Lab, Tunnel, client, internet};
use lab::traffic::{Flood, Flow, Sent, send};
use lab::watch::Seen;
use lab::{Res, wait_for};
use serde_json::Value;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const SETS: [&str; 3] = ["paused_devices", "paused4", "paused6"];

/// What closes the router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layers {
    Both,
    /// Without the routing rules.
    First,
}

/// A router whose tunnel is down.
struct Scene {
    lab: Lab,
    product: Product,
}

/// An element of a pause set.
#[derive(Debug, PartialEq, Eq)]
struct Element {
    what: String,
    timeout: u64,
    expires: u64,
}

impl Scene {
    fn new(layers: Layers) -> Res<Self> {
        let lab = Lab::new(Tunnel::Veth)?;
        let product = Product::new(env!("CARGO_BIN_EXE_vpn-killswitch"), &lab.router)?;
        product.configure(&configuration("strict", ""))?;
        product.ok(&["apply"])?;
        lab.tunnel_down()?;
        if layers == Layers::First {
            for family in ["-4", "-6"] {
                let before = lab.router.sh(&format!("ip {family} rule"))?.lines().count();
                lab.router.sh(&format!("ip {family} rule flush protocol 107"))?;
                let after = lab.router.sh(&format!("ip {family} rule"))?.lines().count();
                assert!(after < before, "{family}: there were no rules of the second layer");
            }
        }
        lab.forget_connections()?;
        Ok(Self { lab, product })
    }

    /// Sends from everybody and tells of each packet whether it left by the uplink: for each sender,
    /// the flows of IPv4 and those of IPv6.
    fn let_out(&self) -> Res<[[Share; 2]; 3]> {
        let watch = self.lab.watch()?;
        let mut sent = Vec::new();
        for from in [&self.lab.client, &self.lab.guest, &self.lab.iot] {
            // All share the router's address, and a protocol without ports has one connection to a host.
            self.lab.forget_connections()?;
            for to in internet() {
                sent.push(send(from, None, Flow::all_kinds(&[to]), 40, 400)?);
            }
        }
        let seen = watch.finish()?;
        let share = |n: usize| Share::of(&seen, &sent[n]);
        Ok([[share(0), share(1)], [share(2), share(3)], [share(4), share(5)]])
    }

    fn elements(&self) -> Res<Vec<Element>> {
        let mut out = Vec::new();
        for set in SETS {
            let text = self.lab.router.sh(&format!("nft -j list set inet vpn_killswitch {set}"))?;
            let json: Value = serde_json::from_str(&text)?;
            let list = json["nftables"].as_array().ok_or("no list")?;
            let set = list.iter().find_map(|o| o.get("set")).ok_or("no set")?;
            for e in set["elem"].as_array().unwrap_or(&Vec::new()) {
                let e = &e["elem"];
                out.push(Element {
                    what: e["val"].as_str().ok_or("no value")?.to_owned(),
                    timeout: e["timeout"].as_u64().ok_or("an element without an end")?,
                    expires: e["expires"].as_u64().ok_or("an element without an end")?,
                });
            }
        }
        Ok(out)
    }

    /// The only element.
    fn element(&self) -> Res<Element> {
        let mut all = self.elements()?;
        assert_eq!(all.len(), 1, "{all:?}");
        all.pop().ok_or_else(|| "none".into())
    }

    /// Exit code and all that was said.
    fn run(&self, args: &[&str]) -> Res<(i32, String)> {
        let out = self.product.run(args)?;
        let text = [out.stdout, out.stderr].concat();
        Ok((out.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
    }
}

/// How much of some flows left by the uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Share {
    None,
    All,
    Some,
}

impl Share {
    fn of(seen: &Seen, sent: &[Sent]) -> Self {
        let count: Vec<(u32, u32)> = sent
            .iter()
            .map(|s| (Seen::distinct(&seen.uplink, std::slice::from_ref(s)), s.sent))
            .collect();
        assert!(count.iter().all(|(_, sent)| *sent >= 40));
        if count.iter().all(|(left, _)| *left == 0) {
            Self::None
        } else if count.iter().all(|(left, sent)| left == sent) {
            Self::All
        } else {
            Self::Some
        }
    }
}

const CLOSED: [Share; 2] = [Share::None, Share::None];
const OPEN: [Share; 2] = [Share::All, Share::All];

fn only_the_paused_client(layers: Layers) -> Res<()> {
    let scene = Scene::new(layers)?;
    let [v4, v6] = client().map(|a: IpAddr| a.to_string());
    assert_eq!(scene.let_out()?, [CLOSED; 3], "before");

    let said = scene.product.ok(&["pause", "10m", "--client", &v4])?;
    assert_eq!(said, format!("Open for {v4} until the kernel closes it in 600 s.\n"));
    assert_eq!(scene.let_out()?, [[Share::All, Share::None], CLOSED, CLOSED], "IPv4");

    scene.product.ok(&["pause", "10m", "--client", &v6])?;
    assert_eq!(scene.let_out()?, [OPEN, CLOSED, CLOSED], "IPv4 and IPv6");

    let said = scene.product.ok(&["resume", "--client", &v4])?;
    assert_eq!(said, format!("Closed again for {v4}.\nStill open for {v6}.\n"));
    assert_eq!(scene.let_out()?, [[Share::None, Share::All], CLOSED, CLOSED], "IPv6");

    let said = scene.product.ok(&["resume", "--client", &v4])?;
    assert_eq!(said, format!("{v4} was not paused.\nStill open for {v6}.\n"));
    assert_eq!(scene.product.ok(&["resume"])?, format!("Closed again for {v6}.\n"));
    assert_eq!(scene.let_out()?, [CLOSED; 3], "after");
    assert_eq!(scene.product.ok(&["resume"])?, "Nothing was paused.\n");
    Ok(())
}

#[test]
fn only_the_paused_client_is_let_out() -> Res<()> {
    only_the_paused_client(Layers::Both)
}

#[test]
fn only_the_paused_client_is_let_out_by_the_first_layer() -> Res<()> {
    only_the_paused_client(Layers::First)
}

fn all_local_networks(layers: Layers) -> Res<()> {
    let scene = Scene::new(layers)?;
    let said = scene.product.ok(&["pause", "2h"])?;
    assert_eq!(said, "Open for br-guest br-lan until the kernel closes it in 7200 s.\n");
    // The third network is nobody's.
    assert_eq!(scene.let_out()?, [OPEN, OPEN, CLOSED], "paused");
    assert_eq!(scene.product.ok(&["resume"])?, "Closed again for br-guest br-lan.\n");
    assert_eq!(scene.let_out()?, [CLOSED; 3], "after");
    Ok(())
}

#[test]
fn a_pause_of_all_opens_the_local_networks_and_no_other() -> Res<()> {
    all_local_networks(Layers::Both)
}

#[test]
fn a_pause_of_all_opens_the_local_networks_and_no_other_in_the_first_layer() -> Res<()> {
    all_local_networks(Layers::First)
}

/// No process of ours runs while the time passes: the command has ended, and there is no other.
fn the_kernel_ends_it(layers: Layers, who: &[&str]) -> Res<()> {
    const TIME: Duration = Duration::from_secs(3);
    let scene = Scene::new(layers)?;
    let v4 = [internet()[0]];
    let watch = scene.lab.watch()?;
    let flood = Flood::start(&scene.lab.client, None, Flow::all_kinds(&v4), 400);
    flood.more(40)?;
    let mark = flood.now();
    let begun = Instant::now();
    scene.product.ok(&[&["pause", "3s"], who].concat())?;
    let told = Instant::now();
    // When each packet was sent, to tell when the last one passed.
    let mut times = vec![(Instant::now(), flood.now())];
    wait_for("the flood after the end", 20.0, || {
        times.push((Instant::now(), flood.now()));
        begun.elapsed() > TIME + Duration::from_millis(1500)
    })?;
    assert_eq!(scene.elements()?, []);
    let sent = flood.stop()?;
    let seen = watch.finish()?;
    for s in &sent {
        let passed = |p: &&lab::packet::Packet| {
            p.mark.is_some_and(|m| m.flow == s.flow.id) && !p.is_icmp_error()
        };
        let numbers = seen.uplink.iter().filter(passed).filter_map(|p| p.mark).map(|m| m.seq);
        let (first, last) = (numbers.clone().min(), numbers.max());
        let (Some(first), Some(last)) = (first, last) else {
            return Err(format!("{:?}: nothing was let out", s.flow).into());
        };
        assert!(first + 1 >= mark, "{:?}: number {first} left before the pause", s.flow);
        // Sent after the first time, before the second one.
        let since = times.iter().rev().find(|(_, n)| *n <= last).map(|(t, _)| *t);
        let until = times.iter().find(|(_, n)| *n > last).map(|(t, _)| *t);
        let (Some(since), Some(until)) = (since, until) else {
            return Err(format!("{:?}: open until the very end", s.flow).into());
        };
        let second = Duration::from_secs(1);
        let late = since.saturating_duration_since(told + TIME);
        let early = (begun + TIME).saturating_duration_since(until);
        println!("{:?}: {} ms early, {} ms late", s.flow.kind, early.as_millis(), late.as_millis());
        assert!(late < second && early < second, "{:?}: {early:?}, {late:?}", s.flow);
    }
    assert_eq!(scene.let_out()?, [CLOSED; 3], "after");
    assert_eq!(scene.product.ok(&["resume"])?, "Nothing was paused.\n");
    Ok(())
}

#[test]
fn the_kernel_ends_the_pause_of_a_client_by_itself() -> Res<()> {
    the_kernel_ends_it(Layers::Both, &["--client", &client()[0].to_string()])
}

#[test]
fn the_kernel_ends_the_pause_of_a_client_by_itself_in_the_first_layer() -> Res<()> {
    the_kernel_ends_it(Layers::First, &["--client", &client()[0].to_string()])
}

#[test]
fn the_kernel_ends_the_pause_of_all_by_itself() -> Res<()> {
    the_kernel_ends_it(Layers::Both, &[])
}

/// A flow that was translated and is established is refused like any other.
fn resume_stops_flows(layers: Layers, command: &[&str]) -> Res<()> {
    let scene = Scene::new(layers)?;
    let watch = scene.lab.watch()?;
    let flood = Flood::start(&scene.lab.client, None, Flow::all_kinds(&internet()), 400);
    flood.more(20)?;
    scene.product.ok(&["pause", "1h"])?;
    let open = flood.now();
    flood.more(80)?;
    let known = scene.lab.router.sh("conntrack -L -p udp 2>/dev/null")?;
    assert!(known.contains("dst=100.64.7.2"), "no flow is translated: {known}");
    scene.product.ok(command)?;
    let closed = flood.now();
    flood.more(120)?;
    let sent = flood.stop()?;
    let seen = watch.finish()?;
    for s in &sent {
        let numbers = seen.uplink.iter().filter(|p| !p.is_icmp_error()).filter_map(|p| p.mark);
        let numbers: Vec<u32> = numbers.filter(|m| m.flow == s.flow.id).map(|m| m.seq).collect();
        // One packet may have been on its way while its number was asked for.
        let passed = numbers.iter().filter(|n| (open + 1..=closed).contains(n)).count();
        assert!(passed >= 60, "{:?}: only {passed} passed", s.flow);
        let late = numbers.iter().filter(|n| **n > closed).count();
        assert_eq!(late, 0, "{:?}: left after '{}'", s.flow, command.join(" "));
    }
    Ok(())
}

#[test]
fn resume_stops_running_flows() -> Res<()> {
    resume_stops_flows(Layers::Both, &["resume"])
}

#[test]
fn resume_stops_running_flows_in_the_first_layer() -> Res<()> {
    resume_stops_flows(Layers::First, &["resume"])
}

#[test]
fn pausing_again_replaces_the_time() -> Res<()> {
    let scene = Scene::new(Layers::Both)?;
    let [v4, v6] = client().map(|a: IpAddr| a.to_string());
    for who in [&v4, &v6] {
        for (text, seconds) in [("10m", 600), ("30s", 30), ("2h", 7200), ("2h", 7200)] {
            scene.product.ok(&["pause", text, "--client", who])?;
            let element = scene.element()?;
            assert_eq!((&element.what, element.timeout), (who, seconds));
            assert!((seconds - 10..=seconds).contains(&element.expires), "{element:?}");
        }
        // Shorter: it ends as was said last, not as was said first.
        scene.product.ok(&["pause", "1s", "--client", who])?;
        let gone = || scene.elements().is_ok_and(|all| all.is_empty());
        wait_for("the end of the shorter pause", 5.0, gone)?;
    }
    // Longer: it outlives its first time.
    scene.product.ok(&["pause", "3s"])?;
    scene.product.ok(&["pause", "10m"])?;
    let left = || scene.elements().map(|all| all.iter().map(|e| e.expires).collect::<Vec<_>>());
    let passed = || left().is_ok_and(|left| left.len() == 2 && left.iter().all(|s| *s < 596));
    wait_for("four seconds of the longer pause", 15.0, passed)?;
    assert!(scene.elements()?.iter().all(|e| e.timeout == 600));
    Ok(())
}

#[test]
fn an_apply_keeps_pauses_and_their_end() -> Res<()> {
    let scene = Scene::new(Layers::Both)?;
    let v4 = client()[0].to_string();
    scene.product.ok(&["pause", "10m", "--client", &v4])?;
    let before = || scene.element().is_ok_and(|e| e.expires < 599);
    wait_for("a second of the pause", 10.0, before)?;
    let before = scene.element()?;
    for more in ["\toption reject '0'\n", "\tlist local_device 'br-iot'\n", ""] {
        scene.product.configure(&configuration("strict", more))?;
        scene.product.ok(&["apply"])?;
        let after = scene.element()?;
        assert_eq!((&after.what, after.timeout), (&v4, 600));
        assert!(after.expires <= before.expires, "the apply has set the time anew");
    }
    assert_eq!(scene.let_out()?, [[Share::All, Share::None], CLOSED, CLOSED]);
    // Switching off and on again leaves no pause behind.
    scene.product.ok(&["disable"])?;
    scene.product.ok(&["enable"])?;
    assert_eq!(scene.elements()?, []);
    Ok(())
}

#[test]
fn status_tells_of_pauses() -> Res<()> {
    let scene = Scene::new(Layers::Both)?;
    let v6 = client()[1].to_string();
    scene.product.ok(&["pause", "10m"])?;
    scene.product.ok(&["pause", "90s", "--client", &v6])?;
    let (code, text) = scene.run(&["status"])?;
    assert_eq!(code, 5, "{text}");
    assert!(text.starts_with("PAUSED: open for a while.\n"), "{text}");
    let (code, text) = scene.run(&["status", "--json"])?;
    assert_eq!(code, 5);
    let status: Value = serde_json::from_str(&text)?;
    assert_eq!(status["posture"], "paused");
    let pauses = status["pauses"].as_array().ok_or("no pauses")?;
    for (what, most) in [("br-lan", 600), ("br-guest", 600), (v6.as_str(), 90)] {
        let pause = pauses.iter().find(|p| p["what"] == what).ok_or("not told")?;
        let left = pause["seconds_left"].as_u64().ok_or("no number")?;
        assert!((most - 20..=most).contains(&left), "{pause}");
    }
    assert_eq!(pauses.len(), 3);
    scene.product.ok(&["resume"])?;
    assert_eq!(scene.run(&["status"])?.0, 4);
    Ok(())
}

#[test]
fn what_is_asked_for_wrongly_opens_nothing() -> Res<()> {
    let scene = Scene::new(Layers::Both)?;
    let stranger = internet()[0].to_string();
    for (args, says) in [
        (&["pause"][..], "needs a duration"),
        (&["pause", "10"], "write 90s, 10m or 2h"),
        (&["pause", "0s"], "from 1s to 24h"),
        (&["pause", "25h"], "from 1s to 24h"),
        (&["pause", "10m", "20m"], "unexpected argument"),
        (&["pause", "10m", "--client"], "missing argument"),
        (&["pause", "10m", "--client", "192.168.1.0/24"], "one client's"),
        (&["pause", "10m", "--client", "224.0.0.1"], "a group's"),
        (&["pause", "10m", "--client", "192.168.1.1"], "an address of the router itself"),
        (&["pause", "10m", "--client", "192.168.1.255"], "an address of the router itself"),
        (&["pause", "10m", "--client", "2001:db8:1:1::1"], "an address of the router itself"),
        (&["pause", "10m", "--client", &stranger], "leads over wan0"),
        (&["pause", "10m", "--client", "2001:db8:80::80"], "leads over wan0"),
        (&["pause", "10m", "--client", "192.168.3.2"], "leads over br-iot"),
        (&["resume", "10m"], "unexpected argument"),
        (&["resume", "--client", "br-lan"], "one client's"),
        (&["apply", "--client", "192.168.1.2"], "invalid option"),
    ] {
        let (code, text) = scene.run(args)?;
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
        assert_eq!(scene.elements()?, [], "{args:?}");
    }
    for time in ["1s", "24h", "1440m", "86400s"] {
        assert_eq!(scene.run(&["pause", time, "--client", "192.168.1.77"])?.0, 0, "{time}");
    }
    Ok(())
}

/// A pause needs rules that judge all that it does not open.
#[test]
fn without_the_rules_in_force_a_pause_is_refused() -> Res<()> {
    let scene = Scene::new(Layers::Both)?;
    let router: &Ns = &scene.lab.router;
    let refused = |why: &str, expected: i32, says: &str| -> Res<()> {
        for args in [&["pause", "10m"][..], &["pause", "10m", "--client", "192.168.1.2"]] {
            let (code, text) = scene.run(args)?;
            assert_eq!(code, expected, "{why}: {text}");
            assert!(text.contains(says), "{why}: {text}");
            // One line that a person reads, however much is missing.
            assert!(expected != 1 || (text.lines().count() == 1 && text.len() < 300), "{text}");
        }
        Ok(())
    };
    let good = configuration("strict", "");

    router.nft("add rule inet vpn_killswitch forward accept")?;
    refused("a foreign rule", 1, "run 'vpn-killswitch apply'")?;
    assert_eq!(scene.elements()?, []);
    router.nft("flush ruleset")?;
    refused("no table", 1, "run 'vpn-killswitch apply'")?;
    assert!(!router.sh("nft list tables")?.contains("vpn_killswitch"));
    scene.product.ok(&["apply"])?;

    scene.product.configure(&good.replace("option router 'strict'", "option rooter 'strict'"))?;
    refused("errors in the configuration", 2, "rooter")?;
    scene.product.configure(&configuration("open", ""))?;
    refused("a configuration that was not applied", 1, "run 'vpn-killswitch apply'")?;
    scene.product.configure(&good.replace("'br-", "'no-"))?;
    scene.product.ok(&["apply"])?;
    refused_without_network(&scene)?;
    assert_eq!(scene.elements()?, []);

    scene.product.configure(&good.replace("enabled '1'", "enabled '0'"))?;
    refused("switched off, not applied", 2, "switched off")?;
    assert_eq!(scene.elements()?, []);
    scene.product.ok(&["disable"])?;
    refused("disabled", 2, "switched off")?;
    assert!(!router.sh("nft list tables")?.contains("vpn_killswitch"));
    assert_eq!(scene.run(&["resume"])?, (0, "Nothing was paused.\n".to_owned()));
    Ok(())
}

fn refused_without_network(scene: &Scene) -> Res<()> {
    let (code, text) = scene.run(&["pause", "10m"])?;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("none of the local networks exists"), "{text}");
    Ok(())
}

/// A pause says where packets may go, not where they do: the routing table prefers the tunnel.
#[test]
fn while_the_tunnel_is_up_paused_clients_use_it() -> Res<()> {
    let mut scene = Scene::new(Layers::Both)?;
    scene.product.ok(&["pause", "10m"])?;
    scene.lab.tunnel_up()?;
    scene.lab.ready()?;
    assert_eq!(scene.let_out()?, [CLOSED; 3]);
    Ok(())
}

/// How many connections to the internet the router knows of this client.
fn connections(scene: &Scene, who: IpAddr) -> Res<usize> {
    let list =
        |family| scene.lab.router.sh(&format!("conntrack -L -f {family} -s {who} 2>/dev/null"));
    let text = list(if who.is_ipv4() { "ipv4" } else { "ipv6" })?;
    Ok(text
        .lines()
        .filter(|l| internet().iter().any(|ip| l.contains(&format!("dst={ip} "))))
        .count())
}

/// Opens for the client of the LAN for two seconds, lets it send, and waits until that is over.
fn a_pause_that_ended(scene: &Scene) -> Res<()> {
    let who = client();
    for ip in who {
        scene.product.ok(&["pause", "2s", "--client", &ip.to_string()])?;
    }
    send(&scene.lab.client, None, Flow::all_kinds(&internet()), 10, 400)?;
    for ip in who {
        assert!(connections(scene, ip)? > 0, "nothing was let out of {ip}");
    }
    let all = || {
        scene.elements().map(|all| all.iter().any(|e| who.iter().any(|w| e.what == w.to_string())))
    };
    wait_for("the end of the pause", 5.0, || all().is_ok_and(|runs| !runs))
}

/// The connections that a pause let out go with the next process of ours, whatever it is started for.
#[test]
fn what_a_pause_let_out_is_cut_by_the_next_apply_or_guard() -> Res<()> {
    let scene = Scene::new(Layers::Both)?;
    let left = || -> Res<usize> { client().into_iter().map(|ip| connections(&scene, ip)).sum() };
    a_pause_that_ended(&scene)?;
    assert!(left()? > 0, "without a process of ours nobody cuts");
    let said = scene.product.ok(&["apply"])?;
    assert_eq!(said, "Protection is in force.\n");
    assert_eq!(left()?, 0);
    let said = scene.product.ok(&["apply"])?;
    assert_eq!(said, "Protection is in force; nothing had to be changed.\n");

    a_pause_that_ended(&scene)?;
    assert!(left()? > 0);
    let guard = scene.product.spawn(&["guard"])?;
    wait_for("the guard", 5.0, || left().is_ok_and(|n| n == 0))?;
    drop(guard);
    Ok(())
}

/// A guard is there when the pause ends; another pause goes on.
#[test]
fn the_guard_cuts_what_a_pause_let_out_when_it_ends() -> Res<()> {
    let scene = Scene::new(Layers::Both)?;
    let guest: IpAddr = [192, 168, 2, 2].into();
    let guard = scene.product.spawn(&["guard"])?;
    wait_for("the guard", 5.0, || !guard.said().is_empty())?;
    scene.product.ok(&["pause", "1h", "--client", &guest.to_string()])?;
    send(&scene.lab.guest, None, Flow::all_kinds(&internet()[..1]), 10, 400)?;
    let others = connections(&scene, guest)?;
    assert!(others > 0, "the other client is not let out");
    for _ in 0..3 {
        a_pause_that_ended(&scene)?;
        let ended = Instant::now();
        for ip in client() {
            wait_for("the cut", 1.0, || connections(&scene, ip).is_ok_and(|n| n == 0))?;
        }
        println!("cut {} ms after the end at most", ended.elapsed().as_millis());
        assert_eq!(connections(&scene, guest)?, others, "the other client's were cut");
    }
    Ok(())
}

/// The kernel takes elements away between our look at them and our change: that is no failure.
#[test]
fn pauses_that_end_meanwhile_are_no_failure() -> Res<()> {
    let scene = Scene::new(Layers::Both)?;
    for _ in 0..40 {
        // From 2 ms on eight end every millisecond, so some do while the command works.
        let ends =
            (0..3000).map(|n| format!("10.7.{}.{} timeout {}ms", n / 200, n % 200, 2 + n / 8));
        let ends = ends.collect::<Vec<_>>().join(", ");
        scene.lab.router.nft(&format!("add element inet vpn_killswitch paused4 {{ {ends} }}"))?;
        scene.product.ok(&["resume"])?;
        assert_eq!(scene.elements()?, []);
    }
    Ok(())
}

/// A pause can always be ended, whatever has become of the configuration.
#[test]
fn resume_needs_no_configuration() -> Res<()> {
    let scene = Scene::new(Layers::Both)?;
    scene.product.ok(&["pause", "10m", "--client", "192.168.1.2"])?;
    scene.product.configure("nonsense")?;
    assert_eq!(scene.product.ok(&["resume"])?, "Closed again for 192.168.1.2.\n");
    assert_eq!(scene.elements()?, []);
    Ok(())
}
