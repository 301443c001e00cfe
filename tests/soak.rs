//! A long soak: random events under continuous traffic, and captures on every uplink.
//!
//! Nothing may leak, whatever happens in whatever order; and whenever it is quiet, what must pass
//! passes. The seed is printed; `SOAK_SEED` repeats a run's events, `SOAK_SECONDS` says how long.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "test code")]
#![allow(clippy::cast_possible_truncation, reason = "counts of a few thousand packets")]

mod lab;
#[allow(dead_code, reason = "the trials of tests/life.rs")]
#[path = "life/stage.rs"]
mod stage;

use lab::harness::{Test, main as run};
use lab::ns::{Daemon, Ns};
use lab::product::configuration;
use lab::topology::{Tunnel, connect, internet};
use lab::traffic::{Flood, Flow};
use lab::{Res, wait_for};
use stage::{Management, RATE, Stage};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long, unless `SOAK_SECONDS` says so.
const SECONDS: u64 = 20;
/// The guest, and how long it is let out at a time.
const GUEST: [&str; 2] = ["192.168.2.2", "2001:db8:1:2::2"];
const PAUSE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(20);
/// Events under one flood. Then it is quiet for a moment.
const EVENTS: usize = 12;

fn main() -> ExitCode {
    run(&[Test { name: "soak", run: soak }])
}

fn parameter(name: &str) -> Res<Option<u64>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text.parse().map_err(|e| format!("{name}: {e}"))?)),
        Err(_) => Ok(None),
    }
}

/// Random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// The router with what happens to it.
struct World {
    stage: Stage,
    guard: Option<Daemon>,
    /// What the first uplink is called now.
    uplink: &'static str,
    /// Where the second uplink's cable is while it is not plugged in.
    parking: Ns,
    /// What the client and the guest send, while they do.
    floods: Vec<Flood>,
    /// Numbers of the guest's packets that a pause may let out.
    let_out: Vec<RangeInclusive<u32>>,
    random: Random,
}

type Event = (&'static str, fn(&mut World) -> Res<()>);

/// Neither of the two that open on purpose is among them: `disable`, and a configuration that says off.
const ALL: &[Event] = &[
    ("tunnel flaps", |w| {
        w.stage.lab.tunnel_down()?;
        w.stage.lab.tunnel_up()
    }),
    ("tunnel goes down", |w| {
        if w.stage.lab.router.has_device("wg0") { w.stage.lab.tunnel_down() } else { Ok(()) }
    }),
    ("tunnel comes up", |w| w.stage.lab.tunnel_up()),
    ("tunnel recreated", |w| {
        w.stage.lab.tunnel_delete()?;
        w.stage.lab.tunnel_up()
    }),
    ("apply", |w| w.apply()),
    ("ten applies at once", |w| {
        let start =
            |_| w.stage.product.command(&["apply"]).stdout(std::process::Stdio::null()).spawn();
        let mut hooks = (0..10).map(start).collect::<Result<Vec<_>, _>>()?;
        for hook in &mut hooks {
            if !hook.wait()?.success() {
                return Err("one of ten applies failed".into());
            }
        }
        Ok(())
    }),
    ("firewall reloaded", |w| w.stage.load_firewall()),
    ("firewall stopped", |w| w.stage.delete_tables()),
    ("firewall restarted", |w| {
        w.stage.delete_tables()?;
        w.stage.load_firewall()
    }),
    ("ruleset flushed", |w| w.stage.lab.router.nft("flush ruleset\n")),
    ("guard killed", |w| {
        w.guard = None;
        Ok(())
    }),
    ("guard killed and started again", |w| {
        w.guard = None;
        w.guard = Some(w.stage.guard()?);
        Ok(())
    }),
    ("second uplink plugged in or out", World::second_uplink),
    ("uplink renamed", World::rename),
    ("routes injected", |w| {
        let device = w.uplink;
        w.stage.lab.router.ip(&format!(
            "route replace 192.0.2.0/24 via 100.64.7.1 dev {device}\n\
             route replace 2001:db8:80::/48 via 2001:db8:64::1 dev {device}\n"
        ))
    }),
    ("configuration changed", |w| {
        let (mode, more) = [
            ("strict", ""),
            ("dns", ""),
            ("open", ""),
            ("strict", "\toption reject '0'\n"),
            ("strict", "\tlist local_device 'br-iot'\n"),
            ("strict", "\toption port_forward_replies '1'\n"),
        ][w.random.below(6)];
        w.stage.product.configure(&configuration(mode, more))?;
        w.apply()
    }),
    ("guest paused", World::pause),
    ("configuration broken", |w| {
        w.stage.product.configure("config killswitch 'main'\n\toption enabled '1\n")?;
        match w.stage.product.run(&["apply"])?.status.code() {
            Some(2) => w.stage.product.configure(&configuration("strict", "")),
            other => Err(format!("a broken configuration: {other:?}").into()),
        }
    }),
];

impl World {
    fn apply(&mut self) -> Res<()> {
        self.stage.apply()
    }

    /// The guest may send outside for a second, whatever happens in it; nobody else may.
    fn pause(&mut self) -> Res<()> {
        // After a flush there are no rules that a pause could stand on.
        self.apply()?;
        let [.., guest] = &self.floods[..] else { return Err("nobody sends".into()) };
        let from = guest.now();
        for ip in GUEST {
            self.stage.product.ok(&["pause", "1s", "--client", ip])?;
        }
        let told = Instant::now();
        match self.random.below(4) {
            0 => self.apply()?,
            1 => self.stage.lab.router.nft("flush ruleset\n")?,
            2 => self.guard = None,
            _ => {}
        }
        // The kernel ends it with a tick of its clock.
        std::thread::sleep((PAUSE + TICK).saturating_sub(told.elapsed()));
        // A packet is counted behind its sending.
        let [.., guest] = &self.floods[..] else { return Err("nobody sends".into()) };
        self.let_out.push(from..=guest.now() + 1);
        Ok(())
    }

    fn second_uplink(&mut self) -> Res<()> {
        let router = &self.stage.lab.router;
        if router.has_device("usb0") {
            return router.ip(&format!("link set usb0 netns {}\n", self.parking.path()));
        }
        self.parking.ip(&format!("link set usb0 netns {}\n", router.path()))?;
        router.eager("usb0")?;
        router.ip("link set usb0 up\n")?;
        router.wait_up("usb0")?;
        router.ip("addr replace 100.64.8.2/24 dev usb0\n\
                   addr replace 2001:db8:65::2/64 dev usb0 nodad\n\
                   route replace default via 100.64.8.1 dev usb0 metric 1\n\
                   route replace default via 2001:db8:65::1 dev usb0 metric 1\n")
    }

    fn rename(&mut self) -> Res<()> {
        let (old, new) = (self.uplink, if self.uplink == "wan0" { "pppoe-wan" } else { "wan0" });
        let lab = &self.stage.lab;
        lab.router
            .ip(&format!("link set {old} down\nlink set {old} name {new}\nlink set {new} up\n"))?;
        self.uplink = new;
        lab.router.wait_up(new)?;
        lab.router.eager(new)?;
        lab.uplink_up(new)
    }

    /// Back to where everything works.
    fn calm(&mut self) -> Res<()> {
        let lab = &mut self.stage.lab;
        if lab.router.has_device("usb0") {
            lab.router.ip(&format!("link set usb0 netns {}\n", self.parking.path()))?;
        }
        // A route that leads beside the tunnel rightly stops what it catches.
        drop(lab.router.sh("ip route del 192.0.2.0/24"));
        drop(lab.router.sh("ip -6 route del 2001:db8:80::/48"));
        lab.tunnel_up()?;
        self.stage.load_firewall()?;
        self.stage.apply()?;
        self.stage.lab.ready()?;
        // A guard at work and this apply may have met.
        let stage = &self.stage;
        wait_for("everything right", 5.0, || stage.verify().is_ok())
    }
}

fn soak() -> Res<String> {
    let length = Duration::from_secs(parameter("SOAK_SECONDS")?.unwrap_or(SECONDS));
    let seed = match parameter("SOAK_SEED")? {
        Some(seed) => seed,
        None => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .subsec_nanos()
            .into(),
    };
    println!("SOAK_SEED={seed}, {} s", length.as_secs());
    let stage = Stage::open(Tunnel::Veth)?;
    let parking = Ns::new("parking")?;
    connect(&parking, "usb0", &stage.lab.provider, "isp1")?;
    stage.lab.provider.ip("addr add 100.64.8.1/24 dev isp1\n\
                           addr add 2001:db8:65::1/64 dev isp1 nodad\n")?;
    let mut w = World {
        stage,
        guard: None,
        uplink: "wan0",
        parking,
        floods: Vec::new(),
        let_out: Vec::new(),
        random: Random(seed),
    };
    w.apply()?;
    let (began, mut counts, mut total) = (Instant::now(), BTreeMap::new(), Total::default());
    while began.elapsed() < length {
        round(&mut w, &mut counts, &mut total)
            .map_err(|e| format!("SOAK_SEED={seed}, round {}: {e}", total.rounds))?;
    }
    // The negative control: the same flood, and nobody who refuses it.
    w.guard = None;
    w.stage.product.configure(&configuration("strict", ""))?;
    w.stage.product.ok(&["disable"])?;
    w.stage.lab.tunnel_down()?;
    let control = leaks(&mut w, |_| Ok(()))?.leaked.len();
    if control == 0 {
        return Err("the control did not leak: nothing was tested".into());
    }
    if total.let_out == 0 && counts.get("guest paused").is_some_and(|n| *n >= 20) {
        return Err("no pause let anything out".into());
    }
    let events: usize = counts.values().sum();
    let mut text = format!(
        "{} rounds, {events} events, {} packets sent under them, 0 leaked; {} let out by pauses; {} in \
         quiet, all delivered; LAN → router: {} answers, the slowest {:.0} ms; control: {control} leaked",
        total.rounds,
        total.sent,
        total.let_out,
        total.quiet,
        total.answers,
        total.slowest.as_secs_f64() * 1e3
    );
    for (name, count) in counts {
        text += &format!("\n    {count:5} {name}");
    }
    Ok(text)
}

#[derive(Default)]
struct Total {
    rounds: u32,
    sent: u32,
    let_out: u32,
    quiet: u32,
    answers: u32,
    slowest: Duration,
}

/// Some events under a flood, judged; then quiet.
fn round(w: &mut World, counts: &mut BTreeMap<&'static str, usize>, total: &mut Total) -> Res<()> {
    let mut story = Vec::new();
    // In half of the rounds there is a guard to begin with.
    if w.guard.is_none() && w.random.below(2) == 0 {
        w.guard = Some(w.stage.guard()?);
        story.push("with a guard");
    }
    let management = Management::start(&w.stage.lab);
    let Found { sent, let_out, leaked } = leaks(w, |w| {
        for _ in 0..EVENTS {
            let (name, event) = ALL[w.random.below(ALL.len())];
            // A tunnel that is not there can neither flap nor be deleted.
            if !w.stage.lab.router.has_device("wg0") {
                w.stage.lab.tunnel_up()?;
            }
            story.push(name);
            event(w).map_err(|e| format!("{story:?}: {e}"))?;
            *counts.entry(name).or_default() += 1;
            std::thread::sleep(Duration::from_millis(w.random.below(80) as u64));
        }
        Ok(())
    })?;
    let talk = management.finish()?;
    if !leaked.is_empty() {
        let first: Vec<&str> = leaked.iter().take(12).map(String::as_str).collect();
        let first = first.join("\n    ");
        return Err(format!("{} leaked after {story:?}:\n    {first}", leaked.len()).into());
    }
    w.calm().map_err(|e| format!("{story:?}, then calm: {e}"))?;
    let quiet = w.stage.delivered(&w.stage.lab.client);
    total.quiet += quiet.map_err(|e| format!("{story:?}, then quiet: {e}"))?;
    total.rounds += 1;
    total.sent += sent;
    total.let_out += let_out;
    total.answers += talk.answers;
    total.slowest = total.slowest.max(talk.slowest);
    Ok(())
}

/// What two clients sent, and what became of it.
struct Found {
    sent: u32,
    /// Of the guest's, on the uplinks, while it was paused.
    let_out: u32,
    /// On the uplinks, without any right.
    leaked: Vec<String>,
}

/// Lets two clients send while this happens, and judges.
fn leaks(w: &mut World, during: impl FnOnce(&mut World) -> Res<()>) -> Res<Found> {
    let mut watch = w.stage.lab.watch()?;
    watch.also(&w.stage.lab.provider, "isp1")?;
    let sources = [&w.stage.lab.client, &w.stage.lab.guest];
    let flood = |ns: &Ns| Flood::start(ns, None, Flow::all_kinds(&internet()), RATE);
    w.floods = sources.map(flood).into();
    let happened = during(w);
    let mut all = Vec::new();
    for flood in w.floods.drain(..) {
        flood.more(20)?;
        all.push(flood.stop()?);
    }
    let let_out = std::mem::take(&mut w.let_out);
    // A capture ends with a frame of its own, and without a carrier there is none.
    if !w.stage.lab.router.has_device("usb0") {
        w.parking.ip("link set usb0 up\n")?;
        w.parking.wait_up("usb0")?;
    }
    w.stage.lab.provider.wait_up("isp1")?;
    let seen = watch.finish()?;
    happened?;
    let sent = all.iter().flatten().map(|s| s.sent).sum();
    let guest = all.last().map(Vec::as_slice).unwrap_or_default();
    let mut found = Found { sent, let_out: 0, leaked: Vec::new() };
    for p in seen.strays() {
        let allowed = p.mark.is_some_and(|m| {
            guest.iter().any(|s| s.flow.id == m.flow) && let_out.iter().any(|r| r.contains(&m.seq))
        });
        if allowed {
            found.let_out += 1;
        } else {
            found.leaked.push(p.to_string());
        }
    }
    Ok(found)
}
