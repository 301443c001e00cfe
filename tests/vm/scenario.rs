//! The scenario of `make test-vm`, inside a virtual router: boot step, traffic, a tunnel that dies, and
//! everything else that only a router's own kernel can show. Printed as lines that `tests/vm/run` reads.
//!
//! Judges by captures, as the tests do; while protection is on, every stray packet on the uplink is a
//! leak. A step that fails ends it, for the next ones build on it.

#![allow(
    clippy::indexing_slicing,
    reason = "a missing key is null, and a wrong index fails the run"
)]
#![allow(clippy::cast_possible_truncation, reason = "sizes of socket structures")]

#[path = "../lab/mod.rs"]
mod lab;
mod repair;
mod tools;

use lab::capture::Capture;
use lab::ns::{Daemon, Ns};
use lab::packet::Packet;
use lab::peak::Account;
use lab::product::Product;
use lab::topology::{ENDPOINT_PORT, Lab, OPEN_ROUTER, Tunnel, endpoint, internet};
use lab::traffic::{Flood, Flow, Kind, Sent, send};
use lab::watch::{Seen, Watch};
use lab::{Res, wait_for};
use serde_json::Value;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const BINARY: &str = "/usr/sbin/vpn-killswitch";
/// Packets a second of each flow, and of each flow in a step: an emulated router is slow.
const RATE: u32 = 40;
const SOME: u32 = 20;
/// How often the guard repairs.
const REPAIRS: usize = 5;
/// The pause, and how late an emulated router may be with seeing its end.
const PAUSE: Duration = Duration::from_secs(4);
const SLOW: Duration = Duration::from_secs(4);
/// Seconds.
const DAY: i64 = 86_400;
/// The most memory that was resident at once, in the kernel's account of a process.
const PEAK: &str = "VmHWM";
/// Mark of the tunnel's own packets.
const MARK: u32 = 51966;

/// No server is named: it must be found where the kernel's WireGuard has it.
const CONFIGURATION: &str = include_str!("vpn-killswitch");

/// A step's name, and what does it; it returns what it found.
type Step = (&'static str, fn(&mut Story) -> Res<String>);

const STEPS: [Step; 10] = [
    ("open router leaks", open),
    ("boot step closes before the uplink is up", boot),
    ("traffic through the tunnel", traffic),
    ("kernel WireGuard found", wireguard),
    ("tunnel dies under a flood", tunnel_dies),
    ("routing alone holds", routing_alone),
    ("guard repairs", guard),
    ("memory", memory),
    ("the kernel ends a pause", pause),
    ("offloaded flows are cut", offload),
];

fn main() -> ExitCode {
    if let Some(done) = tools::called() {
        return done;
    }
    if let Err(error) = lab::ns::prepare() {
        println!("vm: check prepared: FAILED {error}");
        return ExitCode::FAILURE;
    }
    let mut story = match Story::new() {
        Ok(story) => story,
        Err(error) => {
            println!("vm: check laboratory: FAILED {error}");
            return ExitCode::FAILURE;
        }
    };
    for (name, step) in STEPS {
        match step(&mut story) {
            Ok(found) => println!("vm: check {name}: ok {found}"),
            Err(error) => {
                println!("vm: check {name}: FAILED {}", error.to_string().replace('\n', " | "));
                return ExitCode::FAILURE;
            }
        }
    }
    println!("vm: value leaked {}", story.leaked);
    println!("vm: value steps {}", STEPS.len());
    ExitCode::SUCCESS
}

struct Story {
    lab: Lab,
    product: Product,
    /// Stray packets while protected, of all steps.
    leaked: usize,
}

/// Prints a number of the table.
fn value(name: &str, number: impl std::fmt::Display) {
    println!("vm: value {name} {number}");
}

/// A flow for people. `Debug` is nothing in a program that was built for a router.
fn called(flow: &Flow) -> String {
    let kind = match flow.kind {
        Kind::Udp => "UDP",
        Kind::Syn => "TCP",
        Kind::Ping => "ICMP",
        _ => "another protocol",
    };
    format!("{kind} to {}", flow.to.ip())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e3)
}

impl Story {
    fn new() -> Res<Self> {
        let lab = Lab::new(Tunnel::Kernel)?;
        let product = Product::new(BINARY, &lab.router)?;
        product.configure(CONFIGURATION)?;
        Ok(Self { lab, product, leaked: 0 })
    }

    /// What every hook does; how long it took.
    fn apply(&self) -> Res<Duration> {
        let began = Instant::now();
        self.product.ok(&["apply"])?;
        Ok(began.elapsed())
    }

    /// A flood of all kinds from the client, watched.
    fn flood(&self) -> Res<Trial> {
        self.flood_of(Flow::all_kinds(&internet()))
    }

    fn flood_of(&self, flows: Vec<Flow>) -> Res<Trial> {
        // A protocol without ports has one connection for two hosts, which must not go another way.
        self.lab.forget_connections()?;
        let watch = self.lab.watch()?;
        let flood = Flood::start(&self.lab.client, None, flows, RATE);
        let trial = Trial { watch, flood };
        trial.flood.more(SOME)?;
        Ok(trial)
    }

    /// Ends a flood during which nothing may have left; how many packets were sent.
    fn nothing_left(&mut self, trial: Trial) -> Res<u32> {
        let (sent, seen) = trial.finish()?;
        let strays: Vec<String> = leaks(&seen).map(ToString::to_string).collect();
        self.leaked += strays.len();
        if let Some(first) = strays.first() {
            return Err(format!("{} packets leaked, the first: {first}", strays.len()).into());
        }
        Ok(sent.iter().map(|s| s.sent).sum())
    }

    /// The status as JSON; its exit code and its posture must be these.
    fn status(&self, code: i32, posture: &str) -> Res<Value> {
        let out = self.product.run(&["status", "--json"])?;
        let text = String::from_utf8_lossy(&out.stdout);
        let status: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        if out.status.code() != Some(code) || status["posture"] != posture {
            return Err(format!("status: {}, wanted {posture}: {text}", out.status).into());
        }
        Ok(status)
    }

    /// Starts the guard and waits until it is at its post.
    fn guard(&self) -> Res<Daemon> {
        let mut guard = self.product.spawn(&["guard"])?;
        wait_for("the guard", 10.0, || !guard.said().is_empty() || guard.alive().is_err())?;
        guard.alive()?;
        Ok(guard)
    }
}

/// What left though it must not. The VPN server goes on calling a tunnel that is gone, and the router tells
/// it so: an answer to what came from outside, with nothing of the flood in it.
fn leaks(seen: &Seen) -> impl Iterator<Item = &Packet> {
    let told = |p: &Packet| {
        p.is_icmp_error() && p.mark.is_none() && p.dst.is_some_and(|to| endpoint().contains(&to))
    };
    seen.strays().filter(move |p| !told(p))
}

/// A running flood and its captures.
struct Trial {
    watch: Watch,
    flood: Flood,
}

impl Trial {
    fn more(&self) -> Res<()> {
        self.flood.more(SOME)
    }

    fn finish(self) -> Res<(Vec<Sent>, Seen)> {
        let sent = self.flood.stop()?;
        Ok((sent, self.watch.finish()?))
    }
}

/// The negative control: the same flood leaves by the same way, each kind of it.
fn open(story: &mut Story) -> Res<String> {
    story.lab.tunnel_delete()?;
    let trial = story.flood()?;
    trial.more()?;
    let (sent, seen) = trial.finish()?;
    for one in &sent {
        if Seen::distinct(&seen.uplink, std::slice::from_ref(one)) == 0 {
            return Err(format!("the control did not leak by {}", called(&one.flow)).into());
        }
    }
    let leaked = seen.strays().count();
    value("control_leaked", leaked);
    Ok(format!("{leaked} packets, every kind of IPv4 and IPv6"))
}

fn boot(story: &mut Story) -> Res<String> {
    story.lab.router.ip("link set wan0 down\n")?;
    let trial = story.flood()?;
    let began = Instant::now();
    story.product.ok(&["apply", "--boot"])?;
    let took = began.elapsed();
    value("boot_step_ms", milliseconds(took));
    story.lab.router.ip("link set wan0 up\n")?;
    story.lab.router.wait_up("wan0")?;
    story.lab.uplink_up("wan0")?;
    trial.more()?;
    story.apply()?;
    trial.more()?;
    story.status(4, "blocking")?;
    let sent = story.nothing_left(trial)?;
    Ok(format!("0 of {sent} leaked, boot step {} ms", milliseconds(took)))
}

fn traffic(story: &mut Story) -> Res<String> {
    let watch = story.lab.watch()?;
    story.lab.tunnel_up()?;
    story.lab.router.sh(&format!("wg set wg0 fwmark {MARK}"))?;
    let took = story.apply()?;
    value("apply_ms", milliseconds(took));
    story.lab.ready()?;
    story.status(0, "protecting")?;
    story.lab.forget_connections()?;
    let sent = send(&story.lab.client, None, Flow::all_kinds(&internet()), SOME, RATE)?;
    let seen = watch.finish()?;
    for one in &sent {
        let arrived = Seen::distinct(&seen.internet, std::slice::from_ref(one));
        if arrived != one.sent {
            return Err(format!(
                "{}: of {} packets {arrived} arrived",
                called(&one.flow),
                one.sent
            )
            .into());
        }
    }
    if let Some(stray) = leaks(&seen).next() {
        story.leaked += leaks(&seen).count();
        return Err(format!("beside the tunnel: {stray}").into());
    }
    let count: u32 = sent.iter().map(|s| s.sent).sum();
    Ok(format!("all {count} packets arrived, 0 beside it, apply {} ms", milliseconds(took)))
}

/// The server, its mark and the source port are what WireGuard says, and what is on the wire.
fn wireguard(story: &mut Story) -> Res<String> {
    let said = |what| story.lab.router.sh(&format!("wg show wg0 {what}"));
    let own: u16 = said("listen-port")?.trim().parse()?;
    let server = said("endpoints")?;
    let server = server.split_whitespace().last().ok_or("no endpoint")?;
    let mark = said("fwmark")?;
    let status = story.status(0, "protecting")?;
    let found = status["endpoints"].as_array().cloned().unwrap_or_default();
    let [one] = found.as_slice() else {
        return Err(format!("not one server but {}", status["endpoints"]).into());
    };
    let wanted = [
        ("source", Value::from("kernel: wg0")),
        ("addresses", Value::from(vec![endpoint()[0].to_string()])),
        ("port", Value::from(ENDPOINT_PORT)),
        ("source_port", Value::from(own)),
        ("mark", Value::from(MARK)),
    ];
    if let Some((key, wanted)) = wanted.iter().find(|(key, wanted)| one[*key] != *wanted) {
        return Err(format!("{key} is {}, and not {wanted}", one[*key]).into());
    }
    if server != format!("{}:{ENDPOINT_PORT}", endpoint()[0]) || mark.trim() != format!("{MARK:#x}")
    {
        return Err(format!("wg says {server} and {mark}").into());
    }
    let capture = Capture::start(&story.lab.provider, "isp0")?;
    story.lab.ready()?;
    let packets = capture.finish()?;
    let mut ports = packets.iter().filter(|p| p.is_to(&endpoint(), 17, ENDPOINT_PORT));
    if packets.is_empty() || !ports.all(|p| p.sport == own) {
        return Err(format!("not all packets to the server come from port {own}").into());
    }
    Ok(format!("{server} from port {own} with mark {MARK:#x}"))
}

fn tunnel_dies(story: &mut Story) -> Res<String> {
    let trial = story.flood()?;
    story.lab.tunnel_down()?;
    trial.more()?;
    story.apply()?;
    story.status(4, "blocking")?;
    trial.more()?;
    story.lab.tunnel_delete()?;
    trial.more()?;
    story.apply()?;
    trial.more()?;
    let sent = story.nothing_left(trial)?;
    Ok(format!("link down, then deleted: 0 of {sent} leaked"))
}

fn routing_alone(story: &mut Story) -> Res<String> {
    let trial = story.flood()?;
    story.lab.router.nft("flush ruleset\n")?;
    trial.more()?;
    story.lab.router.nft(OPEN_ROUTER)?;
    trial.more()?;
    let status = story.status(6, "degraded")?;
    let layer = |n: usize| (&status["layers"][n]["name"], &status["layers"][n]["in_force"]);
    if layer(0) != (&"netfilter".into(), &false.into())
        || layer(1) != (&"routing".into(), &true.into())
    {
        return Err(format!("layers: {}", status["layers"]).into());
    }
    let sent = story.nothing_left(trial)?;
    story.apply()?;
    story.status(4, "blocking")?;
    Ok(format!("every table deleted: 0 of {sent} leaked"))
}

fn guard(story: &mut Story) -> Res<String> {
    let trial = story.flood()?;
    let mut guard = story.guard()?;
    let mut times = Vec::new();
    for _ in 0..REPAIRS {
        let was = guard.said().len();
        times.push(repair::time(&story.lab.router)?);
        // Said when all of it is done; if it was at work already, it does not know that somebody did wrong.
        wait_for("the guard's report", 10.0, || {
            let said = guard.said();
            let new = said.get(was..).unwrap_or_default();
            new.contains("repaired") || new.contains("followed") || guard.alive().is_err()
        })
        .map_err(|e| format!("{e}: {}", guard.said()))?;
        guard.alive()?;
    }
    story.status(4, "blocking")?;
    value("guard_peak_kb", Account::of(guard.id())?.kib(PEAK)?);
    let sent = story.nothing_left(trial)?;
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let max = times.last().copied().unwrap_or_default();
    value("repair_ms", milliseconds(median));
    value("repair_max_ms", milliseconds(max));
    Ok(format!(
        "table away for a median of {} ms, at most {} ms, of {REPAIRS}; 0 of {sent} leaked",
        milliseconds(median),
        milliseconds(max)
    ))
}

/// The peak of an apply from nothing.
fn memory(story: &mut Story) -> Res<String> {
    story.product.ok(&["disable"])?;
    let peak = |arguments: &[&str]| -> Res<u64> {
        Account::at_exit(story.product.command(arguments).stdout(Stdio::null()))?.kib(PEAK)
    };
    let (enable, apply) = (peak(&["enable", "--force"])?, peak(&["apply"])?);
    story.status(4, "blocking")?;
    value("apply_peak_kb", enable.max(apply));
    Ok(format!("apply from nothing {enable} KiB, without a change {apply} KiB"))
}

/// No process of ours is alive when it ends.
/// Sets the virtual router's clock so many seconds ahead.
fn set_clock(story: &Story, ahead: i64) -> Res<()> {
    if std::env::var_os("VM_CLOCK").is_none() {
        return Err("this is no virtual router, whose clock may be set".into());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let then = now.checked_add_signed(ahead).ok_or("a clock before 1970")?;
    story.lab.router.sh(&format!("date -s @{then}"))?;
    Ok(())
}

fn pause(story: &mut Story) -> Res<String> {
    let began = Instant::now();
    story.product.ok(&["pause", &format!("{}s", PAUSE.as_secs())])?;
    let open = story.flood()?;
    let (_, seen) = open.finish()?;
    let leaked = seen.strays().count();
    if leaked == 0 {
        return Err("nothing left during the pause".into());
    }
    // Neither a clock that is put back nor one that is put ahead makes it longer.
    for jump in [-2 * DAY, DAY] {
        set_clock(story, jump)?;
    }
    wait_for("the end of the pause", 10.0, || story.status(4, "blocking").is_ok())?;
    let took = began.elapsed();
    set_clock(story, DAY)?;
    if took > PAUSE + SLOW {
        return Err(format!("it was over only after {} ms", milliseconds(took)).into());
    }
    let trial = story.flood()?;
    let sent = story.nothing_left(trial)?;
    Ok(format!(
        "{leaked} packets left during it; the clock jumped; over after {} ms: 0 of {sent}",
        milliseconds(took)
    ))
}

/// fw4 with `option flow_offloading '1'`: established flows go past the forward hook.
const OFFLOADING: &str = r#"
add table inet fw4
flush chain inet fw4 forward
add flowtable inet fw4 ft { hook ingress priority 0; devices = { br-lan, wan0 }; }
add counter inet fw4 seen
add rule inet fw4 forward meta l4proto { tcp, udp } ct state established flow add @ft
add rule inet fw4 forward counter name seen
"#;

fn offload(story: &mut Story) -> Res<String> {
    story.product.ok(&["disable"])?;
    story.lab.router.nft(OFFLOADING)?;
    let kinds = [Kind::Udp, Kind::Stream];
    let flows: Vec<Flow> = Flow::kinds(&internet(), &kinds);
    let trial = story.flood_of(flows.clone())?;
    let listed = |router: &Ns| router.sh("conntrack -L -f ipv4 2>&1; conntrack -L -f ipv6 2>&1");
    let seen = |router: &Ns| -> Res<u64> {
        let text = router.sh("nft list counter inet fw4 seen")?;
        let mut words = text.split_whitespace().skip_while(|w| *w != "packets");
        Ok(words.nth(1).ok_or("no counter")?.parse()?)
    };
    let offloaded = |text: &str| text.lines().filter(|l| l.contains("[OFFLOAD]")).count();
    let mut text = String::new();
    wait_for("offloaded flows", 10.0, || {
        text = listed(&story.lab.router).unwrap_or_default();
        offloaded(&text) == flows.len()
    })
    .map_err(|e| format!("{e}: {text}"))?;
    // The proof that they are: they flow, and the forward hook sees nothing of them.
    let (before, control) =
        (seen(&story.lab.router)?, Capture::start(&story.lab.provider, "isp0")?);
    trial.more()?;
    trial.more()?;
    let passed = control.so_far(|p| !p.outgoing && p.mark.is_some());
    let after = seen(&story.lab.router)?;
    drop(control);
    if after != before || passed < SOME as usize * flows.len() {
        return Err(format!("{passed} packets, {} by the forward hook", after - before).into());
    }
    story.product.ok(&["enable", "--force"])?;
    let capture = story.lab.watch()?;
    trial.more()?;
    trial.more()?;
    let left: Vec<String> = leaks(&capture.finish()?).map(ToString::to_string).collect();
    story.leaked += left.len();
    if let Some(first) = left.first() {
        return Err(format!("{} packets after enabling, the first: {first}", left.len()).into());
    }
    let still = offloaded(&listed(&story.lab.router)?);
    if still > 0 {
        return Err(format!("{still} flows are offloaded still").into());
    }
    story.status(4, "blocking")?;
    trial.finish()?;
    value("offloaded", flows.len());
    Ok(format!(
        "{} flows, {passed} packets past the forward hook; enabled: 0 left, 0 offloaded",
        flows.len()
    ))
}
