//! Reads and writes routing rules and interface groups (rtnetlink).

use std::io;

use netlink_bindings::rt_rule::{FibRuleAttrs, FibRuleHdr};

use super::{Does, PROTOCOL, Rule, Step};
use crate::netlink::{Refusal, Request, Socket, bytes, flag};
use crate::types::Family;

/// `RTM_NEWRULE`, `RTM_DELRULE`, `RTM_GETRULE`, `RTM_SETLINK` (linux/rtnetlink.h).
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
const GETRULE: u16 = 34;
const SETLINK: u16 = 19;
/// `RT_TABLE_MAIN`.
const TABLE_MAIN: u32 = 254;
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

/// Our rules, of both families.
///
/// # Errors
/// What the kernel said.
pub fn read(socket: &mut Socket) -> io::Result<Vec<Rule>> {
    let mut rules = Vec::new();
    let request = Request::list(GETRULE, vec![0; FibRuleHdr::len()]);
    socket
        .request(&request, |reply| {
            if let Some(rule) = decode(reply)? {
                rules.push(rule);
            }
            Ok(())
        })
        .map_err(io::Error::from)?;
    Ok(rules)
}

/// Does one step. A rule that is there already, or is gone already, is as wanted.
///
/// # Errors
/// The kernel's refusal; `EAFNOSUPPORT` or `EOPNOTSUPP` where it cannot do such a rule.
pub fn act(socket: &mut Socket, step: &Step) -> Result<(), Refusal> {
    let (request, fine) = match step {
        Step::Add(rule) => {
            let flags = flag(libc::NLM_F_CREATE) | flag(libc::NLM_F_EXCL);
            (Request { kind: NEWRULE, flags, payload: encode(rule) }, libc::EEXIST)
        }
        Step::Delete(rule) => {
            (Request { kind: DELRULE, flags: 0, payload: encode(rule) }, libc::ENOENT)
        }
        Step::Group { index, group, .. } => {
            // struct ifinfomsg: the index is at byte 4.
            let mut payload = vec![0; 4];
            payload.extend(index.to_ne_bytes());
            payload.extend([0; 8]);
            bytes(&mut payload, IFLA_GROUP, &group.to_ne_bytes());
            (Request { kind: SETLINK, flags: 0, payload }, libc::ENODEV)
        }
    };
    match socket.request(&request, |_| Ok(())) {
        Err(refusal) if refusal.is(fine) => Ok(()),
        other => other,
    }
}

fn encode(rule: &Rule) -> Vec<u8> {
    let family = match rule.family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let (action, flags) = match &rule.does {
        Does::PassToMain(_) => (TO_TABLE, 0),
        Does::MainWithoutUplinks => (TO_TABLE, INVERT),
        Does::Refuse => (PROHIBIT, INVERT),
        // Only ever deleted, by what identifies it.
        Does::Else(_) => (0, 0),
    };
    let [family, ..] = family.to_le_bytes();
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, flags.
    let mut out = vec![family, 0, 0, 0, 0, 0, 0, action];
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
        Does::Refuse => bytes(&mut out, FRA_IIFNAME, b"lo\0"),
        Does::Else(_) => {}
    }
    bytes(&mut out, FRA_PROTOCOL, &[PROTOCOL]);
    out
}

/// A rule of ours, or `None` for somebody else's.
fn decode(reply: &[u8]) -> io::Result<Option<Rule>> {
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
        return Ok(None);
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
        (PROHIBIT, true, true, 0) if !more => Does::Refuse,
        (action, ..) => Does::Else(format!("action {action} table {table}")),
    };
    Ok(Some(Rule { family, priority, does }))
}
