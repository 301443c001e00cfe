//! A routing rule of ours as rtnetlink's bytes, and back.
//!
//! Pure. Also decides which of the rules that a kernel lists are ours: since Linux 4.17 a rule says who
//! made it, before that it does not, and only what is exactly a rule that we make counts as one.

use std::io;

use netlink_bindings::rt_rule::FibRuleHdr;
use netlink_bindings::utils::find_attr;

use super::{DEFAULT_GROUP, Does, Installed, PRIORITY, PROTOCOL, Rule};
use crate::netlink::attr::{bytes, each, native};
use crate::observe::SINK_TABLE;
use crate::types::Family;

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
pub(super) const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PAD: u16 = 18;
pub(super) const FRA_PROTOCOL: u16 = 21;
/// The last one that is known to say what a rule is for (`FRA_DSCP_MASK`).
const FRA_MAX: u16 = 30;
/// A rule with any other is not one that we make.
const UNDERSTOOD: [u16; 9] = [
    FRA_IIFNAME,
    FRA_PRIORITY,
    FRA_FWMARK,
    FRA_SUPPRESS_IFGROUP,
    FRA_SUPPRESS_PREFIXLEN,
    FRA_TABLE,
    FRA_FWMASK,
    FRA_PAD,
    FRA_PROTOCOL,
];
/// What an attribute says that the kernel prints although nothing was asked for.
const NONE: u32 = u32::MAX;

/// Who made a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// We, as the rule says.
    Us,
    /// Others, as the rule says.
    Others,
    /// This kernel does not say.
    Unsaid,
}

/// `AF_INET`, `AF_INET6`.
pub fn number_of(family: Family) -> u8 {
    let number = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let [number, ..] = number.to_le_bytes();
    number
}

/// A `struct fib_rule_hdr` with its attributes, which says the rule.
pub fn encode(rule: &Rule) -> Vec<u8> {
    let (action, flags) = match &rule.does {
        Does::PassToMain(_) => (TO_TABLE, 0),
        Does::MainWithoutUplinks | Does::Main | Does::ToSink => (TO_TABLE, INVERT),
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
            number(FRA_SUPPRESS_IFGROUP, DEFAULT_GROUP);
            bytes(&mut out, FRA_IIFNAME, b"lo\0");
        }
        Does::Main => {
            number(FRA_TABLE, TABLE_MAIN);
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

/// A rule, and who made it; `None` for other families.
///
/// # Errors
/// `InvalidData` where this is no rule.
pub fn decode(reply: &[u8]) -> io::Result<Option<(Rule, Maker)>> {
    let Some(header) = reply.get(..FibRuleHdr::len()).and_then(FibRuleHdr::new_from_slice) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let family = match i32::from(header.family) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return Ok(None),
    };
    let attrs = reply.get(FibRuleHdr::len()..).unwrap_or_default();
    let number = |kind, default| native(attrs, kind).unwrap_or(default);
    let (priority, group) = (number(FRA_PRIORITY, 0), number(FRA_SUPPRESS_IFGROUP, NONE));
    let (mark, mask) = (number(FRA_FWMARK, 0), number(FRA_FWMASK, 0));
    let table = number(FRA_TABLE, header.table.into());
    let loopback = find_attr(attrs, FRA_IIFNAME) == Some(b"lo\0");
    let maker = match find_attr(attrs, FRA_PROTOCOL) {
        Some(&[PROTOCOL]) => Maker::Us,
        Some(_) => Maker::Others,
        None => Maker::Unsaid,
    };
    // Told of every rule by a kernel that can suppress (Linux 3.12).
    let suppresses = find_attr(attrs, FRA_SUPPRESS_PREFIXLEN).is_some();
    let more = number(FRA_SUPPRESS_PREFIXLEN, NONE) != NONE
        || each(attrs).any(|(kind, _)| kind <= FRA_MAX && !UNDERSTOOD.contains(&kind))
        || (header.dst_len, header.src_len, header.tos) != (0, 0, 0);
    let inverted = header.flags & INVERT != 0;
    let does = match (header.action, inverted, loopback, mark, table, group) {
        _ if more => None,
        (TO_TABLE, false, false, 1.., TABLE_MAIN, NONE) if mask == mark => {
            Some(Does::PassToMain(mark))
        }
        (TO_TABLE, true, true, 0, TABLE_MAIN, DEFAULT_GROUP) => Some(Does::MainWithoutUplinks),
        (TO_TABLE, true, true, 0, TABLE_MAIN, NONE) if maker == Maker::Unsaid && !suppresses => {
            Some(Does::Main)
        }
        (TO_TABLE, true, true, 0, SINK_TABLE, NONE) => Some(Does::ToSink),
        (PROHIBIT, true, true, 0, ..) => Some(Does::Refuse),
        _ => None,
    };
    let does =
        does.unwrap_or_else(|| Does::Else(format!("action {} table {table}", header.action)));
    Ok(Some((Rule { family, priority, does }, maker)))
}

/// Whether a notice of the kernel's is about a rule of ours, or of one that cannot be told from ours.
pub fn concerns_us(notice: &[u8]) -> bool {
    matches!(decode(notice), Ok(Some((rule, maker)))
        if maker == Maker::Us || (maker == Maker::Unsaid && rule.priority == PRIORITY))
}

/// What there is of ours among the rules that a kernel lists, in its order.
pub fn ours(listed: &[(Rule, Maker)]) -> Installed {
    let mut installed = Installed::default();
    for (at, (rule, maker)) in listed.iter().enumerate() {
        // Somebody may have such a rule for a mark; ours stands directly before the next of ours.
        let before_main = || {
            let rest = listed.iter().skip(at + 1).map(|(next, _)| next);
            let next = rest.into_iter().find(|next| next.family == rule.family);
            next.is_some_and(|next| {
                next.priority == PRIORITY
                    && matches!(next.does, Does::MainWithoutUplinks | Does::Main)
            })
        };
        let exactly_ours = match rule.does {
            _ if rule.priority != PRIORITY => false,
            Does::PassToMain(_) => before_main(),
            Does::Else(_) => false,
            _ => true,
        };
        if *maker == Maker::Us || (*maker == Maker::Unsaid && exactly_ours) {
            installed.rules.push(rule.clone());
        } else if rule.priority < PRIORITY_MAIN
            && installed.rules.iter().any(|r| r.family == rule.family)
        {
            installed.overtaken.push(rule.family);
        }
    }
    installed
}
