//! What the kill switch costs: time of whole processes, packets, memory, size; as ratios that are
//! measured in one run, beside the aims of the project.
//!
//! The program measured is the one that Cargo builds here, which borrows the C library of the system;
//! with `VPN_KILLSWITCH=PATH` it is another, such as the static one for a router.
//!
//! Everything happens in network namespaces of its own. An aim that is missed is printed as missed
//! and is no failure; a measurement that cannot be made is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a wrong index ends the run")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of socket structures and ranks of a few hundred rounds"
)]

#[path = "../tests/lab/mod.rs"]
mod lab;
mod measure;

use lab::Res;
use lab::ns::{Ns, directory};
use lab::product::configuration;
use lab::topology::{OPEN_ROUTER, connect};
use measure::forward::{Frames, Sender, received};
use measure::process::{Run, Took, Way, compare, settle};
use measure::{Series, judge, memory};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Rounds in which a run is measured that takes a few milliseconds.
const ROUNDS: usize = 60;
/// Rounds in which the router's rules are changed to count packets.
const FORWARD_ROUNDS: usize = 40;
/// Exempt addresses in the larger configuration.
const MANY: u32 = 10_000;
/// A client that is exempt in both configurations.
const EXEMPT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 3);
const TABLE: &str = "inet vpn_killswitch";
/// Where frames go that nobody is to receive: the device behind the cable has another address.
const AWAY: &str = "lladdr 02:00:00:00:00:99 nud permanent";

fn main() -> Res<()> {
    let bench = Bench::new()?;
    println!(
        "vpn-killswitch: what it costs. Medians of rounds in which the alternatives take turns;"
    );
    println!(
        "in brackets the middle half of the rounds. 'MET' and 'MISSED' are about the median, with"
    );
    println!(
        "95 % confidence. Kernel {}.",
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()
    );
    // `cargo bench -- 4 5` measures only that.
    let wanted: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    for (number, measure) in (1..).zip(Bench::ALL) {
        if wanted.is_empty() || wanted.contains(&number) {
            measure(&bench)?;
        }
    }
    Ok(())
}

/// A router with two local networks, an uplink and a tunnel, and what is measured on it.
struct Bench {
    program: PathBuf,
    root: PathBuf,
    router: Ns,
    client: Ns,
    provider: Ns,
    vpn: Ns,
}

impl Bench {
    const ALL: [fn(&Self) -> Res<()>; 6] = [
        Self::first,
        Self::small_change,
        Self::nothing_changed,
        Self::forwarding,
        Self::memory,
        Self::size,
    ];

    fn new() -> Res<Self> {
        let root = directory("root")?;
        fs::create_dir_all(root.join("etc/config"))?;
        let program = std::env::var_os("VPN_KILLSWITCH")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_vpn-killswitch").into());
        let bench = Self {
            program: program.into(),
            root,
            router: Ns::new("router")?,
            client: Ns::new("client")?,
            provider: Ns::new("provider")?,
            vpn: Ns::new("vpn")?,
        };
        let Self { router, client, provider, .. } = &bench;
        router.sysctls(&[("ipv4/ip_forward", "1")])?;
        connect(client, "eth0", router, "lan0")?;
        connect(router, "wan0", provider, "isp0")?;
        router.ip(&format!(
            "link add br-lan type bridge forward_delay 0\n\
             link add br-guest type bridge forward_delay 0\n\
             link set lan0 master br-lan\n\
             link set br-lan up\n\
             link set br-guest up\n\
             addr add 192.168.1.1/24 dev br-lan\n\
             addr add 2001:db8:1:1::1/64 dev br-lan nodad\n\
             addr add 192.168.2.1/24 dev br-guest\n\
             addr add 100.64.7.2/24 dev wan0\n\
             addr add 2001:db8:64::2/64 dev wan0 nodad\n\
             neigh add 100.64.7.1 dev wan0 {AWAY}\n\
             route add default via 100.64.7.1 dev wan0 metric 100\n\
             route add 198.51.100.0/24 via 100.64.7.1 dev wan0\n"
        ))?;
        bench.tunnel()?;
        router.nft(OPEN_ROUTER)?;
        // What is measured runs where this thread is: entering a namespace would cost time.
        let path = std::ffi::CString::new(router.path())?;
        // SAFETY: open(2) reads the NUL-terminated path; setns(2) takes no pointers.
        let entered = unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            fd >= 0 && libc::setns(fd, libc::CLONE_NEWNET) == 0
        };
        if !entered {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(bench)
    }

    /// Makes the tunnel's device, as it was before if it was there before.
    fn tunnel(&self) -> Res<()> {
        connect(&self.router, "wg0", &self.vpn, "peer0")?;
        self.router.ip(&format!(
            "addr add 10.9.0.2/24 dev wg0\n\
             addr add fd09::2/64 dev wg0 nodad\n\
             neigh add 10.9.0.1 dev wg0 {AWAY}\n\
             route add default via 10.9.0.1 dev wg0 metric 5\n"
        ))
    }

    fn ours(&self, command: &str) -> Run {
        Run::new(&self.program, &["--root", &self.root.display().to_string(), command])
    }

    /// The same binary, loaded and started, which then has nothing to do.
    fn empty(&self) -> Way<'static> {
        let run = Run::new(&self.program, &["--version"]);
        Way { name: "empty process", before: Box::new(|| Ok(())), run }
    }

    fn configure(&self, text: &str) -> Res<()> {
        Ok(fs::write(self.root.join("etc/config/vpn-killswitch"), text)?)
    }

    fn remove(&self) -> Res<()> {
        // Adding it first makes it no error that there is none.
        self.router.nft(&format!("add table {TABLE}\ndelete table {TABLE}\n"))
    }

    /// Writes what `apply` would install as an nftables script; `replacing` the table that is there.
    fn script(&self, name: &str, replacing: bool) -> Res<Run> {
        let out = self.ours("show").command().stdout(std::process::Stdio::piped()).output()?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned().into());
        }
        let mut text = String::new();
        if replacing {
            text = format!("add table {TABLE}\ndelete table {TABLE}\n");
        }
        text.push_str(&String::from_utf8(out.stdout)?);
        let path = self.root.join(name);
        fs::write(&path, text)?;
        Ok(Run::new("nft", &["-f", &path.display().to_string()]))
    }

    fn first(&self) -> Res<()> {
        println!("\n1. First apply: no table → the policy. Milliseconds, whole processes.");
        self.configure(&config("203.0.113.10", 0))?;
        let before = || self.remove();
        let took = compare(
            ROUNDS,
            &mut [
                Way { name: "apply", before: Box::new(before), run: self.ours("apply") },
                Way { name: "nft -f", before: Box::new(before), run: self.script("first", false)? },
                self.empty(),
            ],
        )?;
        self.ours("apply").once()?;
        self.ours("check").once()?;
        report(&took);
        let ratio = took[1].process.over(&took[0].process);
        judge("at least 1.5 times as fast as nft -f", &ratio, " times", |r| r >= 1.5);
        Ok(())
    }

    fn small_change(&self) -> Res<()> {
        println!("\n2. An endpoint's address has changed in the configuration. Milliseconds.");
        let (old, new) = (config("203.0.113.10", 0), config("203.0.113.11", 0));
        let back = || {
            self.configure(&old)?;
            self.ours("apply").once()?;
            self.configure(&new)
        };
        self.configure(&new)?;
        let took = compare(
            ROUNDS,
            &mut [
                Way { name: "apply", before: Box::new(back), run: self.ours("apply") },
                Way {
                    name: "nft -f, replacing the table",
                    before: Box::new(back),
                    run: self.script("change", true)?,
                },
                self.empty(),
            ],
        )?;
        self.ours("apply").once()?;
        self.ours("check").once()?;
        report(&took);
        let ratio = took[1].process.over(&took[0].process);
        judge("at least 5 times as fast as nft -f", &ratio, " times", |r| r >= 5.0);
        self.recreated_tunnel()
    }

    fn recreated_tunnel(&self) -> Res<()> {
        println!("\n   The tunnel's device was deleted and made again. Milliseconds.");
        self.configure(&config("203.0.113.10", 0))?;
        let again = || {
            self.ours("apply").once()?;
            self.router.ip("link del wg0\n")?;
            self.tunnel()
        };
        let took = compare(
            ROUNDS / 3,
            &mut [
                Way { name: "apply", before: Box::new(again), run: self.ours("apply") },
                Way {
                    name: "nft -f, replacing the table",
                    before: Box::new(again),
                    run: self.script("tunnel", true)?,
                },
                self.empty(),
            ],
        )?;
        self.ours("apply").once()?;
        self.ours("check").once()?;
        report(&took);
        let ratio = took[1].process.over(&took[0].process);
        judge("at least 5 times as fast as nft -f", &ratio, " times", |r| r >= 5.0);
        Ok(())
    }

    fn nothing_changed(&self) -> Res<()> {
        println!("\n3. Nothing has changed. Milliseconds.");
        self.configure(&config("203.0.113.10", 0))?;
        self.ours("apply").once()?;
        let run = self.ours("apply");
        let mut ways = [Way { name: "apply", before: Box::new(|| Ok(())), run }, self.empty()];
        let took = compare(4 * ROUNDS, &mut ways)?;
        report(&took);
        let more = took[0].process.less(&took[1].process);
        judge("at most 2 ms more than an empty process", &more, " ms", |ms| ms <= 2.0);
        Ok(())
    }

    fn forwarding(&self) -> Res<()> {
        println!(
            "\n4. Forwarding on one CPU, IPv4, 60-byte frames, 64 connections, the sender's own work\n   \
             taken off. 'No table' is a router as it is anyway: bridge, connection tracking and\n   \
             masquerading are on in all three."
        );
        let mac = mac_of("br-lan")?;
        let kinds = [
            ("into the tunnel", Ipv4Addr::new(192, 168, 1, 2), Ipv4Addr::new(192, 0, 2, 80)),
            ("exempt, to the uplink", EXEMPT, Ipv4Addr::new(198, 51, 100, 80)),
        ]
        .map(|(name, from, to)| (name, Frames::udp(from, to, mac)));
        let unheard = kinds[0].1.unheard();
        let mut sender = Sender::new(&self.client, "eth0")?;
        let arrived = || -> Res<[u64; 2]> {
            Ok([received(&self.vpn, "peer0")?, received(&self.provider, "isp0")?])
        };
        // [kind][table]
        let mut costs = [const { [const { Series(Vec::new()) }; 3] }; 2];
        let mut sending = Series(Vec::new());
        for round in 0..=FORWARD_ROUNDS {
            for turn in 0..3 {
                let table = (round + turn) % 3;
                self.remove()?;
                self.configure(&config("203.0.113.10", [0, 1, MANY][table]))?;
                // Off means both layers: the second one would refuse what goes to the uplink.
                self.ours(if table > 0 { "apply" } else { "disable" }).once()?;
                settle()?;
                for (kind, (name, frames)) in kinds.iter().enumerate() {
                    let (before, sent) = (arrived()?, sender.sent);
                    let whole = sender.cost(frames, 7)?;
                    let (after, sent) = (arrived()?, sender.sent - sent);
                    if after[kind] - before[kind] < sent {
                        return Err(format!("{name}: not all of {sent} packets arrived").into());
                    }
                    let own = sender.cost(&unheard, 3)?;
                    if round > 0 {
                        costs[kind][table].0.push(whole - own);
                        sending.0.push(own);
                    }
                }
            }
        }
        println!("   The sender's work, taken off: {sending} ns a packet.");
        for ((name, _), [none, one, many]) in kinds.iter().zip(&costs) {
            println!("   Packets {name}:");
            for (table, cost) in
                [("no table", none), ("table, 1 exempt", one), ("table, 10,000 exempt", many)]
            {
                let rate = Series(cost.0.iter().map(|ns| 1e6 / ns).collect());
                let more = cost.less(none).median();
                println!("    {table:28} {rate} thousand packets/s; {more:+.0} ns a packet");
            }
            let percent = |a: &Series, b: &Series| {
                Series(a.over(b).0.iter().map(|r| (1.0 - r) * 100.0).collect())
            };
            judge("at most 2 % fewer with 1", &percent(none, one), " %", |p| p <= 2.0);
            judge("at most 2 % fewer with 10,000", &percent(none, many), " %", |p| p <= 2.0);
            judge("flat: 10,000 at most 2 % from 1", &percent(one, many), " %", |p| p <= 2.0);
        }
        Ok(())
    }

    fn memory(&self) -> Res<()> {
        println!(
            "\n5. Peak memory in KB: all that was resident (of it not pages of shared files)."
        );
        let empty = memory::peak(&self.empty().run)?;
        println!("    {:28} {:6} ({})", "empty process", empty.peak, empty.own);
        for count in [1, MANY] {
            self.configure(&config("203.0.113.10", count))?;
            let script = self.script("memory", false)?;
            self.remove()?;
            let nft = memory::peak(&script)?;
            self.remove()?;
            println!("   With {count} exempt:");
            println!("    {:28} {:6} ({})", "nft -f", nft.peak, nft.own);
            let (mut peak, mut own) = (0, 0);
            for (what, command) in [
                ("first apply", "apply"),
                ("apply, nothing changed", "apply"),
                ("status", "status"),
                ("check", "check"),
            ] {
                let used = memory::peak(&self.ours(command))?;
                println!("    {what:28} {:6} ({})", used.peak, used.own);
                (peak, own) = (peak.max(used.peak), own.max(used.own));
            }
            let verdict = |kilobytes| if kilobytes < 2048 { "MET" } else { "MISSED" };
            println!("    aim: under 2,048 KB: {peak} KB in all  {}", verdict(peak));
            println!("    the same without pages of shared files: {own} KB  {}", verdict(own));
        }
        Ok(())
    }

    fn size(&self) -> Res<()> {
        let bytes = fs::metadata(&self.program)?.len();
        println!("\n6. Size of {}: {} KB", self.program.display(), bytes.div_ceil(1024));
        Ok(())
    }
}

/// Prints what all ways took, and each one's multiple of the first.
fn report(took: &[Took]) {
    for Took { name, process, freeing } in took {
        let times = process.over(&took[0].process).median();
        print!("    {name:28} {process} ms  = {times:.2} × {}", took[0].name);
        // A wait that short is that of the measurement itself.
        match freeing.median() {
            ms if ms > 1.0 => {
                println!("; then {ms:.1} ms until the kernel has freed the old rules")
            }
            _ => println!(),
        }
    }
}

/// The laboratory's configuration with this endpoint and so many exempt addresses.
fn config(endpoint: &str, exempt: u32) -> String {
    let mut text = configuration("strict", "").replace("203.0.113.10", endpoint);
    if exempt > 0 {
        text.push_str(&format!("\nconfig exempt\n\toption name 'TV'\n\tlist src_ip '{EXEMPT}'\n"));
        let others = (1..exempt).map(|n| Ipv4Addr::from(0x0a80_0000 + n));
        others.for_each(|ip| text.push_str(&format!("\tlist src_ip '{ip}'\n")));
    }
    text
}

/// The Ethernet address of a device in this thread's namespace.
fn mac_of(device: &str) -> Res<[u8; 6]> {
    let out = std::process::Command::new("ip").args(["-o", "link", "show", device]).output()?;
    let text = String::from_utf8(out.stdout)?;
    let mac = text.split("link/ether ").nth(1).and_then(|t| t.split(' ').next()).unwrap_or("");
    let bytes: Result<Vec<u8>, _> = mac.split(':').map(|b| u8::from_str_radix(b, 16)).collect();
    bytes?.try_into().map_err(|_| format!("{device} has no Ethernet address").into())
}
