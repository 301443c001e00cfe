//! A table as nftables sees it, and the translation of the rule model into one.
//!
//! The same type holds what is wanted and what was read back, so that comparing them is comparing
//! like with like. Translates only; order and meaning come from [`crate::ruleset`].

use super::expr::{self, Expr, base, ct, meta};
use crate::ruleset::{self, Action, Content, Hook, Key, KeyType, Match, Ruleset, Verdict};
use crate::types::{DEVICE_NAME_MAX, Family};

/// `NF_INET_PRE_ROUTING`, `NF_INET_FORWARD`, `NF_INET_POST_ROUTING` (linux/netfilter.h).
const HOOKS: [(Hook, u32); 3] = [(Hook::Prerouting, 0), (Hook::Forward, 2), (Hook::Postrouting, 4)];

/// `NFT_SET_ANONYMOUS`, `NFT_SET_INTERVAL`, `NFT_SET_TIMEOUT`, `NFT_SET_EVAL` (`enum nft_set_flags`).
pub const SET_ANONYMOUS: u32 = 1;
/// See [`SET_ANONYMOUS`].
pub const SET_INTERVAL: u32 = 4;
/// See [`SET_ANONYMOUS`].
pub const SET_TIMEOUT: u32 = 0x10;
/// See [`SET_ANONYMOUS`].
pub const SET_EVAL: u32 = 0x20;

/// nft's number for names of devices (`TYPE_IFNAME`, `enum datatypes`).
pub const TYPE_DEVICE: u32 = 41;

/// `ARPHRD_ETHER` (linux/if_arp.h).
const ARPHRD_ETHER: u16 = 1;
/// `NF_CT_STATE_BIT(IP_CT_NEW)` (linux/netfilter/nf_conntrack_common.h).
const CT_STATE_NEW: u32 = 8;
/// `IPS_DST_NAT`.
const CT_STATUS_DNAT: u32 = 0x20;
/// FIN, SYN, RST and ACK among the flags of a TCP header, and SYN alone (RFC 9293, section 3.1).
const TCP_OPENING: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
/// `IP_CT_DIR_REPLY`.
const CT_DIR_REPLY: u8 = 1;
/// syslog's "info".
const LOG_INFO: u32 = 6;
/// What nft accepts as a comment, less its final NUL (`NFTNL_UDATA_COMMENT_MAXLEN`).
const COMMENT_MAX: usize = 127;

/// Everything in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Table flags; anything but 0 is not ours (1 is `dormant`: switched off).
    pub flags: u32,
    /// Named counters; each rule increments the one that bears its name.
    pub counters: Vec<String>,
    /// Objects of other kinds (quotas, limits, …), by name and the kernel's number for the kind; none
    /// is ours.
    pub objects: Vec<(String, u32)>,
    /// Sets.
    pub sets: Vec<Set>,
    /// Chains.
    pub chains: Vec<Chain>,
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// nft's number for the type of its keys.
    pub key_type: u32,
    /// Length of a key in bytes.
    pub key_len: u32,
    /// `NFT_SET_*`.
    pub flags: u32,
    /// Default life of an element in milliseconds, 0 for ever.
    pub timeout_ms: u64,
    /// Elements at most, 0 for no limit.
    pub size: u32,
    /// Elements, where the model fills the set; `None` where packets do. Of a set that commands fill:
    /// the elements without an end, of which there should be none.
    pub elements: Option<Vec<(Key, Key)>>,
}

impl Set {
    /// The set without its elements.
    pub fn kind(&self) -> Self {
        Self { name: self.name.clone(), elements: None, ..*self }
    }
}

/// A chain. One that is not attached to a hook has `hook` `None`, and is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Hook number and priority.
    pub hook: Option<(u32, i32)>,
    /// `filter`.
    pub kind: String,
    /// [`expr::DROP`] or [`expr::ACCEPT`].
    pub policy: u32,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The kernel's number for it; 0 for a rule that is wanted.
    pub handle: u64,
    /// Shown by `nft list`; begins with guarantee and id.
    pub comment: String,
    /// What it does.
    pub exprs: Vec<Expr>,
    /// See [`ruleset::Rule::optional`]; `false` for what was read.
    pub optional: bool,
}

impl Rule {
    /// Whether both do the same under the same comment, wherever they stand.
    pub fn same(&self, other: &Self) -> bool {
        self.comment == other.comment && self.exprs == other.exprs
    }

    /// The model's id, as far as the comment tells.
    pub fn id(&self) -> &str {
        let id = self.comment.split(' ').nth(1).unwrap_or(&self.comment);
        id.trim_end_matches(':')
    }
}

/// Translates the model.
pub fn lower(ruleset: &Ruleset) -> Table {
    Table {
        flags: 0,
        counters: ruleset.rules().map(|(_, r)| r.id.clone()).collect(),
        objects: Vec::new(),
        sets: ruleset.sets.iter().map(set).collect(),
        chains: ruleset.chains.iter().map(chain).collect(),
    }
}

fn set(set: &ruleset::Set) -> Set {
    let (flags, timeout_ms, size, elements) = match &set.content {
        Content::Fixed(ranges) => {
            (if set.ranges { SET_INTERVAL } else { 0 }, 0, 0, Some(ranges.clone()))
        }
        Content::Recorded { timeout_secs, size } => {
            (SET_TIMEOUT | SET_EVAL, timeout_secs * 1000, *size, None)
        }
        Content::Timed => (SET_TIMEOUT, 0, 0, Some(Vec::new())),
    };
    // `enum datatypes` of nft, "informational" to the kernel: what makes `nft list` print addresses.
    let key_type = match set.key {
        KeyType::V4 => 7,
        KeyType::V6 => 8,
        KeyType::Mac => 9,
        KeyType::Port => 13,
        KeyType::Device => TYPE_DEVICE,
    };
    let key_len = u32::try_from(set.key.width()).unwrap_or(0);
    Set { name: set.name.clone(), key_type, key_len, flags, timeout_ms, size, elements }
}

fn chain(chain: &ruleset::Chain) -> Chain {
    let number = HOOKS.iter().find(|(hook, _)| *hook == chain.hook).map(|(_, n)| *n);
    Chain {
        name: chain.name.to_owned(),
        hook: number.map(|n| (n, chain.priority)),
        kind: "filter".to_owned(),
        policy: if chain.drop_by_default { expr::DROP } else { expr::ACCEPT },
        rules: chain.rules.iter().map(rule).collect(),
    }
}

fn rule(rule: &ruleset::Rule) -> Rule {
    let mut exprs = Vec::new();
    rule.matches.iter().for_each(|m| lower_match(m, &mut exprs));
    exprs.push(Expr::Counter(rule.id.clone()));
    rule.actions.iter().for_each(|a| lower_action(a, &mut exprs));
    exprs.extend(rule.verdict.map(|verdict| match verdict {
        Verdict::Accept => Expr::Verdict(expr::ACCEPT),
        Verdict::Drop => Expr::Verdict(expr::DROP),
        Verdict::RejectTcp => Expr::Reject { kind: expr::REJECT_TCP_RESET, code: 0 },
        Verdict::RejectAdmin => {
            Expr::Reject { kind: expr::REJECT_ICMPX, code: expr::ICMPX_ADMIN_PROHIBITED }
        }
    }));
    Rule { handle: 0, comment: comment(rule), exprs, optional: rule.optional }
}

/// `G1 fwd_tunnel: through a tunnel`, cut to what nft can hold.
pub fn comment(rule: &ruleset::Rule) -> String {
    let mut text = format!("{} {}: {}", rule.guarantee, rule.id, rule.comment).replace('"', "'");
    while text.len() > COMMENT_MAX {
        text.pop();
    }
    text
}

/// Offsets of the source and destination address in a header (RFC 791, RFC 8200).
fn address(family: Family, dest: bool) -> Expr {
    let (offset, len) = match family {
        Family::V4 => (if dest { 16 } else { 12 }, 4),
        Family::V6 => (if dest { 24 } else { 8 }, 16),
    };
    Expr::Payload { base: base::NETWORK, offset, len }
}

fn equal(value: impl Into<Vec<u8>>) -> Expr {
    Expr::Cmp { negated: false, value: value.into() }
}

fn lookup(set: &str, wanted: bool) -> Expr {
    Expr::Lookup { set: set.to_owned(), negated: !wanted }
}

fn mask(mask: u32) -> Expr {
    Expr::Bitwise { mask: mask.to_ne_bytes().into(), xor: vec![0; 4] }
}

fn lower_match(condition: &Match, out: &mut Vec<Expr>) {
    let loopback = || {
        let mut name = b"lo".to_vec();
        name.resize(DEVICE_NAME_MAX + 1, 0);
        name
    };
    let port = |offset| Expr::Payload { base: base::TRANSPORT, offset, len: 2 };
    match condition {
        Match::Family(family) => {
            // NFPROTO_IPV4, NFPROTO_IPV6
            let number = if *family == Family::V4 { 2 } else { 10 };
            out.extend([Expr::Meta(meta::NFPROTO), equal([number])]);
        }
        Match::InDevice(set, wanted) => {
            out.extend([Expr::Meta(meta::IIFNAME), lookup(set, *wanted)]);
        }
        Match::OutDevice(set) => out.extend([Expr::Meta(meta::OIFNAME), lookup(set, true)]),
        Match::NotFromLoopback => {
            out.extend([Expr::Meta(meta::IIFNAME), Expr::Cmp { negated: true, value: loopback() }])
        }
        Match::ToLoopback => out.extend([Expr::Meta(meta::OIFNAME), equal(loopback())]),
        Match::SourceIn(family, set) => out.extend([address(*family, false), lookup(set, true)]),
        Match::DestIn(family, set) => out.extend([address(*family, true), lookup(set, true)]),
        Match::SourceVia(pattern) => {
            let mut name = pattern.stem().as_bytes().to_vec();
            if !pattern.is_prefix() {
                name.resize(DEVICE_NAME_MAX + 1, 0);
            }
            out.extend([Expr::SourceRoute, equal(name)]);
        }
        Match::SourceNet(net) | Match::DestNet(net) => {
            let dest = matches!(condition, Match::DestNet(_));
            let load = address(net.family(), dest);
            let len = if net.family() == Family::V4 { 4 } else { 16 };
            let bits = |i: usize| {
                let used = usize::from(net.prefix_len()).saturating_sub(i * 8).min(8);
                u8::MAX.checked_shl(u32::try_from(8 - used).unwrap_or(8)).unwrap_or(0)
            };
            let (first, _) = net.bounds();
            out.extend([
                load,
                Expr::Bitwise { mask: (0..len).map(bits).collect(), xor: vec![0; len] },
                equal(first.iter().copied().take(len).collect::<Vec<_>>()),
            ]);
        }
        Match::SourceMacIn(set) => out.extend([
            Expr::Meta(meta::IIFTYPE),
            equal(ARPHRD_ETHER.to_ne_bytes()),
            Expr::Payload { base: base::LINK, offset: 6, len: 6 },
            lookup(set, true),
        ]),
        Match::Protocol(proto) => out.extend([Expr::Meta(meta::L4PROTO), equal([*proto])]),
        Match::NotProtocol(proto) => out
            .extend([Expr::Meta(meta::L4PROTO), Expr::Cmp { negated: true, value: vec![*proto] }]),
        Match::TcpSyn => out.extend([
            Expr::Payload { base: base::TRANSPORT, offset: 13, len: 1 },
            Expr::Bitwise { mask: vec![TCP_OPENING], xor: vec![0] },
            equal([TCP_SYN]),
        ]),
        Match::SourcePort(number) => out.extend([port(0), equal(number.to_be_bytes())]),
        Match::DestPort(number) => out.extend([port(2), equal(number.to_be_bytes())]),
        Match::DestPortIn(set) => out.extend([port(2), lookup(set, true)]),
        Match::IcmpType(number) | Match::Icmpv6Type(number) => out
            .extend([Expr::Payload { base: base::TRANSPORT, offset: 0, len: 1 }, equal([*number])]),
        Match::HopLimit(hops) => {
            out.extend([Expr::Payload { base: base::NETWORK, offset: 7, len: 1 }, equal([*hops])]);
        }
        Match::Mark { mask: u32::MAX, value } => {
            out.extend([Expr::Meta(meta::MARK), equal(value.to_ne_bytes())]);
        }
        Match::Mark { mask: bits, value } => {
            out.extend([Expr::Meta(meta::MARK), mask(*bits), equal(value.to_ne_bytes())]);
        }
        Match::SocketUser(uid) => {
            out.extend([Expr::Meta(meta::SKUID), equal(uid.to_ne_bytes())]);
        }
        Match::ConnNew => out.extend([
            Expr::Ct(ct::STATE),
            mask(CT_STATE_NEW),
            Expr::Cmp { negated: true, value: vec![0; 4] },
        ]),
        Match::ConnDnat => out.extend([
            Expr::Ct(ct::STATUS),
            mask(CT_STATUS_DNAT),
            Expr::Cmp { negated: true, value: vec![0; 4] },
        ]),
        Match::ConnReply => out.extend([Expr::Ct(ct::DIRECTION), equal([CT_DIR_REPLY])]),
        Match::ConnMark(bit) => {
            out.extend([Expr::Ct(ct::MARK), mask(*bit), equal(bit.to_ne_bytes())]);
        }
        Match::IntoIpsec => out.extend([Expr::IntoIpsec, equal([1])]),
        Match::NotIntoIpsec => out.extend([Expr::IntoIpsec, equal([0])]),
        Match::NotFromIpsec => out.extend([Expr::Meta(meta::SECPATH), equal([0])]),
    }
}

fn lower_action(action: &Action, out: &mut Vec<Expr>) {
    // (mark & !bit) ^ set: with `set` equal to the bit it is set, with 0 cleared.
    let change = |bit: u32, set: u32| Expr::Bitwise {
        mask: (!bit).to_ne_bytes().into(),
        xor: set.to_ne_bytes().into(),
    };
    match action {
        Action::SetMark(bit) => {
            out.extend([Expr::Meta(meta::MARK), change(*bit, *bit), Expr::MetaSet(meta::MARK)]);
        }
        Action::ClearMark(bit) => {
            out.extend([Expr::Meta(meta::MARK), change(*bit, 0), Expr::MetaSet(meta::MARK)]);
        }
        Action::SetConnMark(bit) => {
            out.extend([Expr::Ct(ct::MARK), change(*bit, *bit), Expr::CtSet(ct::MARK)]);
        }
        Action::Record(family, set) => {
            out.extend([address(*family, false), Expr::Record((*set).to_owned())]);
        }
        Action::OnceAMinute(family, set) => {
            out.extend([address(*family, false), Expr::OnceAMinute((*set).to_owned())]);
        }
        Action::Log { prefix, per_minute, burst } => out.extend([
            Expr::Limit { rate: *per_minute, unit_secs: 60, burst: *burst },
            Expr::Log { prefix: (*prefix).to_owned(), level: LOG_INFO },
        ]),
    }
}
