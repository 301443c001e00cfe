//! `make demo`: the same evening told twice, on an ordinary router and on one with the kill
//! switch, in a real network of namespaces with a real encrypted tunnel.
//!
//! Everything it prints is counted from captured packets. It fails unless the first story leaks,
//! the second does not, and both deliver what went through the tunnel.

#![allow(clippy::indexing_slicing, reason = "a wrong index fails the demonstration")]

#[path = "../lab/mod.rs"]
mod lab;

use lab::Res;
use lab::ns::Daemon;
use lab::product::{Product, configuration};
use lab::server::{resolver_idle, start_resolver};
use lab::topology::{ECHO, Lab, Tunnel, internet, lan, resolver};
use lab::traffic::{Flood, Flow, Kind, Sent};
use lab::watch::{Seen, Watch};
use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Packets of each flow in each step, and how fast.
const COUNT: u32 = 100;
const RATE: u32 = 250;

const NETWORK: &str =
    "   LAN client ───┐                                       ┌─── a server on the internet
                 ├── router ═════ uplink ═════ provider ─┤
   guest ────────┘     └ ─ ─ ─ encrypted tunnel ─ ─ ─ ─ ─┴─── VPN server
";

/// What happens, in order, in both stories.
const STEPS: [&str; 8] = [
    "The tunnel is up: IPv4 and IPv6",
    "A call is running; the tunnel dies",
    "Tunnel is gone: the client, IPv4",
    "Tunnel is gone: the client, IPv6",
    "Tunnel is gone: the guest network",
    "Tunnel is gone: names (router's DNS)",
    "Tunnel is gone: the router's own",
    "The tunnel returns: browsing again",
];
/// The steps in which everything must arrive.
const OPEN_STEPS: [usize; 2] = [0, 7];

/// The counts of one step.
#[derive(Clone, Copy)]
struct Count {
    sent: u32,
    tunnel: u32,
    leaked: u32,
    delivered: u32,
}

impl Count {
    fn of(seen: &Seen, sent: &[Sent]) -> Self {
        let total = sent.iter().map(|s| s.sent).sum();
        // Each marked packet once, however often a resolver repeats it; unmarked ones all.
        let strays: Vec<_> = seen.strays().cloned().collect();
        let unmarked = strays.iter().filter(|p| p.mark.is_none() || p.is_icmp_error()).count();
        Self {
            sent: total,
            tunnel: Seen::distinct(&seen.vpn, sent),
            leaked: Seen::distinct(&strays, sent) + u32::try_from(unmarked).unwrap_or(u32::MAX),
            delivered: Seen::distinct(&seen.internet, sent),
        }
    }

    fn blocked(self) -> u32 {
        self.sent.saturating_sub(self.tunnel + self.leaked)
    }
}

/// Colours, where there is somebody to see them.
struct Paint(bool);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }
    fn dim(&self, text: &str) -> String {
        self.with("2", text)
    }
    fn leaked(&self, text: &str, leaked: u32) -> String {
        self.with(if leaked > 0 { "1;31" } else { "32" }, text)
    }
}

fn main() -> ExitCode {
    let paint = Paint(std::io::stdout().is_terminal());
    match run(&paint) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(paint: &Paint) -> Res<bool> {
    let began = Instant::now();
    // First: without root this starts the program again, and the heading should come once.
    lab::ns::prepare()?;
    println!("\n{}\n", paint.bold("vpn-killswitch: one evening, told twice"));
    println!("{NETWORK}");
    println!("Everything here is real (kernel, packets, WireGuard) and shut in on this machine.");
    println!("Every packet is marked, and every packet on the uplink is captured and counted.\n");

    println!("{}", paint.bold("Story 1 of 2: an ordinary router, with a VPN but no kill switch"));
    let without = story(paint, None)?;
    println!("\n{}", paint.bold("Story 2 of 2: the same router, with vpn-killswitch"));
    let with = story(paint, Some(binary()?))?;
    table(paint, &without, &with);
    let verdict = verdict(&without, &with);
    for (good, line) in &verdict {
        let mark = if *good { paint.with("32", "✓") } else { paint.with("1;31", "✗") };
        println!(" {mark} {line}");
    }
    let good = verdict.iter().all(|(good, _)| *good);
    let word = if good { "The kill switch held." } else { "THIS IS NOT WHAT SHOULD HAPPEN." };
    println!("\n {} ({:.0} s)\n", paint.bold(word), began.elapsed().as_secs_f64());
    Ok(good)
}

/// The program under test: named in the environment, or built beside this one.
fn binary() -> Res<PathBuf> {
    if let Some(path) = std::env::var_os("VPN_KILLSWITCH") {
        return Ok(path.into());
    }
    let beside = Some(std::env::current_exe()?.with_file_name("vpn-killswitch"));
    beside.filter(|path| path.exists()).ok_or_else(|| {
        "no vpn-killswitch beside this program; build it, or set VPN_KILLSWITCH".into()
    })
}

fn browsing(to: &[IpAddr]) -> Vec<Flow> {
    Flow::kinds(to, &[Kind::Udp, Kind::Syn, Kind::Ping])
}

/// Tells the story once; with the kill switch if its binary is given.
fn story(paint: &Paint, binary: Option<PathBuf>) -> Res<Vec<Count>> {
    let mut lab = Lab::new(Tunnel::WireGuard)?;
    let _dnsmasq = start_resolver(&lab, &[resolver()[0]])?;
    let (product, _guard) = match binary {
        None => (None, None),
        Some(binary) => {
            let (product, guard) = switch_on(paint, &lab, binary)?;
            (Some(product), Some(guard))
        }
    };
    let mut counts = Vec::new();
    let step = |counts: &mut Vec<Count>, watch: Watch, sent: &[Sent]| -> Res<()> {
        let count = Count::of(&watch.finish()?, sent);
        progress(paint, counts.len(), count);
        counts.push(count);
        Ok(())
    };
    let send =
        |from: &lab::ns::Ns, flows: Vec<Flow>| lab::traffic::send(from, None, flows, COUNT, RATE);

    let watch = lab.watch()?;
    let sent = send(&lab.client, browsing(&internet()))?;
    step(&mut counts, watch, &sent)?;

    let watch = lab.watch()?;
    let call = internet().map(|ip| Flow::new(Kind::Udp, (ip, ECHO))).to_vec();
    let flood = Flood::start(&lab.client, None, call, RATE);
    flood.more(COUNT / 2)?;
    lab.tunnel_delete()?;
    flood.more(COUNT / 2)?;
    step(&mut counts, watch, &flood.stop()?)?;
    show_status(paint, product.as_ref(), true)?;

    for family in internet() {
        let watch = lab.watch()?;
        let sent = send(&lab.client, browsing(&[family]))?;
        step(&mut counts, watch, &sent)?;
    }

    let watch = lab.watch()?;
    let sent = send(&lab.guest, browsing(&internet()))?;
    step(&mut counts, watch, &sent)?;

    let watch = lab.watch()?;
    let sent = send(&lab.client, vec![Flow::new(Kind::Dns, (lan()[0], 53))])?;
    resolver_idle(&lab)?;
    step(&mut counts, watch, &sent)?;

    let watch = lab.watch()?;
    let sent = send(&lab.router, browsing(&internet()))?;
    step(&mut counts, watch, &sent)?;

    let back = Instant::now();
    lab.tunnel_up()?;
    lab.ready()?;
    let note = format!(
        "     a new handshake, and the tunnel works again after {} ms",
        back.elapsed().as_millis()
    );
    println!("{}", paint.dim(&note));
    let watch = lab.watch()?;
    let sent = send(&lab.client, browsing(&internet()))?;
    step(&mut counts, watch, &sent)?;
    show_status(paint, product.as_ref(), false)?;
    Ok(counts)
}

/// Writes the router's configuration and switches the product on, as its owner would.
/// The guard is what lets a recreated tunnel through again.
fn switch_on(paint: &Paint, lab: &Lab, binary: PathBuf) -> Res<(Product, Daemon)> {
    let product = Product::new(binary, &lab.router)?;
    let text = configuration("strict", "").replace("enabled '1'", "enabled '0'");
    product.configure(&text)?;
    println!("{}", paint.dim("     /etc/config/vpn-killswitch"));
    quote(paint, &text.replace('\t', "    "));
    println!("     $ vpn-killswitch enable");
    quote(paint, &product.ok(&["enable"])?);
    println!("     $ vpn-killswitch guard &");
    let guard = product.spawn(&["guard"])?;
    show_status(paint, Some(&product), false)?;
    Ok((product, guard))
}

/// Shows what the program says of itself: its first line, or all.
fn show_status(paint: &Paint, product: Option<&Product>, all: bool) -> Res<()> {
    let Some(product) = product else { return Ok(()) };
    // Its exit code tells the posture; here its words are shown.
    let text = String::from_utf8_lossy(&product.run(&["status"])?.stdout).into_owned();
    println!("     $ vpn-killswitch status{}", if all { "" } else { " | head -n 1" });
    quote(paint, if all { &text } else { text.lines().next().unwrap_or_default() });
    Ok(())
}

fn quote(paint: &Paint, text: &str) {
    for line in text.trim_end().lines() {
        println!("{}", paint.dim(format!("     │ {line}").trim_end()));
    }
}

fn progress(paint: &Paint, step: usize, count: Count) {
    let leaked = paint.leaked(&format!("{:>5} leaked", count.leaked), count.leaked);
    println!(
        "  {}. {:<37}{:>5} sent {:>5} in the tunnel {leaked} {:>5} blocked",
        step + 1,
        STEPS[step],
        count.sent,
        count.tunnel,
        count.blocked(),
    );
    drop(std::io::stdout().flush());
}

fn table(paint: &Paint, without: &[Count], with: &[Count]) {
    let rule = "─".repeat(98);
    println!("\n{}\n", paint.bold("Both stories side by side, counted in packets"));
    println!(" {:<39}│ {:^27} │ {:^27}", "", "without kill switch", "with vpn-killswitch");
    let heads = "  sent tunnel LEAKED blocked";
    println!(" {:<39}│{heads} │{heads}", "");
    println!("{rule}");
    for (index, step) in STEPS.iter().enumerate() {
        let cells = |c: &Count| {
            let leaked = paint.leaked(&format!("{:>7}", c.leaked), c.leaked);
            format!("{:>6}{:>7}{leaked}{:>8}", c.sent, c.tunnel, c.blocked())
        };
        let (a, b) = (cells(&without[index]), cells(&with[index]));
        println!(" {}. {step:<36}│{a} │{b}", index + 1);
    }
    println!("{rule}");
    let total = |counts: &[Count]| counts.iter().map(|c| c.leaked).sum::<u32>();
    let (a, b) = (total(without), total(with));
    let cell = |n: u32| paint.leaked(&format!("{n:>20}"), n);
    println!(" {:<39}│{}{:8} │{}\n", "leaked in all", cell(a), "", cell(b));
    println!(
        " sent:    packets that a program tried to send    tunnel:  came out of the VPN server"
    );
    println!(" LEAKED:  seen on the uplink in clear             blocked: went nowhere\n");
}

fn verdict(without: &[Count], with: &[Count]) -> Vec<(bool, String)> {
    let exposed = (1..STEPS.len() - 1).filter(|i| without[*i].leaked > 0).count();
    let steps = STEPS.len() - 2;
    let leaked = |counts: &[Count]| counts.iter().map(|c| c.leaked).sum::<u32>();
    let delivered = |counts: &[Count]| {
        OPEN_STEPS.iter().all(|i| {
            let c = counts[*i];
            c.sent > 0 && (c.tunnel, c.delivered) == (c.sent, c.sent)
        })
    };
    vec![
        (
            exposed == steps && without[0].leaked == 0,
            format!(
                "Without it, {} packets left in clear: {exposed} of {steps} steps without a tunnel leaked.",
                leaked(without)
            ),
        ),
        (leaked(with) == 0, format!("With it, {} packets left in clear.", leaked(with))),
        (
            delivered(without) && delivered(with),
            "Everything sent while the tunnel was up arrived, in both stories.".to_owned(),
        ),
    ]
}
