//! What the stories have in common: a protected router, floods with something happening meanwhile,
//! somebody at work on the router from the LAN, and the judgement.
//!
//! Every trial ends with its own negative control: protection is switched off, and the same flood must
//! leak by the same way in the same capture.

use crate::lab::ns::{Daemon, Ns};
use crate::lab::product::{Product, configuration};
use crate::lab::server::Servers;
use crate::lab::topology::{Lab, OPEN_ROUTER, Tunnel, internet, lan};
use crate::lab::traffic::{Flood, Flow, Sent, send};
use crate::lab::watch::{Seen, Watch};
use crate::lab::{Res, wait_for};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vpn_killswitch::backend::nft::Nft;
use vpn_killswitch::control::Control;
use vpn_killswitch::netlink::{Socket, wait};
use vpn_killswitch::ruleset::Ruleset;

pub const BINARY: &str = env!("CARGO_BIN_EXE_vpn-killswitch");
/// Packets a second of each flow.
pub const RATE: u32 = 250;
/// Packets of each flow for a step that needs some.
pub const SOME: u32 = 40;

/// Something that is done to a router.
pub type Act = fn(&Stage) -> Res<()>;

/// A router with the program on it.
pub struct Stage {
    pub lab: Lab,
    pub product: Product,
    _services: Servers,
}

impl Stage {
    /// The open router, its tunnel up, with services for the LAN and a configuration that nobody has
    /// applied yet.
    pub fn open(kind: Tunnel) -> Res<Self> {
        let lab = Lab::new(kind)?;
        let product = Product::new(BINARY, &lab.router)?;
        product.configure(&configuration("strict", ""))?;
        let services = Servers::start(&lab.router, &lan(), &[22, 53, 67])?;
        Ok(Self { lab, product, _services: services })
    }

    /// The same, protected, with the tunnel down: everything that is sent would leak.
    pub fn blocking() -> Res<Self> {
        let stage = Self::open(Tunnel::Veth)?;
        stage.product.ok(&["apply"])?;
        stage.lab.tunnel_down()?;
        stage.apply()?;
        Ok(stage)
    }

    /// What every hook does.
    pub fn apply(&self) -> Res<()> {
        self.product.ok(&["apply"]).map(drop)
    }

    /// Starts the guard and waits until it is at its post.
    pub fn guard(&self) -> Res<Daemon> {
        let mut guard = self.product.spawn(&["guard"])?;
        // It says how things are when it has seen to them.
        wait_for("the guard", 10.0, || !guard.said().is_empty() || guard.alive().is_err())?;
        guard.alive()?;
        Ok(guard)
    }

    /// An error if the program says that the kernel differs from what should be there.
    pub fn verify(&self) -> Res<()> {
        let out = self.product.run(&["check"])?;
        // Protecting, blocking.
        if matches!(out.status.code(), Some(0 | 4)) {
            return Ok(());
        }
        let text = [out.stdout, out.stderr].concat();
        Err(format!("check: {}: {}", out.status, String::from_utf8_lossy(&text)).into())
    }

    /// The first layer as it should be now, and a view of it as it is.
    pub fn rules(&self) -> Res<(Ruleset, Nft)> {
        let root = self.product.root();
        let plan = || Control::new(root).plan().map_err(|e| e.to_string());
        let rules = self.lab.router.enter(plan)??.0;
        Ok((rules, self.lab.router.enter(|| Nft::open().map_err(|e| e.to_string()))??))
    }

    /// Hears every change to nftables from now on.
    pub fn notices(&self) -> Res<Socket> {
        Ok(self.lab.router.enter(|| {
            let mut socket = Socket::open(12)?;
            socket.join(&[7])?;
            Ok::<_, std::io::Error>(socket)
        })??)
    }

    /// Deletes every nftables table, one by one, as `fw4 stop` does on a router without others.
    pub fn delete_tables(&self) -> Res<()> {
        // Somebody else may have made or deleted one meanwhile.
        self.lab.router.sh(
            "nft list tables | while read -r _ family name; do nft delete table $family $name || :; done 2>&1",
        ).map(drop)
    }

    /// Takes the second layer's rules away, as far as they are there.
    pub fn delete_routing(&self) -> Res<()> {
        let mut script = String::new();
        // Four rules, all of this priority.
        for rule in [32765; 4] {
            script += &format!("rule del priority {rule}\n");
        }
        // -force goes on behind a rule that is missing.
        self.lab
            .router
            .sh(&format!(
                "for f in -4 -6; do printf '{}' | ip $f -force -batch - 2>&1 || :; done",
                script.replace('\n', "\\n")
            ))
            .map(drop)
    }

    /// The router's own firewall, from nothing.
    pub fn load_firewall(&self) -> Res<()> {
        self.lab.router.nft(&format!("add table inet fw4\ndelete table inet fw4\n{OPEN_ROUTER}"))
    }

    /// Sends fresh flows from here; all must arrive, and nothing may leak.
    pub fn delivered(&self, from: &Ns) -> Res<u32> {
        self.lab.forget_connections()?;
        let watch = self.lab.watch()?;
        let sent = send(from, None, Flow::all_kinds(&internet()), SOME, 400)?;
        let seen = watch.finish()?;
        Seen::all_arrived(&seen.internet, &sent)?;
        if let Some(p) = seen.strays().next() {
            return Err(format!("beside the tunnel: {p}").into());
        }
        Ok(sent.iter().map(|s| s.sent).sum())
    }
}

/// Waits until nobody has changed nftables for this long; how many messages came before.
pub fn settle(notices: &mut Socket, quiet: Duration) -> Res<u32> {
    let (mut count, began) = (0, Instant::now());
    loop {
        let before = count;
        let waited = Instant::now();
        while waited.elapsed() < quiet && count == before {
            wait(&[(notices.as_fd(), libc::POLLIN)], Some(quiet.saturating_sub(waited.elapsed())))?;
            notices.drain(|_, _| count += 1)?;
        }
        if count == before {
            return Ok(count);
        }
        if began.elapsed() > Duration::from_secs(15) {
            return Err(format!("nftables does not come to rest: {count} messages").into());
        }
    }
}

/// Somebody who works on the router from the LAN, by IPv4 and IPv6, over one connection each.
pub struct Management {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Res<Res<Talk>>>>,
}

/// How that went.
#[derive(Clone, Copy, Default)]
pub struct Talk {
    /// Questions answered.
    pub answers: u32,
    /// The longest wait for an answer.
    pub slowest: Duration,
}

impl Management {
    pub fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let talk = |ip| {
            let stop = Arc::clone(&stop);
            lab.client.thread(move || talk(SocketAddr::from((ip, 22)), &stop))
        };
        let threads = lan().map(talk).into_iter().collect();
        Self { stop, threads }
    }

    /// An error if a connection broke or hung.
    pub fn finish(self) -> Res<Talk> {
        self.stop.store(true, Ordering::Release);
        let mut sum = Talk::default();
        for thread in self.threads {
            let one = thread.join().map_err(|_| "management died")??;
            let one = one.map_err(|e| format!("the connection LAN → router: {e}"))?;
            sum.answers += one.answers;
            sum.slowest = sum.slowest.max(one.slowest);
        }
        if sum.answers == 0 { Err("management: no answer at all".into()) } else { Ok(sum) }
    }
}

fn talk(to: SocketAddr, stop: &AtomicBool) -> Res<Talk> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut talk = Talk::default();
    while !stop.load(Ordering::Acquire) {
        let asked = Instant::now();
        stream.write_all(b"ls\r\n")?;
        stream.read_exact(&mut [0; 4])?;
        talk.slowest = talk.slowest.max(asked.elapsed());
        talk.answers += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(talk)
}

/// Floods during something, watched from before to after.
pub struct Trial {
    pub watch: Watch,
    sources: Vec<Source>,
    management: Management,
}

struct Source {
    flood: Flood,
    limits: Limits,
}

/// What the packets' numbers mean.
#[derive(Clone, Copy, Default)]
struct Limits {
    /// Packets numbered from here may not leak.
    from: u32,
    /// Packets numbered below may not leak.
    until: u32,
    /// Packets numbered from here are the control's.
    control: u32,
}

/// What a trial found; that nothing leaked is certain by then.
pub struct Found {
    pub exposed: u32,
    pub control: u32,
    /// What left by the uplinks before protection was there.
    pub before: u32,
    pub talk: Talk,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0 of {} leaked", self.exposed)?;
        if self.before > 0 {
            write!(f, "; before, {} had", self.before)?;
        }
        write!(
            f,
            "; control: {} did; LAN → router: {} answers, the slowest {:.0} ms",
            self.control,
            self.talk.answers,
            self.talk.slowest.as_secs_f64() * 1e3
        )
    }
}

impl Trial {
    /// All kinds of packets from each of these, from now on; protected from now on.
    pub fn start(stage: &Stage, from: &[&Ns]) -> Res<Self> {
        let watch = stage.lab.watch()?;
        let source = |ns: &&Ns| Source {
            flood: Flood::start(ns, None, Flow::all_kinds(&internet()), RATE),
            limits: Limits::default(),
        };
        let sources = from.iter().map(source).collect();
        let trial = Self { watch, sources, management: Management::start(&stage.lab) };
        trial.more()?;
        Ok(trial)
    }

    /// Lets some more packets go.
    pub fn more(&self) -> Res<()> {
        self.sources.iter().try_for_each(|s| s.flood.more(SOME))
    }

    /// Protected from now on only.
    pub fn closed(&mut self) {
        // A packet is counted behind its sending.
        self.sources.iter_mut().for_each(|s| s.limits.from = s.flood.now() + 1);
    }

    /// The first number that packets from now on will surely carry.
    pub fn now(&self) -> u32 {
        self.sources.iter().map(|s| s.flood.now() + 1).max().unwrap_or(0)
    }

    /// For a router that is and stays open: the control alone, behind this step.
    pub fn finish_open(mut self, step: impl FnOnce() -> Res<()>, stage: &Stage) -> Res<u32> {
        // Nothing is asked of what was before.
        self.sources.iter_mut().for_each(|s| s.limits.from = u32::MAX);
        Ok(self.finish_by(step, stage)?.control)
    }

    /// Switches protection off for the control, stops and judges. The tunnel must be down.
    pub fn finish(self, stage: &Stage) -> Res<Found> {
        self.finish_by(|| stage.product.ok(&["disable"]).map(drop), stage)
    }

    /// The same with another way to open.
    pub fn finish_by(mut self, open: impl FnOnce() -> Res<()>, stage: &Stage) -> Res<Found> {
        self.sources.iter_mut().for_each(|s| s.limits.until = s.flood.now().saturating_sub(1));
        open()?;
        stage.lab.forget_connections()?;
        self.sources.iter_mut().for_each(|s| s.limits.control = s.flood.now() + 1);
        self.more()?;
        let Self { watch, sources, management } = self;
        let ended: Vec<_> =
            sources.into_iter().map(|s| Ok((s.limits, s.flood.stop()?))).collect::<Res<_>>()?;
        let talk = management.finish()?;
        judge(&watch.finish()?, &ended, talk)
    }
}

fn judge(seen: &Seen, sources: &[(Limits, Vec<Sent>)], talk: Talk) -> Res<Found> {
    let mut found = Found { exposed: 0, control: 0, before: 0, talk };
    let mut leaks: Vec<String> = Vec::new();
    // Of a protocol without ports only one client at a time gets through masquerading, so what must
    // leak is each kind of packet, from whomever.
    let mut controls: BTreeMap<String, u32> = BTreeMap::new();
    for (limits, sent) in sources {
        for s in sent {
            found.exposed += limits.until.saturating_sub(limits.from);
            let control =
                controls.entry(format!("{:?} to {}", s.flow.kind, s.flow.to)).or_default();
            for p in seen.strays() {
                let Some(mark) = p.mark.filter(|m| m.flow == s.flow.id) else { continue };
                match mark.seq {
                    n if n >= limits.control => *control += 1,
                    n if n < limits.from => found.before += 1,
                    n if n < limits.until => leaks.push(p.to_string()),
                    _ => {}
                }
            }
        }
    }
    found.control = controls.values().sum();
    let silent = controls.iter().filter(|(_, leaked)| **leaked == 0);
    leaks.extend(silent.map(|(what, _)| format!("the control did not leak by {what}")));
    leaks.extend(seen.strays().filter(|p| p.mark.is_none()).map(|p| format!("{p}, unmarked")));
    if leaks.is_empty() {
        return Ok(found);
    }
    let first: Vec<&str> = leaks.iter().take(12).map(String::as_str).collect();
    Err(format!("{} leaks of {}: {}", leaks.len(), found.exposed, first.join("\n    ")).into())
}
