//! Reads and writes routing rules and interface groups (rtnetlink).

use std::io;
use std::path::Path;

use netlink_bindings::rt_rule::FibRuleHdr;

use super::message::{decode, encode, number_of, ours};
use super::{Does, Installed, PROTOCOL, Rule, Step, cannot, plan};
use crate::netlink::attr::{bytes, nest};
use crate::netlink::{Refusal, Request, Socket, again, flag};
use crate::observe::{self, Link, Observed, SINK, SINK_TABLE, Sink};
use crate::policy::Policy;
use crate::types::Family;

/// `RTM_NEWRULE`, `RTM_DELRULE`, `RTM_GETRULE`, `RTM_SETLINK` (linux/rtnetlink.h).
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
const GETRULE: u16 = 34;
const SETLINK: u16 = 19;
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const NEWROUTE: u16 = 24;
/// `RTPROT_STATIC`, `RT_SCOPE_LINK`, `RTN_UNICAST`, `RTA_OIF`, `RTA_TABLE`.
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
/// `IFF_UP`; `IFLA_IFNAME`, `IFLA_LINKINFO`, `IFLA_INFO_KIND`.
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// `IFLA_GROUP` (linux/if_link.h).
const IFLA_GROUP: u16 = 27;

/// How often apply looks again. Each look but the last finds something to do.
const ROUNDS: usize = 6;

/// What an apply did.
#[derive(Debug, Default)]
pub struct Applied {
    /// What was different before.
    pub changes: Vec<String>,
    /// What this kernel refused, and why.
    pub refused: Vec<String>,
}

/// What of the layer is in the kernel.
#[derive(Debug, Default)]
pub struct Readback {
    /// What there is.
    pub installed: Installed,
    /// How it differs from what should be.
    pub steps: Vec<Step>,
}

/// What is looked at and acted on: the kernel, or in tests what stands for one of another time.
trait Kernel {
    /// The devices, and the sink.
    fn devices(&mut self) -> io::Result<(Vec<Link>, Sink)>;
    /// What there is of our rules.
    fn rules(&mut self) -> io::Result<Installed>;
    /// Does one step. A rule that is there already, or is gone already, is as wanted.
    fn act(&mut self, step: &Step) -> Result<(), Refusal>;
}

impl Kernel for Socket {
    fn devices(&mut self) -> io::Result<(Vec<Link>, Sink)> {
        let seen = observe::look()?;
        Ok((seen.links, seen.sink))
    }

    fn rules(&mut self) -> io::Result<Installed> {
        read(self)
    }

    fn act(&mut self, step: &Step) -> Result<(), Refusal> {
        act(self, step)
    }
}

/// Compares the kernel with what should be there; without a policy nothing should.
///
/// # Errors
/// What the kernel said.
pub fn check(policy: Option<&Policy>, seen: &Observed) -> io::Result<Readback> {
    let installed = read(&mut Socket::open(0)?)?;
    let steps = wanted_steps(policy, &seen.links, seen.sink, &installed, &[]);
    Ok(Readback { installed, steps })
}

fn wanted_steps(
    policy: Option<&Policy>,
    links: &[Link],
    sink: Sink,
    installed: &Installed,
    unable: &[Rule],
) -> Vec<Step> {
    let mut steps = plan(policy, links, sink, installed, unable);
    // Where the kernel has no IPv6 there is none to refuse.
    if !Path::new("/proc/sys/net/ipv6").exists() {
        steps.retain(|s| {
            !matches!(
                s,
                Step::Add(Rule { family: Family::V6, .. }) | Step::RouteToSink(Family::V6, _)
            )
        });
    }
    steps
}

/// Makes the kernel agree, and looks until it does. What the kernel refuses, or takes without doing it,
/// is left out and named. Devices are looked at but for the first time, if they were `seen` just now.
/// `unable` are rules that the kernel is known to refuse; it gets those that are found.
///
/// # Errors
/// What the kernel said to a question, or that it does not come to rest.
pub fn apply(
    policy: Option<&Policy>,
    seen: Option<&Observed>,
    unable: &mut Vec<Rule>,
) -> io::Result<Applied> {
    let seen = seen.map(|seen| (seen.links.clone(), seen.sink));
    rounds(&mut Socket::open(0)?, policy, seen, unable)
}

fn rounds(
    kernel: &mut dyn Kernel,
    policy: Option<&Policy>,
    mut seen: Option<(Vec<Link>, Sink)>,
    unable: &mut Vec<Rule>,
) -> io::Result<Applied> {
    let mut applied = Applied::default();
    let mut refused: Vec<Step> = Vec::new();
    // Families of which a rule was refused: what else could be done was done in the same round.
    let mut ended: Vec<Family> = Vec::new();
    let mut done_before: [Vec<Step>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let (links, sink) = match seen.take() {
            Some(seen) => seen,
            None => kernel.devices()?,
        };
        let installed = kernel.rules()?;
        // A kernel that does not know the attribute takes the rule without it, and then everything may
        // use the main table. Nothing of the family closes anything then.
        for rule in installed.rules.iter().filter(|r| r.does == Does::Main && policy.is_some()) {
            let meant = Rule { does: Does::MainWithoutUplinks, ..rule.clone() };
            if !unable.contains(&meant) {
                applied.refused.push(format!(
                    "{}: this kernel ignores suppress_ifgroup (Linux 3.12 knows it)",
                    Step::Add(meant.clone())
                ));
                unable.push(meant);
            }
        }
        let mut steps = wanted_steps(policy, &links, sink, &installed, unable);
        steps.retain(|s| {
            !refused.contains(s) && s.rule().is_none_or(|r| !ended.contains(&r.family))
        });
        if steps.is_empty() {
            return Ok(applied);
        }
        let mut done: Vec<Step> = Vec::new();
        for step in steps {
            // What comes behind a refused rule depends on it.
            if policy.is_some()
                && step
                    .rule()
                    .is_some_and(|r| ended.contains(&r.family) && cannot(r.family, unable))
            {
                continue;
            }
            // A kernel without groups (before 2.6.39) takes them and has none.
            let without_effect = matches!(step, Step::Group { .. })
                && done_before.iter().all(|round| round.contains(&step));
            let outcome = if without_effect {
                Err("this kernel takes it and does not do it".to_owned())
            } else {
                kernel.act(&step).map_err(|refusal| refusal.to_string())
            };
            match outcome {
                Ok(()) => done.push(step),
                Err(why) => {
                    applied.refused.push(format!("{step}: {why}"));
                    if let Some(rule) = step.rule() {
                        unable.push(rule.clone());
                        ended.push(rule.family);
                        // Behind old ones they are never asked, and wait for the rest. And to delete one
                        // would be to delete the first of those that are equal, which leaves the old
                        // refusal before what allows.
                        let old = installed.rules.iter().any(|r| r.family == rule.family);
                        if cannot(rule.family, unable) && !old {
                            take_back(kernel, &mut done, rule.family);
                        }
                    }
                    refused.push(step);
                }
            }
        }
        applied.changes.extend(done.iter().map(Step::to_string));
        let [_, last] = done_before;
        done_before = [last, done];
    }
    Err(io::Error::other("devices and rules keep changing; another program is at them"))
}

/// Deletes the rules of a family that were added just now, from the last to be asked to the first: they
/// would refuse without allowing.
fn take_back(kernel: &mut dyn Kernel, done: &mut Vec<Step>, family: Family) {
    for step in done.iter().rev() {
        if let Step::Add(rule) = step
            && rule.family == family
        {
            let _ = kernel.act(&Step::Delete(rule.clone()));
        }
    }
    done.retain(|s| !matches!(s, Step::Add(rule) if rule.family == family));
}

/// Our rules, of both families, in their order. A kernel that cannot have any has none.
fn read(socket: &mut Socket) -> io::Result<Installed> {
    let request = Request::list(GETRULE, vec![0; FibRuleHdr::len()]);
    let listed = again(|| {
        let mut listed = Vec::new();
        socket.request(&request, |reply| {
            listed.extend(decode(reply)?);
            Ok(())
        })?;
        Ok(listed)
    });
    match listed {
        Ok(listed) => Ok(ours(&listed)),
        Err(refusal) if refusal.is(libc::EOPNOTSUPP) => Ok(Installed::default()),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Does one step. A rule that is there already, or is gone already, is as wanted.
///
/// # Errors
/// The kernel's refusal; `EAFNOSUPPORT` or `EOPNOTSUPP` where it cannot do such a rule.
fn act(socket: &mut Socket, step: &Step) -> Result<(), Refusal> {
    let (request, fine) = match step {
        Step::Add(rule) => {
            // Without NLM_F_EXCL: for a moment the old one is there beside it.
            let flags = flag(libc::NLM_F_CREATE);
            (Request { kind: NEWRULE, flags, payload: encode(rule) }, 0)
        }
        Step::Delete(rule) => {
            (Request { kind: DELRULE, flags: 0, payload: encode(rule) }, libc::ENOENT)
        }
        Step::Group { index, group, .. } => {
            let mut payload = link_header(*index, 0);
            bytes(&mut payload, IFLA_GROUP, &group.to_ne_bytes());
            (Request { kind: SETLINK, flags: 0, payload }, libc::ENODEV)
        }
        Step::AddSink => {
            let mut payload = link_header(0, IFF_UP);
            bytes(&mut payload, IFLA_IFNAME, &[SINK.as_bytes(), &[0]].concat());
            nest(&mut payload, IFLA_LINKINFO, |out| bytes(out, IFLA_INFO_KIND, b"bridge"));
            (Request { kind: NEWLINK, flags: flag(libc::NLM_F_CREATE), payload }, 0)
        }
        Step::DeleteSink(index) => {
            (Request { kind: DELLINK, flags: 0, payload: link_header(*index, 0) }, libc::ENODEV)
        }
        Step::RouteToSink(family, index) => {
            // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
            let mut payload =
                vec![number_of(*family), 0, 0, 0, 0, PROTOCOL, SCOPE_LINK, UNICAST, 0, 0, 0, 0];
            bytes(&mut payload, RTA_TABLE, &SINK_TABLE.to_ne_bytes());
            bytes(&mut payload, RTA_OIF, &index.to_ne_bytes());
            let flags = flag(libc::NLM_F_CREATE) | flag(libc::NLM_F_REPLACE);
            (Request { kind: NEWROUTE, flags, payload }, libc::EEXIST)
        }
    };
    match socket.request(&request, |_| Ok(())) {
        Err(refusal) if refusal.is(fine) => Ok(()),
        other => other,
    }
}

/// A `struct ifinfomsg` for the device of that index, or for one that its name says, with `flags` set.
fn link_header(index: u32, flags: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend(index.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // Which of the flags are meant.
    out.extend(flags.to_ne_bytes());
    out
}

#[cfg(test)]
#[path = "old_kernel_tests.rs"]
mod tests;
