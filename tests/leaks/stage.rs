//! What the scenarios have in common: the systems under test, a flood with an event in its middle,
//! and the judgement of what was seen.

use crate::lab::ns::{Daemon, Ns};
use crate::lab::packet::{Packet, TCP};
use crate::lab::product::{Product, configuration};
use crate::lab::topology::{Lab, OPEN_ROUTER, Tunnel};
use crate::lab::traffic::{Flood, Flow, Kind, Sent};
use crate::lab::watch::{Seen, missing};
use crate::lab::{Res, wait_for};
use std::fmt;
use std::process::Output;

/// The TCP flags of a connection attempt, and the one of a reset.
const SYN: u8 = 2;
const RST: u8 = 4;

/// Packets of each flow before an event and after it, and how many a second.
pub const BEFORE: u32 = 40;
pub const AFTER: u32 = 120;
pub const RATE: u32 = 400;

/// What is to keep the router closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// Nothing.
    None,
    /// DD-WRT's rule: what comes from the LAN does not leave by the device called wan0.
    DdWrt,
    /// OpenWrt's zones with LAN → VPN allowed and LAN → WAN not.
    Zones,
    /// vpn-killswitch.
    Product(Setting),
}

/// How vpn-killswitch is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setting {
    Strict,
    Dns,
    /// Strict, without telling clients.
    Silent,
    /// Strict, with answers to port forwards.
    Replies,
    /// Strict, with the guard running.
    Guarded,
    /// The first layer alone: our routing rules are gone.
    Netfilter,
    /// The second layer alone: our table is gone.
    Routing,
}

pub const STRICT: System = System::Product(Setting::Strict);
pub const GUARDED: System = System::Product(Setting::Guarded);
pub const LAYER1: System = System::Product(Setting::Netfilter);
pub const LAYER2: System = System::Product(Setting::Routing);

impl System {
    /// A negative control.
    pub fn is_control(self) -> bool {
        !matches!(self, Self::Product(_))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::DdWrt => "ddwrt",
            Self::Zones => "zones",
            Self::Product(Setting::Strict) => "strict",
            Self::Product(Setting::Dns) => "dns",
            Self::Product(Setting::Silent) => "silent",
            Self::Product(Setting::Replies) => "replies",
            Self::Product(Setting::Guarded) => "guarded",
            Self::Product(Setting::Netfilter) => "layer1",
            Self::Product(Setting::Routing) => "layer2",
        }
    }

    /// Its column in the table.
    pub fn column(self) -> usize {
        match self {
            Self::None => 0,
            Self::DdWrt => 1,
            Self::Zones => 2,
            Self::Product(Setting::Netfilter) => 4,
            Self::Product(Setting::Routing) => 5,
            Self::Product(_) => 3,
        }
    }
}

/// What a scenario must show on a system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Nothing leaks.
    Tight,
    /// Every single flow leaks.
    AllLeak,
    /// Some flows leak: the system is closed for the others.
    SomeLeak,
}

/// A story and the systems it is told of.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&mut Stage) -> Res<Outcome>,
    pub systems: &'static [(System, Expect)],
}

impl Scenario {
    /// An error unless the outcome is what is expected of this system.
    pub fn judge(&self, system: System, outcome: &Outcome) -> Res<()> {
        let expect = self.systems.iter().find(|(s, _)| *s == system).map(|(_, expect)| *expect);
        let leaks = |flow: &FlowCount| flow.leaked * 2 >= flow.after && flow.leaked > 0;
        let good = match expect {
            Some(Expect::Tight) => outcome.leaked() == 0,
            Some(Expect::AllLeak) => !outcome.flows.is_empty() && outcome.flows.iter().all(leaks),
            Some(Expect::SomeLeak) => outcome.flows.iter().any(leaks),
            None => false,
        };
        if good {
            return Ok(());
        }
        Err(format!("expected {expect:?}, but: {outcome}{}", outcome.details()).into())
    }
}

/// One flow's share.
#[derive(Debug)]
pub struct FlowCount {
    pub flow: Flow,
    /// Packets that had no permitted way.
    pub exposed: u32,
    /// Of these, those that were sent when the event was over: a busy machine may take its time
    /// with the event itself.
    pub after: u32,
    /// Of these, how many left in clear.
    pub leaked: u32,
}

/// What a scenario found.
#[derive(Debug, Default)]
pub struct Outcome {
    pub flows: Vec<FlowCount>,
    /// Packets on the uplink that had no business there and belong to no flow.
    pub others: Vec<Packet>,
    /// The first strays, for messages.
    pub first: Vec<Packet>,
}

impl Outcome {
    /// Leaves out what the second layer alone says nothing about: resets and ICMP errors of the router
    /// itself, its answers to packets of connections that it does not know any more. Layer 1 keeps
    /// them in.
    pub fn without_own_answers(mut self) -> Self {
        let reset = |p: &Packet| p.proto == TCP && p.flags & RST != 0;
        self.others.retain(|p| !reset(p) && !p.is_icmp_error());
        self
    }

    /// Counts what `strays` hold of the flows; packets numbered below `from` were not exposed.
    pub fn count<'a>(strays: impl Iterator<Item = &'a Packet>, sent: &[Sent], from: u32) -> Self {
        let mut strays: Vec<Packet> = strays.cloned().collect();
        let first = strays.iter().take(8).cloned().collect();
        let mut flows = Vec::new();
        for s in sent {
            let one = std::slice::from_ref(s);
            let own = |p: &Packet| {
                let unmarked = s.flow.kind == Kind::Connect && p.mark.is_none();
                let attempt = p.proto == TCP && p.flags == SYN && p.dport == s.flow.to.port();
                (unmarked && attempt && p.dst == Some(s.flow.to.ip()))
                    || (p.mark.is_some_and(|m| m.flow == s.flow.id) && !p.is_icmp_error())
            };
            let (mine, rest): (Vec<_>, Vec<_>) = strays.into_iter().partition(own);
            strays = rest;
            let marked = Seen::distinct(&mine, one);
            let leaked = marked + mine.iter().filter(|p| p.mark.is_none()).count() as u32;
            flows.push(FlowCount {
                flow: s.flow.clone(),
                exposed: s.sent.saturating_sub(from),
                after: s.sent.saturating_sub(from),
                leaked,
            });
        }
        // An open connection's acknowledgements, resets and errors carry no number of their own.
        Self { flows, others: strays, first }
    }

    /// The event was over when these flows had come to this number.
    pub fn over_at(mut self, number: u32, sent: &[Sent]) -> Self {
        for (flow, sent) in self.flows.iter_mut().zip(sent) {
            flow.after = sent.sent.saturating_sub(number);
        }
        self
    }

    /// Everything that should not have been on the uplink.
    pub fn leaked(&self) -> u32 {
        self.flows.iter().map(|f| f.leaked).sum::<u32>() + self.others.len() as u32
    }

    fn family(&self, v4: bool) -> (u32, u32) {
        let flows = self.flows.iter().filter(|f| f.flow.to.is_ipv4() == v4);
        flows.fold((0, 0), |sum, f| (sum.0 + f.leaked, sum.1 + f.exposed))
    }

    /// The counts as the table shows them.
    pub fn cell(&self) -> String {
        let (v4, v6) = (self.family(true), self.family(false));
        match (v4.1, v6.1) {
            (0, 0) => if self.others.is_empty() { "ok" } else { "others" }.to_owned(),
            (_, 0) => format!("{} + –", v4.0),
            (0, _) => format!("– + {}", v6.0),
            _ => format!("{} + {}", v4.0, v6.0),
        }
    }

    pub fn details(&self) -> String {
        let mut text = String::new();
        for f in &self.flows {
            let Flow { kind, to, id } = &f.flow;
            text +=
                &format!("\n    flow {id} {kind:?} to {to}: {} of {} leaked", f.leaked, f.exposed);
        }
        for packet in self.first.iter().chain(self.others.iter().take(8)) {
            text += &format!("\n    on the uplink: {packet}");
        }
        text
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exposed: u32 = self.flows.iter().map(|f| f.exposed).sum();
        write!(f, "leaked {} of {exposed}", self.leaked())?;
        if self.others.is_empty() { Ok(()) } else { write!(f, ", {} unmarked", self.others.len()) }
    }
}

/// A laboratory and the system that acts on its router.
pub struct Stage {
    pub lab: Lab,
    pub system: System,
    /// Debian's kind of iptables, `legacy` or `nft`, that holds the product's rules; without, nftables.
    pub iptables: Option<&'static str>,
    pub product: Option<Product>,
    guard: Option<Daemon>,
}

impl Stage {
    pub fn new(system: System, iptables: Option<&'static str>) -> Res<Self> {
        let lab = Lab::new(Tunnel::Veth)?;
        Ok(Self { lab, system, iptables, product: None, guard: None })
    }

    /// Puts the system in force.
    pub fn engage(&mut self) -> Res<()> {
        match self.system {
            System::None => Ok(()),
            System::DdWrt => {
                self.lab.router.sh("iptables-legacy -I FORWARD -i br-lan -o wan0 -j DROP").map(drop)
            }
            System::Zones => self.lab.router.nft(&zones()),
            System::Product(setting) => {
                let (mode, more) = match setting {
                    Setting::Strict | Setting::Guarded | Setting::Netfilter | Setting::Routing => {
                        ("strict", "")
                    }
                    Setting::Dns => ("dns", ""),
                    Setting::Silent => ("strict", "\toption reject '0'\n"),
                    Setting::Replies => ("strict", "\toption port_forward_replies '1'\n"),
                };
                let mut product = Product::new(BINARY, &self.lab.router)?;
                if let Some(kind) = self.iptables {
                    product = product.with_iptables(crate::lab::iptables(kind)?)?;
                }
                product.configure(&configuration(mode, more))?;
                product.ok(&["apply"])?;
                match setting {
                    Setting::Guarded => self.guard = Some(product.spawn(&["guard"])?),
                    Setting::Netfilter => self.drop_routing()?,
                    Setting::Routing => self.lab.router.nft("delete table inet vpn_killswitch")?,
                    _ => {}
                }
                self.product = Some(product);
                Ok(())
            }
        }
    }

    fn drop_routing(&self) -> Res<()> {
        for family in ["-4", "-6"] {
            // Four rules, all of this priority.
            for rule in [32765; 4] {
                self.lab.router.sh(&format!("ip {family} rule del priority {rule}"))?;
            }
        }
        Ok(())
    }

    /// What the platform's hotplug does when a device came or went. Where the guard runs nobody else
    /// has to; a layer that was taken away must stay away.
    pub fn hotplug(&self) -> Res<()> {
        match (&self.product, self.system) {
            (Some(product), System::Product(Setting::Strict)) => product.ok(&["apply"]).map(drop),
            _ => Ok(()),
        }
    }

    /// An error if the program says that the kernel differs from what should be there.
    pub fn verify(&self) -> Res<()> {
        if matches!(self.system, LAYER1 | LAYER2) {
            return Ok(());
        }
        let Some(product) = &self.product else { return Ok(()) };
        let mut out = product.run(&["check"])?;
        // Protecting, blocking.
        let fine = |out: &Output| matches!(out.status.code(), Some(0 | 4));
        if self.system == GUARDED && !fine(&out) {
            // The guard repairs behind the event, not before anybody could look.
            let repaired = || match product.run(&["check"]) {
                Ok(now) => {
                    out = now;
                    fine(&out)
                }
                Err(_) => false,
            };
            // What it still finds then is reported below.
            drop(wait_for("the guard", 1.0, repaired));
        }
        if fine(&out) {
            return Ok(());
        }
        let text = [out.stdout, out.stderr].concat();
        Err(format!("check: {}: {}", out.status, String::from_utf8_lossy(&text)).into())
    }

    /// A flood from `from` with `event` in its middle. What was sent before the event must have
    /// gone through the tunnel; what is sent after it is exposed.
    pub fn during(
        &mut self,
        from: &Ns,
        flows: Vec<Flow>,
        event: impl FnOnce(&mut Self) -> Res<()>,
    ) -> Res<(Outcome, Seen, Vec<Sent>)> {
        let mut watch = Some(self.lab.watch()?);
        let flood = Flood::start(from, None, flows, RATE);
        flood.more(BEFORE)?;
        let before = flood.now();
        event(self)?;
        let after = flood.now();
        flood.more(AFTER)?;
        let sent = flood.stop()?;
        let seen = watch.take().ok_or("no watch")?.finish()?;
        for s in &sent {
            let early = |p: &&Packet| {
                p.mark.is_some_and(|m| m.flow == s.flow.id && m.seq < BEFORE) && !p.is_icmp_error()
            };
            let through = seen.vpn.iter().filter(early).count() as u32;
            if through < BEFORE {
                return Err(missing(s, BEFORE, through));
            }
        }
        self.verify()?;
        let outcome = Outcome::count(seen.strays(), &sent, before).over_at(after, &sent);
        Ok((outcome, seen, sent))
    }

    /// Sends fresh flows; all must go through the tunnel and arrive.
    pub fn all_delivered(&self, from: &Ns, flows: Vec<Flow>) -> Res<Outcome> {
        self.lab.forget_connections()?;
        let watch = self.lab.watch()?;
        let sent = crate::lab::traffic::send(from, None, flows, AFTER, RATE)?;
        let seen = watch.finish()?;
        for place in [&seen.vpn, &seen.internet] {
            Seen::all_arrived(place, &sent)?;
        }
        self.verify()?;
        // None of these was exposed: the tunnel was there.
        let mut outcome = Outcome::count(seen.strays(), &sent, 0);
        outcome.flows.iter_mut().for_each(|f| f.exposed = 0);
        Ok(outcome)
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_vpn-killswitch");

/// The open router's firewall with OpenWrt's way to close it.
fn zones() -> String {
    let closed = OPEN_ROUTER.replace(
        "policy accept;\n\t\tct state established,related accept\n",
        "policy drop;\n\
         \t\tct state established,related accept\n\
         \t\tiifname { \"br-lan\", \"br-guest\" } oifname \"wg0\" accept\n\
         \t\tiifname { \"br-lan\", \"br-guest\" } oifname { \"br-lan\", \"br-guest\" } accept\n\
         \t\tct status dnat accept\n\
         \t\tiifname \"wan0\" ip6 daddr 2001:db8:1:1::2 udp dport 7 accept\n",
    );
    format!("delete table inet fw4\n{closed}")
}
