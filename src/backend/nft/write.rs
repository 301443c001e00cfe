//! Writes a list of changes as one nftables transaction.
//!
//! Translates only: which changes, and why, is [`mod@super::diff`]'s part.

use super::diff::Change;
use super::expr::{LIST_ELEM, OBJECT_COUNTER};
use super::read::{HEADER, after, kind};
use super::table::{SET_INTERVAL, Set, TYPE_DEVICE};
use crate::netlink::attr::{bytes, nest, string, wide_attr, word_attr};
use crate::netlink::{Batch, flag};
use crate::ruleset::{Key, TABLE};

/// An attribute holds at most 64 KiB, and an element of a range takes at most 72 bytes.
const ELEMENTS_PER_MESSAGE: usize = 800;

const ELEM_KEY: u16 = 1;
const ELEM_FLAGS: u16 = 3;
/// Milliseconds. The kernel keeps them as an end in jiffies (`nf_msecs_to_jiffies64`,
/// net/netfilter/nf_tables_api.c) and compares that with `get_jiffies_64` at every look-up
/// (`nft_set_elem_expired`, include/net/netfilter/nf_tables.h). Jiffies only count on: setting the
/// clock, forwards or back, by hand or by NTP, moves no end.
const ELEM_TIMEOUT: u16 = 4;
const ELEM_FLAG_END: u32 = 1;
const DATA_VALUE: u16 = 1;

/// Writes `changes` into `batch`, in an order in which every object exists while something refers to
/// it. Returns for each message the change that it belongs to; the first message is the frame.
pub fn fill(batch: &mut Batch, changes: &[Change]) -> Vec<Option<usize>> {
    let mut order: Vec<usize> = (0..changes.len()).collect();
    order.sort_unstable_by_key(|i| (changes.get(*i).map_or(0, phase), *i));
    let mut owners = vec![None];
    for index in order {
        if let Some(change) = changes.get(index) {
            let messages = write(batch, change);
            owners.extend(std::iter::repeat_n(Some(index), messages));
        }
    }
    owners
}

/// Makers before users, users gone before what they used.
fn phase(change: &Change) -> u8 {
    match change {
        Change::DelTable(_) => 0,
        Change::AddTable => 1,
        Change::AddCounter(_) | Change::AddSet(_) => 2,
        // Old elements first: a new range may take the place of an old one.
        Change::DelElements(..) => 3,
        Change::AddElements(..) | Change::AddTimed(..) => 4,
        Change::AddChain(_) | Change::SetPolicy(_) => 5,
        Change::AddRule(..) => 6,
        Change::DelRule(..) => 7,
        Change::DelChain(_) => 8,
        Change::DelSet(_) | Change::DelCounter(_) | Change::DelObject(..) => 9,
    }
}

/// Appends the messages of one change and returns how many. The attributes are those of
/// linux/netfilter/nf_tables.h; in all messages attribute 1 is the table's name.
fn write(batch: &mut Batch, change: &Change) -> usize {
    let create = flag(libc::NLM_F_CREATE);
    let mut message = |number: libc::c_int, flags: u16, attrs: &dyn Fn(&mut Vec<u8>)| {
        batch.message(kind(number), flags, |out| {
            out.extend(HEADER);
            string(out, 1, TABLE);
            attrs(out);
        });
    };
    match change {
        Change::AddTable => message(libc::NFT_MSG_NEWTABLE, create, &|_| {}),
        Change::DelTable(_) => message(libc::NFT_MSG_DELTABLE, 0, &|_| {}),
        Change::AddCounter(name) => message(libc::NFT_MSG_NEWOBJ, create, &|out| {
            string(out, 2, name);
            word_attr(out, 3, OBJECT_COUNTER);
            nest(out, 4, |_| {});
        }),
        Change::DelCounter(name) => message(libc::NFT_MSG_DELOBJ, 0, &|out| {
            string(out, 2, name);
            word_attr(out, 3, OBJECT_COUNTER);
        }),
        Change::DelObject(name, kind) => message(libc::NFT_MSG_DELOBJ, 0, &|out| {
            string(out, 2, name);
            word_attr(out, 3, *kind);
        }),
        Change::AddSet(set) => message(libc::NFT_MSG_NEWSET, create, &|out| {
            string(out, 2, &set.name);
            word_attr(out, 3, set.flags);
            word_attr(out, 4, set.key_type);
            word_attr(out, 5, set.key_len);
            if set.size > 0 {
                nest(out, 9, |out| word_attr(out, 1, set.size));
            }
            // Named sets are found by name; the kernel wants a number all the same.
            word_attr(out, 10, 1);
            if set.timeout_ms > 0 {
                wide_attr(out, 11, set.timeout_ms);
            }
            if set.key_type == TYPE_DEVICE {
                // For `nft list`, which would turn names around: NFTNL_UDATA_SET_KEYBYTEORDER is
                // BYTEORDER_HOST_ENDIAN (1).
                bytes(out, 13, &[&[0, 4][..], &1u32.to_ne_bytes()].concat());
            }
        }),
        Change::DelSet(name) => {
            message(libc::NFT_MSG_DELSET, 0, &|out| string(out, 2, name));
        }
        Change::AddElements(set, ranges) | Change::DelElements(set, ranges) => {
            let (number, flags) = match change {
                Change::AddElements(..) => (libc::NFT_MSG_NEWSETELEM, create),
                _ => (libc::NFT_MSG_DELSETELEM, 0),
            };
            let chunks = ranges.chunks(ELEMENTS_PER_MESSAGE);
            let count = chunks.len();
            for chunk in chunks {
                message(number, flags, &|out| elements(out, set, chunk));
            }
            return count;
        }
        Change::AddTimed(set, keys, ms) => {
            let chunks = keys.chunks(ELEMENTS_PER_MESSAGE);
            let count = chunks.len();
            for chunk in chunks {
                // Without "exclusive", kernels before 6.12 silently keep an element that is there,
                // and its time.
                message(libc::NFT_MSG_NEWSETELEM, create | flag(libc::NLM_F_EXCL), &|out| {
                    string(out, 2, &set.name);
                    nest(out, 3, |out| {
                        for key in chunk {
                            element(out, set, key, |out| wide_attr(out, ELEM_TIMEOUT, *ms));
                        }
                    });
                });
            }
            return count;
        }
        Change::AddChain(chain) => message(libc::NFT_MSG_NEWCHAIN, create, &|out| {
            string(out, 3, &chain.name);
            if let Some((number, priority)) = chain.hook {
                nest(out, 4, |out| {
                    word_attr(out, 1, number);
                    word_attr(out, 2, priority.cast_unsigned());
                });
            }
            word_attr(out, 5, chain.policy);
            string(out, 7, &chain.kind);
        }),
        Change::SetPolicy(chain) => message(libc::NFT_MSG_NEWCHAIN, create, &|out| {
            string(out, 3, &chain.name);
            word_attr(out, 5, chain.policy);
        }),
        Change::DelChain(name) => {
            message(libc::NFT_MSG_DELCHAIN, 0, &|out| string(out, 3, name));
        }
        Change::AddRule(chain, rule, before) => {
            // Without "append" the kernel inserts: before the position, where there is one.
            let append = if before.is_none() { flag(libc::NLM_F_APPEND) } else { 0 };
            message(libc::NFT_MSG_NEWRULE, create | append, &|out| {
                string(out, 2, chain);
                nest(out, 4, |out| rule.exprs.iter().for_each(|e| e.encode(out)));
                if let Some(handle) = before {
                    wide_attr(out, 6, *handle);
                }
                bytes(out, 7, &comment(&rule.comment));
            });
        }
        Change::DelRule(chain, rule) => message(libc::NFT_MSG_DELRULE, 0, &|out| {
            string(out, 2, chain);
            wide_attr(out, 3, rule.handle);
        }),
    }
    1
}

fn elements(out: &mut Vec<u8>, set: &Set, ranges: &[(Key, Key)]) {
    string(out, 2, &set.name);
    nest(out, 3, |out| {
        for (first, last) in ranges {
            element(out, set, first, |_| {});
            if set.flags & SET_INTERVAL != 0 {
                // A range that reaches the last key needs no end.
                if let Some(end) = after(*last, set.key_len) {
                    element(out, set, &end, |out| word_attr(out, ELEM_FLAGS, ELEM_FLAG_END));
                }
            }
        }
    });
}

fn element(out: &mut Vec<u8>, set: &Set, key: &Key, more: impl FnOnce(&mut Vec<u8>)) {
    let len = usize::try_from(set.key_len).unwrap_or(0);
    nest(out, LIST_ELEM, |out| {
        nest(out, ELEM_KEY, |out| bytes(out, DATA_VALUE, key.get(..len).unwrap_or(key)));
        more(out);
    });
}

/// A comment as nft stores it: type 0, length with the final NUL, text.
fn comment(text: &str) -> Vec<u8> {
    let mut out = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    out.extend(text.as_bytes());
    out.push(0);
    out
}
