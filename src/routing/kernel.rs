//! Reads and writes routing rules and interface groups (rtnetlink).

use std::io;
use std::path::Path;

use netlink_bindings::rt_rule::{FibRuleAttrs, FibRuleHdr};

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
/// `RT_TABLE_MAIN`, and the priority of the rule that asks it.
const TABLE_MAIN: u32 = 254;
const PRIORITY_MAIN: u32 = 32766;
/// `FR_ACT_TO_TBL`, `FR_ACT_PROHIBIT`, `FIB_RULE_INVERT` and `FRA_*` (linux/fib_rules.h).
const TO_TABLE: u8 = 1;
const PROHIBIT: u8 = 8;
const INVERT: u32 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
/// `IFLA_GROUP` (linux/if_link.h).
const IFLA_GROUP: u16 = 27;
/// What an attribute says that the kernel prints although nothing was asked for.
const NONE: u32 = u32::MAX;

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

/// Compares the kernel with what should be there; without a policy nothing should.
///
/// # Errors
/// What the kernel said.
pub fn check(policy: Option<&Policy>, seen: &Observed) -> io::Result<Readback> {
    compare(&mut Socket::open(0)?, policy, &seen.links, seen.sink, &[])
}

fn compare(
    socket: &mut Socket,
    policy: Option<&Policy>,
    links: &[Link],
    sink: Sink,
    unable: &[Rule],
) -> io::Result<Readback> {
    let installed = read(socket)?;
    let mut steps = plan(policy, links, sink, &installed, unable);
    // Where the kernel has no IPv6 there is none to refuse.
    if !Path::new("/proc/sys/net/ipv6").exists() {
        steps.retain(|s| {
            !matches!(
                s,
                Step::Add(Rule { family: Family::V6, .. }) | Step::RouteToSink(Family::V6, _)
            )
        });
    }
    Ok(Readback { installed, steps })
}

/// Makes the kernel agree, and looks until it does. What the kernel refuses is left out and named.
/// Devices are looked at but for the first time, if they were `seen` just now. `unable` are rules that
/// the kernel is known to refuse; it gets those that are found.
///
/// # Errors
/// What the kernel said to a question, or that it does not come to rest.
pub fn apply(
    policy: Option<&Policy>,
    mut seen: Option<&Observed>,
    unable: &mut Vec<Rule>,
) -> io::Result<Applied> {
    let mut socket = Socket::open(0)?;
    let mut applied = Applied::default();
    let mut refused: Vec<Step> = Vec::new();
    for _ in 0..ROUNDS {
        let mut steps = match seen.take() {
            Some(seen) => compare(&mut socket, policy, &seen.links, seen.sink, unable)?.steps,
            None => {
                let seen = observe::look()?;
                compare(&mut socket, policy, &seen.links, seen.sink, unable)?.steps
            }
        };
        steps.retain(|s| !refused.contains(s));
        if steps.is_empty() {
            return Ok(applied);
        }
        let mut done: Vec<Step> = Vec::new();
        for step in steps {
            let rule = match &step {
                Step::Add(rule) | Step::Delete(rule) => Some(rule),
                _ => None,
            };
            // What comes behind a refused rule depends on it.
            if policy.is_some() && rule.is_some_and(|r| cannot(r.family, unable)) {
                continue;
            }
            match act(&mut socket, &step) {
                Ok(()) => done.push(step),
                Err(refusal) => {
                    applied.refused.push(format!("{step}: {refusal}"));
                    unable.extend(rule.cloned());
                    if let Some(rule) = rule.filter(|r| cannot(r.family, unable)) {
                        take_back(&mut socket, &mut done, rule.family);
                    }
                    refused.push(step);
                }
            }
        }
        applied.changes.extend(done.iter().map(Step::to_string));
    }
    Err(io::Error::other("devices and rules keep changing; another program is at them"))
}

/// Deletes the rules of a family that were added just now, from the last to be asked to the first: they
/// would refuse without allowing.
fn take_back(socket: &mut Socket, done: &mut Vec<Step>, family: Family) {
    for step in done.iter().rev() {
        if let Step::Add(rule) = step
            && rule.family == family
        {
            let _ = act(socket, &Step::Delete(rule.clone()));
        }
    }
    done.retain(|s| !matches!(s, Step::Add(rule) if rule.family == family));
}

/// Our rules, of both families, in their order.
fn read(socket: &mut Socket) -> io::Result<Installed> {
    let request = Request::list(GETRULE, vec![0; FibRuleHdr::len()]);
    let read = again(|| {
        let mut installed = Installed::default();
        socket.request(&request, |reply| {
            match decode(reply)? {
                Some((family, priority, None))
                    if priority < PRIORITY_MAIN
                        && installed.rules.iter().any(|r| r.family == family) =>
                {
                    installed.overtaken.push(family);
                }
                Some((family, priority, Some(does))) => {
                    installed.rules.push(Rule { family, priority, does });
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(installed)
    });
    Ok(read?)
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

/// `AF_INET`, `AF_INET6`.
fn number_of(family: Family) -> u8 {
    let number = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let [number, ..] = number.to_le_bytes();
    number
}

fn encode(rule: &Rule) -> Vec<u8> {
    let (action, flags) = match &rule.does {
        Does::PassToMain(_) => (TO_TABLE, 0),
        Does::MainWithoutUplinks | Does::ToSink => (TO_TABLE, INVERT),
        Does::Refuse => (PROHIBIT, INVERT),
        // Only ever deleted, by what identifies it.
        Does::Else(_) => (0, 0),
    };
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, flags.
    let mut out = vec![number_of(rule.family), 0, 0, 0, 0, 0, 0, action];
    out.extend(u32::to_ne_bytes(flags));
    let mut number = |kind, value: u32| bytes(&mut out, kind, &value.to_ne_bytes());
    number(FRA_PRIORITY, rule.priority);
    match &rule.does {
        Does::PassToMain(mark) => {
            number(FRA_FWMARK, *mark);
            number(FRA_FWMASK, *mark);
            number(FRA_TABLE, TABLE_MAIN);
        }
        Does::MainWithoutUplinks => {
            number(FRA_TABLE, TABLE_MAIN);
            number(FRA_SUPPRESS_IFGROUP, super::DEFAULT_GROUP);
            bytes(&mut out, FRA_IIFNAME, b"lo\0");
        }
        Does::ToSink => {
            number(FRA_TABLE, SINK_TABLE);
            bytes(&mut out, FRA_IIFNAME, b"lo\0");
        }
        Does::Refuse => bytes(&mut out, FRA_IIFNAME, b"lo\0"),
        Does::Else(_) => {}
    }
    bytes(&mut out, FRA_PROTOCOL, &[PROTOCOL]);
    out
}

/// A rule's family and priority and, if it is ours, what it does; `None` for other families.
fn decode(reply: &[u8]) -> io::Result<Option<(Family, u32, Option<Does>)>> {
    let Some(header) = reply.get(..FibRuleHdr::len()).and_then(FibRuleHdr::new_from_slice) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let family = match i32::from(header.family) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return Ok(None),
    };
    let (mut priority, mut ours) = (0, false);
    let (mut mark, mut mask, mut table, mut group) = (0, 0, u32::from(header.table), NONE);
    let (mut loopback, mut more) = (false, false);
    for attr in FibRuleAttrs::new(reply.get(FibRuleHdr::len()..).unwrap_or_default()) {
        match attr? {
            FibRuleAttrs::Priority(n) => priority = n,
            FibRuleAttrs::Protocol(n) => ours = n == PROTOCOL,
            FibRuleAttrs::Fwmark(n) => mark = n,
            FibRuleAttrs::Fwmask(n) => mask = n,
            FibRuleAttrs::Table(n) => table = n,
            FibRuleAttrs::SuppressIfgroup(n) => group = n,
            FibRuleAttrs::SuppressPrefixlen(n) => more |= n != NONE,
            FibRuleAttrs::Iifname(name) => loopback = name.to_bytes() == b"lo",
            FibRuleAttrs::Pad(_) => {}
            _ => more = true,
        }
    }
    if !ours {
        return Ok(Some((family, priority, None)));
    }
    more |= header.dst_len != 0 || header.src_len != 0 || header.tos != 0;
    let inverted = header.flags & INVERT != 0;
    let does = match (header.action, inverted, loopback, mark) {
        (TO_TABLE, false, false, 1..)
            if !more && mask == mark && table == TABLE_MAIN && group == NONE =>
        {
            Does::PassToMain(mark)
        }
        (TO_TABLE, true, true, 0)
            if !more && table == TABLE_MAIN && group == super::DEFAULT_GROUP =>
        {
            Does::MainWithoutUplinks
        }
        (TO_TABLE, true, true, 0) if !more && table == SINK_TABLE && group == NONE => Does::ToSink,
        (PROHIBIT, true, true, 0) if !more => Does::Refuse,
        (action, ..) => Does::Else(format!("action {action} table {table}")),
    };
    Ok(Some((family, priority, Some(does))))
}
