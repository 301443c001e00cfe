//! Reads our table back from the kernel.
//!
//! Responsible for telling what is there, all of it: what it does not understand it names. Decides
//! nothing.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

// Not by the bindings' types: their code for each is large, and to them the padding that some CPUs'
// kernels (MIPS) put before 64-bit values is the attribute behind it, and an error.
use netlink_bindings::utils::{IterableChunks, find_attr};

use super::expr::{Expr, LIST_ELEM};
use super::table::{Chain, Rule, SET_EVAL, SET_INTERVAL, Set, Table};
use crate::netlink::attr::{self, string, wide, word, word_attr};
use crate::netlink::{Refusal, Request, Socket};
use crate::ruleset::{Key, TABLE};
use crate::types::left_aligned;

/// Attributes of a generation, a table, a chain and so on (`enum nft_chain_attributes`, …,
/// linux/netfilter/nf_tables.h). What is in a table says so by attribute 1, its [`TABLE_NAME`].
const GEN_ID: u16 = 1;
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USE: u16 = 3;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUM: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DESC: u16 = 9;
const SET_DESC_SIZE: u16 = 1;
const SET_TIMEOUT: u16 = 11;
const SET_ELEMENTS: u16 = 3;
const OBJ_NAME: u16 = 2;
const OBJ_TYPE: u16 = 3;
const OBJ_DATA: u16 = 4;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

/// `NFPROTO_INET`.
pub const INET: u8 = 1;
const ELEM_FLAG_END: u32 = 1;

/// A `struct nfgenmsg` for our table's family; every message begins with one.
pub const HEADER: [u8; 4] = [INET, 0, 0, 0];

/// The type of an nftables message (`NFT_MSG_*`).
pub fn kind(message: libc::c_int) -> u16 {
    u16::try_from(libc::NFNL_SUBSYS_NFTABLES << 8 | message).unwrap_or(0)
}

/// A request whose attributes `fill` appends.
fn ask(message: libc::c_int, list: bool, fill: impl FnOnce(&mut Vec<u8>)) -> Request {
    let mut payload = HEADER.to_vec();
    fill(&mut payload);
    let kind = kind(message);
    if list { Request::list(kind, payload) } else { Request { kind, flags: 0, payload } }
}

/// A request for everything of one kind in our table.
fn list(message: libc::c_int) -> Request {
    ask(message, true, |out| string(out, TABLE_NAME, TABLE))
}

/// What follows the header of a reply.
fn attrs(reply: &[u8]) -> &[u8] {
    reply.get(HEADER.len()..).unwrap_or_default()
}

/// The kernel's number for the present state of all its nftables rules.
pub fn generation(socket: &mut Socket) -> Result<u32, Refusal> {
    let mut id = None;
    socket.request(&ask(libc::NFT_MSG_GETGEN, false, |_| {}), |reply| {
        id = word(attrs(reply), GEN_ID);
        Ok(())
    })?;
    id.ok_or_else(|| missing("generation").into())
}

/// Everything in our table; `None` when it does not exist.
///
/// Beside it, whether the kernel's own counts of rules and objects agree with what was listed: a
/// transaction that is being prepared makes listings skip what comes behind it, without a new
/// generation.
pub fn table(socket: &mut Socket) -> Result<(Option<Table>, bool), Refusal> {
    let Some((flags, objects)) = table_head(socket)? else { return Ok((None, true)) };
    let mut table = Table { flags, ..Default::default() };
    let mut rules: Vec<u32> = Vec::new();

    for (chain, uses) in chains(socket)? {
        table.chains.push(chain);
        rules.push(uses);
    }

    let chains = &mut table.chains;
    socket.request(&list(libc::NFT_MSG_GETRULE), |reply| {
        let bytes = attrs(reply);
        let rule = Rule {
            handle: wide(bytes, RULE_HANDLE).unwrap_or(0),
            comment: find_attr(bytes, RULE_USERDATA).map(comment).unwrap_or_default(),
            exprs: find_attr(bytes, RULE_EXPRESSIONS).map(Expr::decode_list).unwrap_or_default(),
            optional: false,
        };
        if is_ours(bytes) {
            let chain = text(bytes, RULE_CHAIN);
            let chain = chains.iter_mut().find(|c| c.name == chain);
            let rules = &mut chain.ok_or_else(|| missing("chain"))?.rules;
            once(!rules.iter().any(|r| r.handle == rule.handle))?;
            rules.push(rule);
        }
        Ok(())
    })?;

    table.sets = sets(socket)?;
    for set in &mut table.sets {
        if set.flags & SET_EVAL == 0 {
            // Of each only its key, and whether it begins a range: of 10,000 that matters. What ends
            // by itself is not compared.
            let mut keys = Vec::new();
            each_element(socket, &set.name, |e| {
                if e.expires.is_none() {
                    keys.push((e.key, !e.end));
                }
            })?;
            set.elements = Some(ranges(keys, set));
        }
    }
    socket.request(&list(libc::NFT_MSG_GETOBJ), |reply| {
        let bytes = attrs(reply);
        match word(bytes, OBJ_TYPE).unwrap_or(0) {
            _ if !is_ours(bytes) => {}
            super::expr::OBJECT_COUNTER => table.counters.push(text(bytes, OBJ_NAME)),
            other => table.objects.push((text(bytes, OBJ_NAME), other)),
        }
        Ok(())
    })?;
    let counted =
        [&table.counters.len(), &table.objects.len(), &table.sets.len(), &table.chains.len()]
            .into_iter()
            .sum::<usize>();
    let whole = u32::try_from(counted) == Ok(objects)
        && table
            .chains
            .iter()
            .zip(&rules)
            .all(|(chain, count)| u32::try_from(chain.rules.len()) == Ok(*count));
    Ok((Some(table), whole))
}

/// Reads the chains' policies once more. The kernel takes a changed policy last, behind the rules and
/// the number of their generation: one that was listed before them may be of the generation before.
pub fn policies(socket: &mut Socket, mut table: Table) -> Result<Table, Refusal> {
    for (now, _) in chains(socket)? {
        if let Some(chain) = table.chains.iter_mut().find(|c| c.name == now.name) {
            chain.policy = now.policy;
        }
    }
    Ok(table)
}

/// Our chains, without their rules, and how often each is used.
fn chains(socket: &mut Socket) -> Result<Vec<(Chain, u32)>, Refusal> {
    let mut out = Vec::new();
    socket.request(&list(libc::NFT_MSG_GETCHAIN), |reply| {
        let bytes = attrs(reply);
        if !is_ours(bytes) {
            return Ok(());
        }
        let hook = find_attr(bytes, CHAIN_HOOK)
            .and_then(|h| Some((word(h, HOOK_NUM)?, word(h, HOOK_PRIORITY)?.cast_signed())));
        let chain = Chain {
            name: text(bytes, CHAIN_NAME),
            hook,
            kind: text(bytes, CHAIN_TYPE),
            policy: word(bytes, CHAIN_POLICY).unwrap_or(super::expr::ACCEPT),
            rules: Vec::new(),
        };
        out.push((chain, word(bytes, CHAIN_USE).unwrap_or(0)));
        Ok(())
    })?;
    Ok(out)
}

/// A text attribute; empty without one.
fn text(attrs: &[u8], kind: u16) -> String {
    attr::text(attrs, kind).unwrap_or_default()
}

/// Whether something is in our table.
fn is_ours(attrs: &[u8]) -> bool {
    text(attrs, TABLE_NAME) == TABLE
}

/// The table's flags, and how many chains, sets and objects it has.
fn table_head(socket: &mut Socket) -> Result<Option<(u32, u32)>, Refusal> {
    let request = ask(libc::NFT_MSG_GETTABLE, false, |out| string(out, TABLE_NAME, TABLE));
    let mut head = (0, 0);
    let asked = socket.request(&request, |reply| {
        let of = |kind| word(attrs(reply), kind).unwrap_or(0);
        head = (of(TABLE_FLAGS), of(TABLE_USE));
        Ok(())
    });
    match asked {
        Ok(()) => Ok(Some(head)),
        Err(refusal) if refusal.is(libc::ENOENT) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn sets(socket: &mut Socket) -> Result<Vec<Set>, Refusal> {
    let mut out: Vec<Set> = Vec::new();
    socket.request(&list(libc::NFT_MSG_GETSET), |reply| {
        let bytes = attrs(reply);
        let of = |kind| word(bytes, kind).unwrap_or(0);
        let set = Set {
            name: text(bytes, SET_NAME),
            key_type: of(SET_KEY_TYPE),
            key_len: of(SET_KEY_LEN),
            flags: of(SET_FLAGS),
            timeout_ms: wide(bytes, SET_TIMEOUT).unwrap_or(0),
            size: find_attr(bytes, SET_DESC).and_then(|d| word(d, SET_DESC_SIZE)).unwrap_or(0),
            elements: None,
        };
        if is_ours(bytes) {
            once(!out.iter().any(|s| s.name == set.name))?;
            out.push(set);
        }
        Ok(())
    })?;
    Ok(out)
}

/// A named counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name, which is the id of the rule that increments it.
    pub name: String,
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
}

/// All counters of our table.
pub fn counters(socket: &mut Socket) -> Result<Vec<Counter>, Refusal> {
    let mut out: Vec<Counter> = Vec::new();
    let request = ask(libc::NFT_MSG_GETOBJ, true, |out| {
        string(out, TABLE_NAME, TABLE);
        word_attr(out, OBJ_TYPE, super::expr::OBJECT_COUNTER);
    });
    socket.request(&request, |reply| {
        let bytes = attrs(reply);
        let data = find_attr(bytes, OBJ_DATA).unwrap_or_default();
        let counter = Counter {
            name: text(bytes, OBJ_NAME),
            packets: wide(data, COUNTER_PACKETS).unwrap_or(0),
            bytes: wide(data, COUNTER_BYTES).unwrap_or(0),
        };
        if is_ours(bytes) {
            once(!out.iter().any(|c| c.name == counter.name))?;
            out.push(counter);
        }
        Ok(())
    })?;
    Ok(out)
}

/// The packets of one counter of our table; 0 without it. With `reset` it begins at 0 again.
pub fn packets(socket: &mut Socket, name: &str, reset: bool) -> Result<u64, Refusal> {
    let message = if reset { libc::NFT_MSG_GETOBJ_RESET } else { libc::NFT_MSG_GETOBJ };
    let request = ask(message, false, |out| {
        string(out, TABLE_NAME, TABLE);
        string(out, OBJ_NAME, name);
        word_attr(out, OBJ_TYPE, super::expr::OBJECT_COUNTER);
    });
    let mut packets = 0;
    let asked = socket.request(&request, |reply| {
        let data = find_attr(attrs(reply), OBJ_DATA).unwrap_or_default();
        packets = wide(data, COUNTER_PACKETS).unwrap_or(0);
        Ok(())
    });
    match asked {
        Err(refusal) if !refusal.is(libc::ENOENT) => Err(refusal),
        _ => Ok(packets),
    }
}

/// An element of a set, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its key.
    pub key: Key,
    /// Whether it ends a range and is not itself in it.
    pub end: bool,
    /// Its whole life.
    pub timeout: Option<Duration>,
    /// What is left of it.
    pub expires: Option<Duration>,
    /// Packets counted for it.
    pub packets: u64,
}

/// All elements of one of our sets.
pub fn elements(socket: &mut Socket, set: &str) -> Result<Vec<Element>, Refusal> {
    let mut out = Vec::new();
    each_element(socket, set, |element| out.push(element))?;
    Ok(out)
}

/// Gives each element of one of our sets to `take`: there may be very many.
fn each_element(
    socket: &mut Socket,
    set: &str,
    mut take: impl FnMut(Element),
) -> Result<(), Refusal> {
    let request = ask(libc::NFT_MSG_GETSETELEM, true, |out| {
        string(out, TABLE_NAME, TABLE);
        string(out, SET_NAME, set);
    });
    socket.request(&request, |reply| {
        let list = find_attr(attrs(reply), SET_ELEMENTS).unwrap_or_default();
        for (head, bytes) in IterableChunks::new(list) {
            if head.r#type == LIST_ELEM {
                take(element(bytes));
            }
        }
        Ok(())
    })
}

/// `NFTA_SET_ELEM_*`, linux/netfilter/nf_tables.h.
fn element(bytes: &[u8]) -> Element {
    const KEY: u16 = 1;
    const FLAGS: u16 = 3;
    const TIMEOUT: u16 = 4;
    const EXPIRATION: u16 = 5;
    const EXPR: u16 = 7;
    let millis = |kind| wide(bytes, kind).map(Duration::from_millis);
    // The expression is a counter: NFTA_EXPR_DATA (2) holds it.
    let packets = find_attr(bytes, EXPR)
        .and_then(|e| find_attr(e, 2))
        .and_then(|data| wide(data, COUNTER_PACKETS));
    Element {
        key: left_aligned(find_attr(bytes, KEY).and_then(|k| find_attr(k, 1)).unwrap_or_default()),
        end: word(bytes, FLAGS).unwrap_or(0) & ELEM_FLAG_END != 0,
        timeout: millis(TIMEOUT),
        expires: millis(EXPIRATION),
        packets: packets.unwrap_or(0),
    }
}

/// Joins the kernel's elements, of which each begins a range or ends one, to inclusive ranges.
fn ranges(mut keys: Vec<(Key, bool)>, set: &Set) -> Vec<(Key, Key)> {
    let key_len = set.key_len;
    // Where one range ends and the next begins at the same key, the end comes first.
    keys.sort_unstable();
    if set.flags & SET_INTERVAL == 0 {
        return keys.into_iter().map(|(key, _)| (key, key)).collect();
    }
    let top = left_aligned(&vec![0xff; usize::try_from(key_len).unwrap_or(0)]);
    let mut out = Vec::new();
    let mut open: Option<Key> = None;
    for (key, begins) in keys {
        match (begins, open) {
            (true, _) => open = open.or(Some(key)),
            (false, Some(first)) => {
                out.push((first, before(key, key_len)));
                open = None;
            }
            (false, None) => {}
        }
    }
    out.extend(open.map(|first| (first, top)));
    out
}

/// The key before `key`, as a number of `len` bytes.
fn before(mut key: Key, len: u32) -> Key {
    for byte in key.iter_mut().take(usize::try_from(len).unwrap_or(0)).rev() {
        let (less, borrow) = byte.overflowing_sub(1);
        *byte = less;
        if !borrow {
            break;
        }
    }
    key
}

/// The key behind `key`; `None` behind the last one.
pub fn after(mut key: Key, len: u32) -> Option<Key> {
    for byte in key.iter_mut().take(usize::try_from(len).unwrap_or(0)).rev() {
        let (more, carry) = byte.overflowing_add(1);
        *byte = more;
        if !carry {
            return Some(key);
        }
    }
    None
}

/// The address in a key of an address set.
pub fn address(key: &Key, len: u32) -> IpAddr {
    let [a, b, c, d, ..] = *key;
    if len == 4 { [a, b, c, d].into() } else { (*key).into() }
}

/// nft's user data: type 0 is the comment, with its NUL (`enum nftnl_udata_rule_types`).
fn comment(data: &[u8]) -> String {
    let [0, len, rest @ ..] = data else { return String::new() };
    let text = rest.get(..usize::from(*len)).unwrap_or(rest);
    String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned()
}

/// Nothing is listed twice; if it is, the listing is to be asked for again (`EINTR`).
///
/// The kernel continues a listing of several parts by counting, and a transaction that is being
/// prepared moves the count without a new generation: the end of one part comes again in the next.
fn once(first_time: bool) -> io::Result<()> {
    if first_time { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINTR)) }
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer lacks a {what}"))
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { index: 0, error, words: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        left_aligned(&[10, 0, 0, n])
    }

    #[test]
    fn begin_and_end_elements_become_ranges() {
        let read = [(9, true), (5, false), (1, true), (5, true), (6, false), (0, false)]
            .map(|(n, begins)| (key(n), begins));
        let of = |keys: &[(Key, bool)], set: &Set| ranges(keys.to_vec(), set);
        let top = left_aligned(&[255; 4]);
        let mut set = Set {
            name: "s".into(),
            key_type: 7,
            key_len: 4,
            flags: SET_INTERVAL,
            timeout_ms: 0,
            size: 0,
            elements: None,
        };
        assert_eq!(of(&read, &set), [(key(1), key(4)), (key(5), key(5)), (key(9), top)]);
        assert_eq!(of(&[(key(9), true)], &set), [(key(9), top)]);
        set.flags = 0;
        assert_eq!(
            of(&[(key(3), true), (key(2), true)], &set),
            [(key(2), key(2)), (key(3), key(3))]
        );
    }

    #[test]
    fn keys_count_in_their_width() {
        assert_eq!(after(left_aligned(&[1, 255]), 2), Some(left_aligned(&[2, 0])));
        assert_eq!(after(left_aligned(&[255, 255]), 2), None);
        assert_eq!(before(left_aligned(&[2, 0]), 2), left_aligned(&[1, 255]));
    }

    #[test]
    fn comments_are_read_as_nft_stores_them() {
        assert_eq!(comment(b"\x00\x03ab\x00"), "ab");
        assert_eq!(comment(b"\x00\xffab"), "ab");
        assert_eq!(comment(b"\x01\x02a\x00"), "");
        assert_eq!(comment(b""), "");
    }
}
