//! nftables expressions: the kernel's instruction set, as far as this program uses it.
//!
//! Each expression is encoded and decoded here, from one list of attribute numbers
//! (linux/netfilter/nf_tables.h), so that what is written and what is read back cannot drift apart.
//! Every value goes through register 1; an expression that uses another is somebody else's and is
//! decoded as [`Expr::Other`], which equals nothing that we write.

use std::fmt;

use netlink_bindings::utils::{IterableChunks, find_attr};

use crate::netlink::attr::{bytes, nest, string, text, wide, wide_attr, word, word_attr};

/// `NFT_REG_1`.
const REGISTER: u32 = 1;
/// `NFT_REG_VERDICT`.
const REGISTER_VERDICT: u32 = 0;

/// `NFTA_LIST_ELEM`.
pub const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

/// Keys of `meta` (`enum nft_meta_keys`).
pub mod meta {
    #![allow(missing_docs)]
    pub const MARK: u32 = 3;
    pub const IIFNAME: u32 = 6;
    pub const OIFNAME: u32 = 7;
    pub const IIFTYPE: u32 = 8;
    pub const SKUID: u32 = 10;
    pub const NFPROTO: u32 = 15;
    pub const L4PROTO: u32 = 16;
    pub const SECPATH: u32 = 25;
}

/// Keys of `ct` (`enum nft_ct_keys`).
pub mod ct {
    #![allow(missing_docs)]
    pub const STATE: u32 = 0;
    pub const DIRECTION: u32 = 1;
    pub const STATUS: u32 = 2;
    pub const MARK: u32 = 3;
}

/// Where `payload` counts from (`enum nft_payload_bases`).
pub mod base {
    #![allow(missing_docs)]
    pub const LINK: u32 = 0;
    pub const NETWORK: u32 = 1;
    pub const TRANSPORT: u32 = 2;
}

/// `NFT_RT_XFRM` (kernels since 4.20).
const RT_XFRM: u32 = 4;
/// `NFTA_FIB_F_SADDR` and `NFT_FIB_RESULT_OIFNAME`.
const FIB_SOURCE: u32 = 1;
const FIB_OIFNAME: u32 = 2;
/// `NF_DROP` and `NF_ACCEPT` (linux/netfilter.h).
pub const DROP: u32 = 0;
/// See [`DROP`].
pub const ACCEPT: u32 = 1;
/// `NFT_REJECT_TCP_RST`.
pub const REJECT_TCP_RESET: u32 = 1;
/// `NFT_REJECT_ICMPX_UNREACH`: the right ICMP for either family.
pub const REJECT_ICMPX: u32 = 2;
/// `NFT_REJECT_ICMPX_ADMIN_PROHIBITED`.
pub const ICMPX_ADMIN_PROHIBITED: u8 = 3;
/// `NFT_OBJECT_COUNTER`.
pub const OBJECT_COUNTER: u32 = 1;
const DYNSET_OP_UPDATE: u32 = 1;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;

/// One expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a `meta` key.
    Meta(u32),
    /// Stores the register into a `meta` key.
    MetaSet(u32),
    /// Loads a `ct` key.
    Ct(u32),
    /// Stores the register into a `ct` key.
    CtSet(u32),
    /// Loads the name of the device by which the router would send to the packet's source.
    SourceRoute,
    /// Loads 1 if IPsec will encrypt the packet, else 0.
    IntoIpsec,
    /// Loads bytes of the packet.
    Payload {
        /// One of [`base`].
        base: u32,
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: u32,
    },
    /// Register = (register & mask) ^ xor.
    Bitwise {
        /// The mask.
        mask: Vec<u8>,
        /// What is flipped.
        xor: Vec<u8>,
    },
    /// Goes on only if the register equals (or, negated, differs from) the value.
    Cmp {
        /// Whether it must differ.
        negated: bool,
        /// The value.
        value: Vec<u8>,
    },
    /// Goes on only if the register is (or, negated, is not) in the set.
    Lookup {
        /// The set.
        set: String,
        /// Whether it must not be in it.
        negated: bool,
    },
    /// Increments the named counter.
    Counter(String),
    /// Adds the register to a set or renews it, with a counter of its own.
    Record(String),
    /// Adds the register to a set or renews it, and goes on at most once a minute for each element, by
    /// a limit of its own.
    OnceAMinute(String),
    /// Goes on at most so often.
    Limit {
        /// How often …
        rate: u64,
        /// … in so many seconds.
        unit_secs: u64,
        /// How many at once.
        burst: u32,
    },
    /// Writes to the kernel's log.
    Log {
        /// What the line begins with.
        prefix: String,
        /// syslog level.
        level: u32,
    },
    /// Ends the chain.
    Verdict(u32),
    /// Drops and answers.
    Reject {
        /// Kind of answer.
        kind: u32,
        /// ICMP code.
        code: u8,
    },
    /// Anything else, by the kernel's name for it.
    Other(String),
}

impl Expr {
    /// What [`Self::OnceAMinute`] keeps for each element.
    const ONCE: Self = Self::Limit { rate: 1, unit_secs: 60, burst: 1 };

    /// Appends the expression as one element of a list.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (name, fields) = self.fields();
        nest(out, LIST_ELEM, |out| {
            string(out, EXPR_NAME, name);
            nest(out, EXPR_DATA, |out| fields.iter().for_each(|(kind, f)| f.encode(*kind, out)));
        });
    }

    fn fields(&self) -> (&str, Vec<(u16, Field)>) {
        use Field::{Bytes, Data, Nested, Text, Wide, Word};
        match self {
            Self::Meta(key) => ("meta", vec![(2, Word(*key)), (1, Word(REGISTER))]),
            Self::MetaSet(key) => ("meta", vec![(2, Word(*key)), (3, Word(REGISTER))]),
            Self::Ct(key) => ("ct", vec![(2, Word(*key)), (1, Word(REGISTER))]),
            Self::CtSet(key) => ("ct", vec![(2, Word(*key)), (4, Word(REGISTER))]),
            Self::SourceRoute => {
                ("fib", vec![(1, Word(REGISTER)), (2, Word(FIB_OIFNAME)), (3, Word(FIB_SOURCE))])
            }
            Self::IntoIpsec => ("rt", vec![(1, Word(REGISTER)), (2, Word(RT_XFRM))]),
            Self::Payload { base, offset, len } => (
                "payload",
                vec![(1, Word(REGISTER)), (2, Word(*base)), (3, Word(*offset)), (4, Word(*len))],
            ),
            Self::Bitwise { mask, xor } => (
                "bitwise",
                vec![
                    (1, Word(REGISTER)),
                    (2, Word(REGISTER)),
                    (3, Word(u32::try_from(mask.len()).unwrap_or(0))),
                    (4, Data(mask.clone())),
                    (5, Data(xor.clone())),
                ],
            ),
            Self::Cmp { negated, value } => (
                "cmp",
                vec![
                    (1, Word(REGISTER)),
                    (2, Word(if *negated { CMP_NEQ } else { CMP_EQ })),
                    (3, Data(value.clone())),
                ],
            ),
            Self::Lookup { set, negated } => {
                let mut fields = vec![(1, Text(set.clone())), (2, Word(REGISTER))];
                if *negated {
                    fields.push((5, Word(1)));
                }
                ("lookup", fields)
            }
            Self::Counter(name) => {
                ("objref", vec![(1, Word(OBJECT_COUNTER)), (2, Text(name.clone()))])
            }
            Self::Record(set) => ("dynset", dynset(set, "counter", &[])),
            Self::OnceAMinute(set) => ("dynset", dynset(set, "limit", &Self::ONCE.fields().1)),
            Self::Limit { rate, unit_secs, burst } => (
                "limit",
                vec![(1, Wide(*rate)), (2, Wide(*unit_secs)), (3, Word(*burst)), (4, Word(0))],
            ),
            Self::Log { prefix, level } => {
                ("log", vec![(2, Text(prefix.clone())), (5, Word(*level))])
            }
            Self::Verdict(code) => {
                let mut data = Vec::new();
                nest(&mut data, DATA_VERDICT, |out| Word(*code).encode(VERDICT_CODE, out));
                ("immediate", vec![(1, Word(REGISTER_VERDICT)), (2, Nested(data))])
            }
            Self::Reject { kind, code } => {
                ("reject", vec![(1, Word(*kind)), (2, Bytes(vec![*code]))])
            }
            Self::Other(name) => (name, Vec::new()),
        }
    }

    /// Reads one expression: the content of a list element.
    pub fn decode(bytes: &[u8]) -> Self {
        let name = text(bytes, EXPR_NAME).unwrap_or_default();
        let data = find_attr(bytes, EXPR_DATA).unwrap_or_default();
        Self::decode_named(&name, data).unwrap_or(Self::Other(name))
    }

    fn decode_named(name: &str, data: &[u8]) -> Option<Self> {
        let register = |kind| (word(data, kind)? == REGISTER).then_some(());
        Some(match name {
            "meta" => match word(data, 1) {
                Some(REGISTER) => Self::Meta(word(data, 2)?),
                Some(_) => return None,
                None => register(3).and(Some(Self::MetaSet(word(data, 2)?)))?,
            },
            // A `ct` with a direction (attribute 3) asks for another connection's side.
            "ct" if find_attr(data, 3).is_some() => return None,
            "ct" => match word(data, 1) {
                Some(REGISTER) => Self::Ct(word(data, 2)?),
                Some(_) => return None,
                None => register(4).and(Some(Self::CtSet(word(data, 2)?)))?,
            },
            "fib" => {
                register(1)?;
                let same = word(data, 2)? == FIB_OIFNAME && word(data, 3)? == FIB_SOURCE;
                same.then_some(Self::SourceRoute)?
            }
            "rt" => {
                register(1)?;
                (word(data, 2)? == RT_XFRM).then_some(Self::IntoIpsec)?
            }
            "payload" => {
                register(1)?;
                Self::Payload { base: word(data, 2)?, offset: word(data, 3)?, len: word(data, 4)? }
            }
            "bitwise" => {
                register(1)?;
                register(2)?;
                if word(data, 6).is_some_and(|op| op != 0) {
                    return None;
                }
                Self::Bitwise { mask: value(data, 4)?, xor: value(data, 5)? }
            }
            "cmp" => {
                register(1)?;
                let negated = match word(data, 2)? {
                    CMP_EQ => false,
                    CMP_NEQ => true,
                    _ => return None,
                };
                Self::Cmp { negated, value: value(data, 3)? }
            }
            "lookup" => {
                register(2)?;
                if word(data, 3).is_some() {
                    return None;
                }
                let flags = word(data, 5).unwrap_or(0);
                Self::Lookup { set: text(data, 1)?, negated: flags & 1 == 1 }
            }
            "objref" => match word(data, 1)? {
                OBJECT_COUNTER => Self::Counter(text(data, 2)?),
                _ => return None,
            },
            "dynset" => {
                register(4)?;
                (word(data, 3)? == DYNSET_OP_UPDATE && word(data, 5).is_none()).then_some(())?;
                let (set, of_element) = (text(data, 1)?, find_attr(data, 7)?);
                match text(of_element, EXPR_NAME)?.as_str() {
                    "counter" => Self::Record(set),
                    _ if Self::decode(of_element) == Self::ONCE => Self::OnceAMinute(set),
                    _ => return None,
                }
            }
            "limit" => {
                let same = word(data, 4).unwrap_or(0) == 0 && word(data, 5).unwrap_or(0) == 0;
                same.then_some(())?;
                Self::Limit {
                    rate: wide(data, 1)?,
                    unit_secs: wide(data, 2)?,
                    burst: word(data, 3).unwrap_or(0),
                }
            }
            "log" => Self::Log { prefix: text(data, 2).unwrap_or_default(), level: word(data, 5)? },
            "immediate" => {
                (word(data, 1)? == REGISTER_VERDICT).then_some(())?;
                let verdict = find_attr(find_attr(data, 2)?, DATA_VERDICT)?;
                Self::Verdict(word(verdict, VERDICT_CODE)?)
            }
            "reject" => Self::Reject {
                kind: word(data, 1)?,
                code: find_attr(data, 2).and_then(|c| c.first().copied()).unwrap_or(0),
            },
            _ => return None,
        })
    }

    /// Reads a whole list of expressions.
    pub fn decode_list(bytes: &[u8]) -> Vec<Self> {
        IterableChunks::new(bytes)
            .filter(|(header, _)| header.r#type == LIST_ELEM)
            .map(|(_, element)| Self::decode(element))
            .collect()
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let not = |negated: &bool| if *negated { "not " } else { "" };
        match self {
            Self::Meta(key) => write!(f, "load meta {key}"),
            Self::MetaSet(key) => write!(f, "set meta {key}"),
            Self::Ct(key) => write!(f, "load ct {key}"),
            Self::CtSet(key) => write!(f, "set ct {key}"),
            Self::SourceRoute => f.write_str("load the way to the source"),
            Self::IntoIpsec => f.write_str("load whether IPsec encrypts"),
            Self::Payload { base, offset, len } => write!(f, "load {len} bytes at {base}+{offset}"),
            Self::Bitwise { mask, xor } => write!(f, "and 0x{} xor 0x{}", hex(mask), hex(xor)),
            Self::Cmp { negated, value } => write!(f, "{}equal 0x{}", not(negated), hex(value)),
            Self::Lookup { set, negated } => write!(f, "{}in @{set}", not(negated)),
            Self::Counter(name) => write!(f, "count {name}"),
            Self::Record(set) => write!(f, "record in @{set}"),
            Self::OnceAMinute(set) => write!(f, "once a minute by @{set}"),
            Self::Limit { rate, unit_secs, burst } => {
                write!(f, "limit {rate} in {unit_secs} s burst {burst}")
            }
            Self::Log { prefix, .. } => write!(f, "log '{prefix}'"),
            Self::Verdict(ACCEPT) => f.write_str("accept"),
            Self::Verdict(DROP) => f.write_str("drop"),
            Self::Verdict(code) => write!(f, "verdict {code}"),
            Self::Reject { kind, code } => write!(f, "reject {kind}/{code}"),
            Self::Other(name) => write!(f, "unknown expression '{name}'"),
        }
    }
}

/// One attribute's value. Numbers are in network order, as nftables wants them.
enum Field {
    Word(u32),
    Wide(u64),
    Text(String),
    Bytes(Vec<u8>),
    /// `struct nft_data` with a value.
    Data(Vec<u8>),
    Nested(Vec<u8>),
}

impl Field {
    fn encode(&self, kind: u16, out: &mut Vec<u8>) {
        match self {
            Self::Word(v) => word_attr(out, kind, *v),
            Self::Wide(v) => wide_attr(out, kind, *v),
            Self::Text(v) => string(out, kind, v),
            Self::Bytes(v) => bytes(out, kind, v),
            Self::Data(v) => nest(out, kind, |out| bytes(out, DATA_VALUE, v)),
            Self::Nested(v) => nest(out, kind, |out| out.extend(v)),
        }
    }
}

/// The fields of a `dynset` that adds or renews, with an expression for each element.
fn dynset(set: &str, name: &str, fields: &[(u16, Field)]) -> Vec<(u16, Field)> {
    let mut of_element = Vec::new();
    string(&mut of_element, EXPR_NAME, name);
    nest(&mut of_element, EXPR_DATA, |out| {
        fields.iter().for_each(|(kind, f)| f.encode(*kind, out))
    });
    vec![
        (1, Field::Text(set.to_owned())),
        (3, Field::Word(DYNSET_OP_UPDATE)),
        (4, Field::Word(REGISTER)),
        (7, Field::Nested(of_element)),
    ]
}

fn value(attrs: &[u8], kind: u16) -> Option<Vec<u8>> {
    find_attr(find_attr(attrs, kind)?, DATA_VALUE).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expression_reads_back_as_it_was_written() {
        let all = [
            Expr::Meta(meta::OIFNAME),
            Expr::MetaSet(meta::MARK),
            Expr::Ct(ct::STATE),
            Expr::CtSet(ct::MARK),
            Expr::SourceRoute,
            Expr::IntoIpsec,
            Expr::Payload { base: base::NETWORK, offset: 12, len: 4 },
            Expr::Bitwise { mask: vec![0xff; 16], xor: vec![0; 16] },
            Expr::Cmp { negated: false, value: vec![1, 2, 3] },
            Expr::Cmp { negated: true, value: vec![0; 16] },
            Expr::Lookup { set: "tunnels".into(), negated: false },
            Expr::Lookup { set: "x".into(), negated: true },
            Expr::Counter("fwd_drop".into()),
            Expr::Record("blocked4".into()),
            Expr::OnceAMinute("logged4".into()),
            Expr::Limit { rate: 10, unit_secs: 60, burst: 5 },
            Expr::Log { prefix: "p: ".into(), level: 6 },
            Expr::Verdict(ACCEPT),
            Expr::Verdict(DROP),
            Expr::Reject { kind: REJECT_ICMPX, code: 3 },
        ];
        let mut list = Vec::new();
        all.iter().for_each(|e| e.encode(&mut list));
        assert_eq!(Expr::decode_list(&list), all);
    }

    #[test]
    fn what_we_do_not_write_is_never_taken_for_ours() {
        let mut list = Vec::new();
        nest(&mut list, LIST_ELEM, |out| {
            string(out, EXPR_NAME, "cmp");
            nest(out, EXPR_DATA, |out| {
                Field::Word(9).encode(1, out);
                Field::Word(CMP_EQ).encode(2, out);
                Field::Data(vec![1]).encode(3, out);
            });
        });
        Expr::Other("queue".into()).encode(&mut list);
        let read = Expr::decode_list(&list);
        assert_eq!(read, [Expr::Other("cmp".into()), Expr::Other("queue".into())]);
        assert!(Expr::decode_list(&[1, 2, 3]).is_empty());
    }
}
