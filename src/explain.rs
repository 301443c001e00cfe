//! Explain: what would happen to a packet, which rule decides and which guarantee that serves.
//!
//! Pure: [`eval`] says what the rules do, the [`Oracle`] where the kernel would route, and the status
//! which layer is really there (G11). Nothing is decided here that the rules or routes do not decide.
//! What other programs would do to the packet (their firewall, their marks) is not known here.

use std::fmt;
use std::net::IpAddr;

use crate::conntrack::{Oracle, Question, Way};
use crate::json;
use crate::observe::{Link, SINK};
use crate::policy::Policy;
use crate::ruleset::eval::{Packet, Path, Trace, eval};
use crate::ruleset::{self, Hook, Rule, Ruleset};
use crate::status::{Layer, Notice};
use crate::types::{Family, Proto, port};

/// The first packet of a connection, as a person asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who sends it; `None` for the router itself.
    pub source: Option<IpAddr>,
    /// Where to.
    pub dest: IpAddr,
    /// Transport protocol.
    pub proto: Proto,
    /// Destination port, where the protocol has one.
    pub port: Option<u16>,
    /// The device that it comes in by, where the way back to the source does not tell.
    pub device: Option<String>,
}

impl Asked {
    /// Reads the arguments of the command: `192.168.1.7` or `router`, and `192.0.2.1:443/tcp`,
    /// `[2001:db8::1]:443/udp` or `192.0.2.1/icmp`.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn read(source: &str, target: &str, device: Option<&str>) -> Result<Self, String> {
        let Some((place, proto)) = target.rsplit_once('/') else {
            return Err(format!(
                "'{target}' has no protocol: write 192.0.2.1:443/tcp or ADDRESS/icmp"
            ));
        };
        let (dest, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((dest, "")) => (dest, ""),
            Some((dest, rest)) => match rest.strip_prefix(':') {
                Some(port) => (dest, port),
                None => return Err(format!("'{place}' is not [ADDRESS]:PORT")),
            },
            // More than one colon is IPv6, and then the port wants the brackets.
            None if place.matches(':').count() == 1 => place.split_once(':').unwrap_or((place, "")),
            None => (place, ""),
        };
        Self::new(source, dest, proto, port, device)
    }

    /// Reads the parts one by one; an empty port is none.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn new(
        source: &str,
        dest: &str,
        proto: &str,
        number: &str,
        device: Option<&str>,
    ) -> Result<Self, String> {
        let addr = |text: &str| {
            text.parse::<IpAddr>()
                .map_err(|_| format!("'{text}' is not an address; names are not looked up here"))
        };
        let (from, to) = if source == "router" {
            (None, addr(dest)?)
        } else {
            (Some(addr(source)?), addr(dest)?)
        };
        let family = Family::of(&to);
        if from.is_some_and(|from| Family::of(&from) != family) {
            return Err(format!(
                "{source} and {dest} are of different families: no packet has both"
            ));
        }
        for addr in from.iter().chain([&to]) {
            if stays(addr) {
                return Err(format!(
                    "{addr} is for one link or for many hosts: no router passes it on"
                ));
            }
        }
        let proto_number = Proto::parse(proto).ok_or_else(|| {
            format!("'{proto}' is not tcp, udp, icmp, icmpv6 or a protocol's number")
        })?;
        // What people call ping has two numbers.
        let proto = match (proto_number, family) {
            (Proto::Icmp, Family::V6) => Proto::Icmpv6,
            (Proto::Icmpv6, Family::V4) => Proto::Icmp,
            (other, _) => other,
        };
        let port = match (proto.has_ports(), number) {
            (true, "") => return Err(format!("{proto} needs a port, from 1 to 65535")),
            (false, "") => None,
            (false, _) => return Err(format!("protocol {proto} has no ports")),
            (true, text) => {
                Some(port(text).ok_or_else(|| format!("'{text}' is not a port from 1 to 65535"))?)
            }
        };
        Ok(Self { source: from, dest: to, proto, port, device: device.map(str::to_owned) })
    }
}

/// Addresses that nothing is routed for.
fn stays(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            a.is_multicast() || a.is_broadcast() || a.is_unspecified() || a.is_link_local()
        }
        IpAddr::V6(a) => a.is_multicast() || a.is_unspecified() || a.is_unicast_link_local(),
    }
}

/// What becomes of a packet, as far as the kill switch and the router's routing decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is let through.
    Passes,
    /// It is refused.
    Refused,
    /// Nobody refuses it, and the router has no way to send it.
    Unreachable,
}

/// What kind of place a device leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into a tunnel.
    Tunnel,
    /// To a local network.
    Local,
    /// The router itself.
    Router,
    /// Anywhere else: the open internet.
    Outside,
    /// No way is known.
    Nowhere,
}

/// What one layer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// It lets the packet pass.
    Passes,
    /// It refuses the packet.
    Refuses,
    /// It does not see the packet: it is not installed, not meant for such, or another came first.
    Nothing,
}

/// A layer and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSays {
    /// `netfilter` or `routing`.
    pub name: &'static str,
    /// Whether it is complete in the kernel.
    pub in_force: bool,
    /// What it says to this packet.
    pub says: Says,
}

/// A rule that the packet met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The chain.
    pub chain: &'static str,
    /// The rule's id.
    pub rule: String,
    /// The guarantee that it serves.
    pub guarantee: String,
    /// What it is for.
    pub comment: String,
    /// Its decision; empty when the next rule was asked.
    pub verdict: String,
}

/// The answer. Every key is always there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub verdict: Verdict,
    /// In a sentence.
    pub headline: String,
    /// The rule that decided; empty when none did.
    pub rule: String,
    /// The guarantee that it serves; empty when no rule decided.
    pub guarantee: String,
    /// What that rule is for, or what else decided.
    pub reason: String,
    /// What is done to the packet: accept, drop, reject (…); empty when no rule decided.
    pub action: String,
    /// Who sends it; `router` for the router itself.
    pub source: String,
    /// Where to.
    pub destination: IpAddr,
    /// Transport protocol.
    pub protocol: String,
    /// Destination port.
    pub port: Option<u16>,
    /// The device it comes in by; empty for the router's own.
    pub input: String,
    /// The device it leaves by, or would leave by if nobody refused it; empty when there is none.
    pub output: String,
    /// What kind of place that leads to.
    pub place: Place,
    /// The layers.
    pub layers: Vec<LayerSays>,
    /// The rules that it met, in order.
    pub steps: Vec<Step>,
    /// Whether the kernel has exactly what this was read from.
    pub certain: bool,
    /// What else matters.
    pub notes: Vec<Notice>,
}

json::fields!(LayerSays: name, in_force, says);
json::fields!(Step: chain, rule, guarantee, comment, verdict);
json::fields!(Explanation: verdict, headline, rule, guarantee, reason, action, source, destination, protocol, port, input "in", output "out", place, layers, steps, certain, notes);

impl json::Write for Verdict {
    fn write(&self, out: &mut String) {
        let word = match self {
            Self::Passes => "passes",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        };
        word.write(out);
    }
}

impl json::Write for Place {
    fn write(&self, out: &mut String) {
        let word = match self {
            Self::Tunnel => "tunnel",
            Self::Local => "local",
            Self::Router => "router",
            Self::Outside => "outside",
            Self::Nowhere => "nowhere",
        };
        word.write(out);
    }
}

impl json::Write for Says {
    fn write(&self, out: &mut String) {
        let word = match self {
            Self::Passes => "passes",
            Self::Refuses => "refuses",
            Self::Nothing => "nothing",
        };
        word.write(out);
    }
}

/// What is in force.
pub struct World<'a> {
    /// What is a tunnel and what is local.
    pub policy: &'a Policy,
    /// The rules that should be there, with the pauses that run filled in.
    pub rules: &'a Ruleset,
    /// The devices.
    pub links: &'a [Link],
    /// What there is of them in the kernel.
    pub layers: &'a [Layer],
}

/// Explains.
///
/// # Errors
/// Why the question has no answer, for a person.
pub fn explain(
    asked: &Asked,
    world: &World<'_>,
    oracle: &mut dyn Oracle,
) -> Result<Explanation, String> {
    let mut draft = Draft::new(asked, world, oracle)?;
    draft.judge(oracle);
    Ok(draft.finish())
}

/// An explanation in the making.
struct Draft<'a> {
    asked: &'a Asked,
    world: &'a World<'a>,
    /// The device it comes in by; empty for the router's own.
    input: String,
    packet: Packet,
    way: Way,
    /// The way it would take if the second layer were not there.
    free_way: Way,
    netfilter: Says,
    routing: Says,
    trace: Option<Trace<'a>>,
    notes: Vec<Notice>,
}

impl<'a> Draft<'a> {
    fn new(
        asked: &'a Asked,
        world: &'a World<'a>,
        oracle: &mut dyn Oracle,
    ) -> Result<Self, String> {
        let back = asked
            .source
            .map(|source| oracle.route(&Question { dest: source, source: None, from: 0, mark: 0 }));
        let input = match (&asked.device, &asked.source, &back) {
            (Some(_), None, _) => {
                return Err("what the router sends comes in by no device".to_owned());
            }
            (Some(device), ..) => device.clone(),
            (None, None, _) | (None, _, Some(Way::Here)) => String::new(),
            (None, _, Some(Way::Device(device))) => device.clone(),
            (None, Some(source), _) => {
                return Err(format!(
                    "the router knows no way to {source}, so nothing tells by which device its packets \
                     come in: name it"
                ));
            }
        };
        if !input.is_empty() && !world.links.iter().any(|l| l.name == input) {
            return Err(format!("there is no device '{input}' here"));
        }
        let path = if input.is_empty() {
            Path::Output { to: String::new() }
        } else {
            Path::Input { from: input.clone() }
        };
        let icmp_type = match asked.proto {
            Proto::Icmp => 8,
            Proto::Icmpv6 => 128,
            _ => 0,
        };
        let any = if asked.dest.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let packet = Packet {
            path,
            source: asked.source.unwrap_or(any),
            dest: asked.dest,
            proto: asked.proto.number(),
            source_port: 0,
            dest_port: asked.port.unwrap_or(0),
            icmp_type,
            tcp_syn: asked.proto == Proto::Tcp,
            hop_limit: 64,
            source_mac: asked.source.and_then(|source| oracle.mac(&source)),
            source_via: match back {
                Some(Way::Device(device)) => Some(device),
                _ => None,
            },
            mark: 0,
            uid: None,
            conn_new: true,
            conn_reply: false,
            conn_dnat: false,
            conn_mark: 0,
            into_ipsec: false,
            from_ipsec: false,
            snat_out_of_ipsec: false,
        };
        Ok(Self {
            asked,
            world,
            input,
            packet,
            way: Way::Nowhere,
            free_way: Way::Nowhere,
            netfilter: Says::Nothing,
            routing: Says::Nothing,
            trace: None,
            notes: Vec::new(),
        })
    }

    fn layer(&self, name: &str) -> Option<&Layer> {
        self.world.layers.iter().find(|l| l.name == name)
    }

    fn installed(&self, name: &str) -> bool {
        self.layer(name).is_some_and(|l| l.installed)
    }

    /// Follows the packet as the kernel would: what marks it, where it is routed, who judges it.
    fn judge(&mut self, oracle: &mut dyn Oracle) {
        let (own, filtered) = (self.input.is_empty(), self.installed("netfilter"));
        let mut mark = 0;
        if !own && filtered {
            let trace = eval(self.world.rules, &self.packet);
            mark = trace.mark;
            if !self.note(trace) {
                return;
            }
        }
        let from = self.world.links.iter().find(|l| l.name == self.input).map_or(0, |l| l.index);
        let source = self.asked.source.filter(|_| !own);
        let question = Question { dest: self.asked.dest, source, from, mark };
        self.way = oracle.route(&question);
        // With the mark, the second layer refuses only what the main table has no route for.
        let refused = match &self.way {
            Way::Device(device) => device == SINK,
            way => *way == Way::Refused,
        };
        if refused && mark & self.world.policy.pass_mark != 0 {
            self.way = Way::Nowhere;
        }
        let free = Question { mark: mark | self.world.policy.pass_mark, ..question };
        self.free_way = match &self.way {
            Way::Refused => oracle.route(&free),
            Way::Device(device) if device == SINK => oracle.route(&free),
            way => way.clone(),
        };
        if !own && self.installed("routing") {
            self.routing = match &self.way {
                Way::Device(device) if device == SINK => Says::Refuses,
                Way::Refused => Says::Refuses,
                Way::Device(_) | Way::Here => Says::Passes,
                Way::Nowhere => Says::Nothing,
            };
        }
        let to = match &self.way {
            Way::Device(device) => device.clone(),
            Way::Here if own => "lo".to_owned(),
            Way::Here | Way::Refused | Way::Nowhere => return,
        };
        if !filtered {
            return;
        }
        self.packet.path =
            if own { Path::Output { to } } else { Path::Forward { from: self.input.clone(), to } };
        let trace = eval(self.world.rules, &self.packet);
        if !self.note(trace) && own {
            self.others_may();
        }
    }

    /// Keeps what the rules did. Whether they let it pass.
    fn note(&mut self, trace: Trace<'a>) -> bool {
        let passes = trace.verdict.passes();
        self.netfilter = if passes { Says::Passes } else { Says::Refuses };
        self.trace = Some(trace);
        passes
    }

    /// The same packet from the VPN's own program may be one that an endpoint's rule lets out.
    fn others_may(&mut self) {
        for endpoint in &self.world.policy.endpoints {
            let (mark, uid) = (endpoint.mark.unwrap_or(0), endpoint.uid);
            let source_port = endpoint.source_port.unwrap_or(0);
            let theirs = Packet { mark, uid, source_port, ..self.packet.clone() };
            if eval(self.world.rules, &theirs).verdict.passes() {
                self.say(
                    "vpn-may",
                    format!("the VPN's own packets to its server {} are let out", endpoint.name),
                );
                return;
            }
        }
    }

    fn say(&mut self, code: &'static str, message: String) {
        self.notes.push(Notice { code, message });
    }

    fn place(&self) -> (String, Place) {
        let policy = self.world.policy;
        match &self.free_way {
            Way::Device(device) if device == SINK => (String::new(), Place::Nowhere),
            Way::Device(device) if policy.is_tunnel(device) => (device.clone(), Place::Tunnel),
            Way::Device(device) if policy.is_local(device) => (device.clone(), Place::Local),
            Way::Device(device) => (device.clone(), Place::Outside),
            Way::Here => (String::new(), Place::Router),
            // Not even without the second layer is there a way.
            Way::Refused | Way::Nowhere => (String::new(), Place::Nowhere),
        }
    }

    fn finish(mut self) -> Explanation {
        let refused = self.netfilter == Says::Refuses || self.routing == Says::Refuses;
        let (output, place) = self.place();
        let verdict = match (refused, &self.way) {
            (true, _) => Verdict::Refused,
            (false, Way::Nowhere | Way::Refused) => Verdict::Unreachable,
            (false, _) => Verdict::Passes,
        };
        // What is forwarded passes the last chain as well; the forward chain's word is the one that counts.
        let forwarded = self.trace.iter().flat_map(|t| &t.steps).rev().find(|s| {
            s.chain.hook == Hook::Forward && s.rule.verdict.is_some_and(ruleset::Verdict::passes)
        });
        let deciding = self.trace.as_ref().and_then(Trace::deciding);
        let deciding = match forwarded {
            Some(step) if deciding.is_some_and(passing) => Some(step.rule),
            _ => deciding,
        };
        // What marked it as exempt tells more than the rule that looks at the mark.
        let exempted = self
            .trace
            .iter()
            .flat_map(|t| &t.steps)
            .map(|s| s.rule)
            .find(|r| r.actions.iter().any(|a| matches!(a, ruleset::Action::SetMark(_))));
        let protected = self.world.layers.iter().any(|l| l.installed);
        let reason = match (verdict, deciding, exempted) {
            (Verdict::Passes, Some(rule), Some(by)) if rule.id.ends_with("_pass") => {
                by.comment.clone()
            }
            (Verdict::Refused, Some(rule), _) if !passing(rule) => rule.comment.clone(),
            (Verdict::Refused, ..) => "the routing rules refuse it".to_owned(),
            (Verdict::Unreachable, ..) => "the router has no route for it".to_owned(),
            (Verdict::Passes, Some(rule), _) => rule.comment.clone(),
            (Verdict::Passes, None, _) if !protected => "protection is off".to_owned(),
            (Verdict::Passes, None, _) if place == Place::Router => {
                "for the router itself".to_owned()
            }
            (Verdict::Passes, None, _) => "no rule refuses it".to_owned(),
        };
        // A rule that let it pass did not decide about what routing refused.
        let deciding = deciding.filter(|r| passing(r) == (verdict == Verdict::Passes));
        let (rule, mut guarantee, action) = deciding
            .map(|r| {
                let action = r.verdict.map(|v| v.to_string()).unwrap_or_default();
                (r.id.clone(), r.guarantee.to_string(), action)
            })
            .unwrap_or_default();
        if rule.is_empty() && verdict == Verdict::Refused {
            guarantee = "G1".to_owned();
        }
        let headline = headline(verdict, place, &output, &reason);
        let steps = self.trace.as_ref().map(steps).unwrap_or_default();
        let certain = self.look_around(verdict);
        let says = |name: &str| if name == "routing" { self.routing } else { self.netfilter };
        Explanation {
            verdict,
            headline,
            rule,
            guarantee,
            reason,
            action,
            source: self.asked.source.map_or_else(|| "router".to_owned(), |a| a.to_string()),
            destination: self.asked.dest,
            protocol: self.asked.proto.to_string(),
            port: self.asked.port,
            input: self.input.clone(),
            output,
            place,
            layers: self
                .world
                .layers
                .iter()
                .map(|l| LayerSays { name: l.name, in_force: l.in_force, says: says(l.name) })
                .collect(),
            steps,
            certain,
            notes: self.notes,
        }
    }

    /// Notes what could make the answer another. Whether there is nothing of that kind.
    fn look_around(&mut self, verdict: Verdict) -> bool {
        let differ = self.world.layers.iter().any(|l| l.installed && !l.in_force);
        if differ {
            self.say(
                "differs",
                "the kernel has other rules than it should have, so this may be otherwise: see check"
                    .to_owned(),
            );
        }
        let mut certain = !differ;
        let by_mac = self.world.policy.exempts.iter().any(|e| !e.src_mac.is_empty());
        if by_mac && self.packet.source_mac.is_none() && !self.input.is_empty() {
            certain &= verdict != Verdict::Refused;
            self.say(
                "mac-unknown",
                "the sender's Ethernet address is not known now; exemptions by it were left out"
                    .to_owned(),
            );
        }
        if self.world.policy.ipsec {
            certain &= verdict != Verdict::Refused;
            self.say(
                "ipsec",
                "what IPsec would encrypt passes, and cannot be told here".to_owned(),
            );
        }
        if !self.input.is_empty() && !self.world.policy.is_local(&self.input) {
            self.say("not-local", format!("{} is none of the local networks", self.input));
        }
        certain
    }
}

/// Whether the rule lets pass what it decides about.
fn passing(rule: &Rule) -> bool {
    rule.verdict.is_some_and(ruleset::Verdict::passes)
}

fn steps(trace: &Trace<'_>) -> Vec<Step> {
    let step = |step: &ruleset::eval::Step<'_>| Step {
        chain: step.chain.name,
        rule: step.rule.id.clone(),
        guarantee: step.rule.guarantee.to_string(),
        comment: step.rule.comment.clone(),
        verdict: step.rule.verdict.map(|v| v.to_string()).unwrap_or_default(),
    };
    trace.steps.iter().map(step).collect()
}

fn headline(verdict: Verdict, place: Place, output: &str, reason: &str) -> String {
    match (verdict, place) {
        (Verdict::Refused, _) => format!("REFUSED: it does not get out ({reason})."),
        (Verdict::Unreachable, _) => format!("NO WAY: nothing leaves ({reason})."),
        (Verdict::Passes, Place::Tunnel) => format!("PASSES: through the tunnel {output}."),
        (Verdict::Passes, Place::Local) => format!("PASSES: to the local network at {output}."),
        (Verdict::Passes, Place::Router) => "PASSES: it is for the router itself.".to_owned(),
        (Verdict::Passes, Place::Outside | Place::Nowhere) => {
            format!("PASSES: over {output}, beside the tunnel ({reason}).")
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline)?;
        let or = |text: &str, other: &str| if text.is_empty() { other } else { text }.to_owned();
        let port = self.port.map(|p| format!(" port {p}")).unwrap_or_default();
        writeln!(f, "  {} to {}{port} {}", self.source, self.destination, self.protocol)?;
        writeln!(f, "  in {}, out {}", or(&self.input, "-"), or(&self.output, "-"))?;
        if !self.rule.is_empty() {
            let (rule, guarantee) = (&self.rule, &self.guarantee);
            writeln!(f, "  rule {rule} ({guarantee}): {}: {}", self.action, self.reason)?;
        }
        for layer in &self.layers {
            let says = match layer.says {
                Says::Passes => "lets it pass",
                Says::Refuses => "refuses it",
                Says::Nothing if layer.in_force => "is not asked",
                Says::Nothing => "is not in force",
            };
            writeln!(f, "  layer {}: {says}", layer.name)?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {}", note.message)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
