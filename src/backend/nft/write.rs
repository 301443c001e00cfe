//! Writes a list of changes as one nftables transaction.
//!
//! Translates only: which changes, and why, is [`super::diff`]'s part.

use netlink_bindings::nftables::{Chained, Nfgenmsg};
use netlink_bindings::traits::Pusher;

use super::diff::Change;
use super::expr::{LIST_ELEM, OBJECT_COUNTER, bytes, nest};
use super::read::{after, header};
use super::table::{SET_INTERVAL, Set};
use crate::ruleset::{Key, TABLE};

/// `NFNL_SUBSYS_NFTABLES`: what the messages that begin and end a transaction carry.
const SUBSYSTEM: u16 = 10;
/// An attribute holds at most 64 KiB, and an element of a range takes at most 72 bytes.
const ELEMENTS_PER_MESSAGE: usize = 800;

const ELEM_KEY: u16 = 1;
const ELEM_FLAGS: u16 = 3;
const SET_TIMEOUT: u16 = 11;
const SET_ELEM_LIST_ELEMENTS: u16 = 3;
const DATA_VALUE: u16 = 1;
const RULE_EXPRESSIONS: u16 = 4;
const ELEM_FLAG_END: u32 = 1;

/// A transaction, ready to be sent.
pub struct Batch {
    /// All its messages.
    pub bytes: Vec<u8>,
    /// For each message that is not a frame: the change that it belongs to.
    owners: Vec<Option<usize>>,
}

impl Batch {
    /// The change that the message with that index belongs to.
    pub fn owner(&self, message: usize) -> Option<usize> {
        self.owners.get(message).copied().flatten()
    }
}

/// An upper bound of the number of messages, to reserve their numbers.
pub fn message_count(changes: &[Change]) -> u32 {
    let of = |change: &Change| match change {
        Change::AddElements(_, e) | Change::DelElements(_, e) => 1 + e.len() / ELEMENTS_PER_MESSAGE,
        _ => 1,
    };
    u32::try_from(changes.iter().map(of).sum::<usize>() + 2).unwrap_or(u32::MAX)
}

/// Writes `changes` in an order in which every object exists while something refers to it. The kernel
/// refuses the transaction if its rules are no longer those of `generation`.
pub fn batch(changes: &[Change], generation: u32, first_sequence: u32) -> Batch {
    let mut order: Vec<usize> = (0..changes.len()).collect();
    order.sort_by_key(|i| changes.get(*i).map_or(0, phase));

    let frame = {
        let mut header = Nfgenmsg::new();
        header.set_res_id(SUBSYSTEM);
        header
    };
    let mut chained = Chained::new(first_sequence);
    let mut owners = vec![None];
    chained.request().op_batch_begin_do(&frame).encode().push_genid(generation);
    for index in order {
        if let Some(change) = changes.get(index) {
            let messages = write(&mut chained, change);
            owners.extend(std::iter::repeat_n(Some(index), messages));
        }
    }
    chained.request().op_batch_end_do(&frame);
    owners.push(None);
    let mut finished = chained.finalize();
    Batch { bytes: std::mem::take(finished.buf_mut()), owners }
}

/// Makers before users, users gone before what they used.
fn phase(change: &Change) -> u8 {
    match change {
        Change::DelTable => 0,
        Change::AddTable | Change::WakeTable(_) => 1,
        Change::AddCounter(_) | Change::AddSet(_) => 2,
        // Old elements first: a new range may take the place of an old one.
        Change::DelElements(..) => 3,
        Change::AddElements(..) => 4,
        Change::AddChain(_) | Change::SetPolicy(_) => 5,
        Change::AddRule(..) => 6,
        Change::DelRule(..) => 7,
        Change::DelChain(_) => 8,
        Change::DelSet(_) | Change::DelCounter(_) => 9,
    }
}

/// Appends the messages of one change and returns how many.
fn write(out: &mut Chained<'static>, change: &Change) -> usize {
    let table = TABLE.as_bytes();
    let h = header();
    match change {
        Change::AddTable => {
            out.request().set_create().op_newtable_do(&h).encode().push_name_bytes(table);
        }
        Change::DelTable => {
            out.request().op_deltable_do(&h).encode().push_name_bytes(table);
        }
        Change::WakeTable(_) => {
            out.request().op_newtable_do(&h).encode().push_name_bytes(table).push_flags(0);
        }
        Change::AddCounter(name) => {
            out.request()
                .set_create()
                .op_newobj_do(&h)
                .encode()
                .push_table_bytes(table)
                .push_name_bytes(name.as_bytes())
                .push_type(OBJECT_COUNTER)
                .nested_data_counter();
        }
        Change::DelCounter(name) => {
            out.request()
                .op_delobj_do(&h)
                .encode()
                .push_table_bytes(table)
                .push_name_bytes(name.as_bytes())
                .push_type(OBJECT_COUNTER);
        }
        Change::AddSet(set) => {
            let mut op = out.request().set_create().op_newset_do(&h);
            let mut attrs = op
                .encode()
                .push_table_bytes(table)
                .push_name_bytes(set.name.as_bytes())
                .push_flags(set.flags)
                .push_key_type(set.key_type)
                .push_key_len(set.key_len)
                // Named sets are found by name; the kernel wants a number all the same.
                .push_id(1);
            if set.timeout_ms > 0 {
                // By hand: the bindings write it in host order, the kernel wants network order.
                bytes(attrs.as_vec_mut(), SET_TIMEOUT, &set.timeout_ms.to_be_bytes());
            }
            if set.size > 0 {
                attrs.nested_desc().push_size(set.size);
            }
        }
        Change::DelSet(name) => {
            out.request()
                .op_delset_do(&h)
                .encode()
                .push_table_bytes(table)
                .push_name_bytes(name.as_bytes());
        }
        Change::AddElements(set, ranges) => {
            let chunks = ranges.chunks(ELEMENTS_PER_MESSAGE);
            let count = chunks.len();
            for chunk in chunks {
                let mut op = out.request().set_create().op_newsetelem_do(&h);
                elements(&mut op.encode(), set, chunk);
            }
            return count;
        }
        Change::DelElements(set, ranges) => {
            let chunks = ranges.chunks(ELEMENTS_PER_MESSAGE);
            let count = chunks.len();
            for chunk in chunks {
                let mut op = out.request().op_delsetelem_do(&h);
                elements(&mut op.encode(), set, chunk);
            }
            return count;
        }
        Change::AddChain(chain) | Change::SetPolicy(chain) => {
            let mut op = out.request().set_create().op_newchain_do(&h);
            let mut attrs =
                op.encode().push_table_bytes(table).push_name_bytes(chain.name.as_bytes());
            if let (Change::AddChain(_), Some((number, priority))) = (change, chain.hook) {
                attrs = attrs
                    .nested_hook()
                    .push_num(number)
                    .push_priority(priority)
                    .end_nested()
                    .push_type_bytes(chain.kind.as_bytes());
            }
            attrs.push_policy(chain.policy);
        }
        Change::DelChain(name) => {
            out.request()
                .op_delchain_do(&h)
                .encode()
                .push_table_bytes(table)
                .push_name_bytes(name.as_bytes());
        }
        Change::AddRule(chain, rule, before) => {
            let request = out.request().set_create();
            // Without "append" the kernel inserts: before the position, where there is one.
            let request = if before.is_none() { request.set_append() } else { request };
            let mut op = request.op_newrule_do(&h);
            let mut attrs = op.encode().push_table_bytes(table).push_chain_bytes(chain.as_bytes());
            nest(attrs.as_vec_mut(), RULE_EXPRESSIONS, |list| {
                rule.exprs.iter().for_each(|e| e.encode(list));
            });
            if let Some(handle) = before {
                attrs = attrs.push_position(*handle);
            }
            attrs.push_userdata(&comment(&rule.comment));
        }
        Change::DelRule(chain, rule) => {
            out.request()
                .op_delrule_do(&h)
                .encode()
                .push_table_bytes(table)
                .push_chain_bytes(chain.as_bytes())
                .push_handle(rule.handle);
        }
    }
    1
}

fn elements(
    attrs: &mut netlink_bindings::nftables::PushSetelemListAttrs<&mut Vec<u8>>,
    set: &Set,
    ranges: &[(Key, Key)],
) {
    let out = attrs.as_vec_mut();
    let name = |out: &mut Vec<u8>, kind, text: &[u8]| bytes(out, kind, &[text, &[0]].concat());
    name(out, 1, TABLE.as_bytes());
    name(out, 2, set.name.as_bytes());
    nest(out, SET_ELEM_LIST_ELEMENTS, |out| {
        for (first, last) in ranges {
            element(out, set, first, 0);
            if set.flags & SET_INTERVAL != 0 {
                // A range that reaches the last key needs no end.
                if let Some(end) = after(*last, set.key_len) {
                    element(out, set, &end, ELEM_FLAG_END);
                }
            }
        }
    });
}

fn element(out: &mut Vec<u8>, set: &Set, key: &Key, flags: u32) {
    let len = usize::try_from(set.key_len).unwrap_or(0);
    nest(out, LIST_ELEM, |out| {
        nest(out, ELEM_KEY, |out| bytes(out, DATA_VALUE, key.get(..len).unwrap_or(key)));
        if flags != 0 {
            bytes(out, ELEM_FLAGS, &flags.to_be_bytes());
        }
    });
}

/// A comment as nft stores it: type 0, length with the final NUL, text.
fn comment(text: &str) -> Vec<u8> {
    let mut out = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    out.extend(text.as_bytes());
    out.push(0);
    out
}
