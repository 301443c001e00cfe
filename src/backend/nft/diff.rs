//! The smallest change that leads from what is in the kernel to what should be.
//!
//! Pure. The same list of changes is what `apply` sends, what `check` shows and what must be empty
//! behind every apply. What the kernel keeps by itself (counters, the record of refused clients,
//! running pauses) is never touched while its kind stays.

use std::fmt;

use super::expr::{Expr, meta};
use super::table::{Chain, Rule, SET_ANONYMOUS, SET_TIMEOUT, Set, Table};
use crate::ruleset::Key;
use crate::ruleset::build::TUNNEL_ADDRS;

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates the table.
    AddTable,
    /// Deletes the table with everything in it, because of what it is.
    DelTable(&'static str),
    /// Creates a counter.
    AddCounter(String),
    /// Deletes a counter.
    DelCounter(String),
    /// Deletes an object of another kind, by name and the kernel's number for the kind.
    DelObject(String, u32),
    /// Creates a set, without elements.
    AddSet(Set),
    /// Deletes a set.
    DelSet(String),
    /// Adds elements.
    AddElements(Set, Vec<(Key, Key)>),
    /// Removes elements.
    DelElements(Set, Vec<(Key, Key)>),
    /// Adds elements that the kernel removes after so many milliseconds.
    AddTimed(Set, Vec<Key>, u64),
    /// Creates a chain, without rules.
    AddChain(Chain),
    /// Deletes a chain.
    DelChain(String),
    /// Sets a chain's policy.
    SetPolicy(Chain),
    /// Adds a rule, before the one with that handle or at the end.
    AddRule(String, Rule, Option<u64>),
    /// Deletes a rule.
    DelRule(String, Rule),
}

/// Compares. `installed` is `None` when there is no table.
pub fn diff(wanted: &Table, installed: Option<&Table>) -> Vec<Change> {
    let mut out = Vec::new();
    let empty = Table::default();
    let installed = match installed {
        None => {
            out.push(Change::AddTable);
            &empty
        }
        Some(installed) => match unusable(wanted, installed) {
            Some(why) => {
                out.extend([Change::DelTable(why), Change::AddTable]);
                &empty
            }
            None => installed,
        },
    };

    let missing = |name: &str| !installed.counters.iter().any(|c| c == name);
    let counters = wanted.counters.iter().filter(|c| missing(c));
    out.extend(counters.cloned().map(Change::AddCounter));

    for set in &wanted.sets {
        if !installed.sets.iter().any(|s| s.name == set.name) {
            out.push(Change::AddSet(set.kind()));
        }
    }
    for set in &wanted.sets {
        let old = installed.sets.iter().find(|s| s.name == set.name);
        let old = old.and_then(|s| s.elements.as_deref()).unwrap_or_default();
        let Some(new) = &set.elements else { continue };
        let (gone, added) = (without(old, new), without(new, old));
        if !gone.is_empty() {
            out.push(Change::DelElements(set.kind(), gone));
        }
        if !added.is_empty() {
            out.push(Change::AddElements(set.kind(), added));
        }
    }

    for chain in &wanted.chains {
        let old = installed.chains.iter().find(|c| c.name == chain.name);
        match old {
            None => out.push(Change::AddChain(Chain { rules: Vec::new(), ..chain.clone() })),
            Some(old) if old.policy != chain.policy => {
                out.push(Change::SetPolicy(Chain { rules: Vec::new(), ..chain.clone() }));
            }
            Some(_) => {}
        }
        let old = old.map(|c| c.rules.as_slice()).unwrap_or_default();
        rules(&chain.name, &chain.rules, old, &mut out);
    }

    for chain in &installed.chains {
        if !wanted.chains.iter().any(|c| c.name == chain.name) {
            for rule in &chain.rules {
                out.push(Change::DelRule(chain.name.clone(), rule.clone()));
            }
            out.push(Change::DelChain(chain.name.clone()));
        }
    }
    for set in &installed.sets {
        // An anonymous set goes with its rule; behind that there is nothing left to delete.
        if set.flags & SET_ANONYMOUS == 0 && !wanted.sets.iter().any(|s| s.name == set.name) {
            out.push(Change::DelSet(set.name.clone()));
        }
    }
    for counter in &installed.counters {
        if !wanted.counters.contains(counter) {
            out.push(Change::DelCounter(counter.clone()));
        }
    }
    out.extend(installed.objects.iter().map(|(name, kind)| Change::DelObject(name.clone(), *kind)));
    out
}

/// Why the table cannot be changed in place and is replaced whole, in one transaction: something of
/// ours has the right name and another kind, which another version of this program leaves behind, or
/// somebody switched the table off.
fn unusable(wanted: &Table, installed: &Table) -> Option<&'static str> {
    if installed.flags != wanted.flags {
        return Some("the table has flags that it should not have: dormant means switched off");
    }
    let kind = |s: &Set| (s.key_len, s.flags, s.timeout_ms, s.size);
    let set = wanted
        .sets
        .iter()
        .any(|new| installed.sets.iter().any(|old| old.name == new.name && kind(old) != kind(new)));
    let chain = wanted.chains.iter().any(|new| {
        installed
            .chains
            .iter()
            .any(|old| old.name == new.name && (old.hook, &old.kind) != (new.hook, &new.kind))
    });
    (set || chain).then_some("the table is of another version")
}

/// What is in `a` and not in `b`; both are sorted.
fn without(a: &[(Key, Key)], b: &[(Key, Key)]) -> Vec<(Key, Key)> {
    if b.is_empty() {
        // The same, in no more memory than it takes: there may be very many.
        return a.to_vec();
    }
    a.iter().filter(|x| b.binary_search(x).is_err()).copied().collect()
}

/// Keeps a longest common run of rules, deletes the other old ones and puts the new ones between.
fn rules(chain: &str, wanted: &[Rule], old: &[Rule], out: &mut Vec<Change>) {
    let kept = common(wanted, old);
    for (index, rule) in old.iter().enumerate() {
        if !kept.iter().any(|(_, o)| *o == index) {
            out.push(Change::DelRule(chain.to_owned(), rule.clone()));
        }
    }
    for (index, rule) in wanted.iter().enumerate() {
        if !kept.iter().any(|(w, _)| *w == index) {
            let next = kept.iter().find(|(w, _)| *w > index);
            let before = next.and_then(|(_, o)| old.get(*o)).map(|r| r.handle);
            out.push(Change::AddRule(chain.to_owned(), rule.clone(), before));
        }
    }
}

/// Pairs of indexes of a longest common subsequence.
#[allow(clippy::indexing_slicing)] // `head` and `tail` count elements that both slices have.
fn common(wanted: &[Rule], old: &[Rule]) -> Vec<(usize, usize)> {
    // Most chains agree wholly or nearly so: what is equal at either end needs no table.
    let head = wanted.iter().zip(old).take_while(|(a, b)| a.same(b)).count();
    let (middle, old_middle) = (&wanted[head..], &old[head..]);
    let tail =
        middle.iter().rev().zip(old_middle.iter().rev()).take_while(|(a, b)| a.same(b)).count();
    let (middle, old_middle) =
        (&middle[..middle.len() - tail], &old_middle[..old_middle.len() - tail]);

    let mut pairs: Vec<_> = (0..head).map(|i| (i, i)).collect();
    pairs.extend(longest(middle, old_middle).into_iter().map(|(i, j)| (i + head, j + head)));
    pairs.extend((0..tail).rev().map(|n| (wanted.len() - 1 - n, old.len() - 1 - n)));
    pairs
}

/// [`common`], by dynamic programming.
fn longest(wanted: &[Rule], old: &[Rule]) -> Vec<(usize, usize)> {
    let width = old.len() + 1;
    // best[i * width + j]: length of the longest common run of wanted[i..] and old[j..].
    let mut best = vec![0u32; (wanted.len() + 1) * width];
    let at = |best: &[u32], i: usize, j: usize| best.get(i * width + j).copied().unwrap_or(0);
    let same = |i: usize, j: usize| wanted.get(i).zip(old.get(j)).is_some_and(|(a, b)| a.same(b));
    for i in (0..wanted.len()).rev() {
        for j in (0..old.len()).rev() {
            let value = if same(i, j) {
                at(&best, i + 1, j + 1) + 1
            } else {
                at(&best, i + 1, j).max(at(&best, i, j + 1))
            };
            if let Some(cell) = best.get_mut(i * width + j) {
                *cell = value;
            }
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < wanted.len() && j < old.len() {
        if same(i, j) {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if at(&best, i + 1, j) >= at(&best, i, j + 1) {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

impl Change {
    /// Whether it only adds to what is allowed, or to what rules may look at.
    pub fn only_adds(&self) -> bool {
        matches!(self, Self::AddElements(..) | Self::AddSet(_) | Self::AddCounter(_))
    }

    /// Whether something that packets may be looking at goes away.
    pub fn deletes(&self) -> bool {
        matches!(
            self,
            Self::DelTable(_)
                | Self::DelCounter(_)
                | Self::DelObject(..)
                | Self::DelSet(_)
                | Self::DelElements(..)
                | Self::DelChain(_)
                | Self::DelRule(..)
        )
    }

    /// Whether the change only adds or removes what never decides about a packet.
    pub fn is_optional(&self) -> bool {
        matches!(self, Self::AddRule(_, rule, _) if rule.optional)
    }

    /// Whether it is a rule that asks about IPsec, which not every kernel can.
    pub(super) fn asks_ipsec(&self) -> bool {
        let asks = |e: &Expr| matches!(e, Expr::IntoIpsec | Expr::Meta(meta::SECPATH));
        matches!(self, Self::AddRule(_, rule, _) if rule.exprs.iter().any(asks))
    }

    /// Whether the kernel only refuses what the change would no longer refuse. A tunnel that went down
    /// has lost its addresses; refusing what is sent to them still is no difference that matters. The
    /// next apply takes them out.
    pub fn is_outdated_refusal(&self) -> bool {
        matches!(self, Self::DelElements(set, _) if TUNNEL_ADDRS.contains(&set.name.as_str()))
    }

    /// Whether the change needs an element, or needs its absence, that the kernel's clock takes away.
    pub(super) fn is_timed(&self) -> bool {
        match self {
            Self::AddTimed(..) => true,
            Self::DelElements(set, _) => set.flags & SET_TIMEOUT != 0,
            _ => false,
        }
    }
}

impl fmt::Display for Change {
    /// As a difference, seen from what should be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable => f.write_str("the table is missing"),
            Self::DelTable(why) => f.write_str(why),
            Self::AddCounter(name) => write!(f, "counter {name} is missing"),
            Self::DelCounter(name) => write!(f, "counter {name} is not ours"),
            Self::DelObject(name, kind) => {
                write!(f, "object {name} (of the kernel's kind {kind}) is not ours")
            }
            Self::AddSet(set) => write!(f, "set {} is missing", set.name),
            Self::DelSet(name) => write!(f, "set {name} is not ours"),
            Self::AddElements(set, elements) => {
                write!(f, "set {} lacks {}", set.name, super::text::elements(set, elements))
            }
            Self::DelElements(set, elements) => {
                write!(f, "set {} has {}", set.name, super::text::elements(set, elements))
            }
            Self::AddTimed(set, keys, ms) => {
                let keys: Vec<(Key, Key)> = keys.iter().map(|k| (*k, *k)).collect();
                let elements = super::text::elements(set, &keys);
                write!(f, "set {} lacks {elements} for {ms} ms", set.name)
            }
            Self::AddChain(chain) => write!(f, "chain {} is missing", chain.name),
            Self::DelChain(name) => write!(f, "chain {name} is not ours"),
            Self::SetPolicy(chain) => write!(f, "chain {} has the wrong policy", chain.name),
            Self::AddRule(chain, rule, _) => {
                write!(f, "chain {chain} lacks the rule '{}'", rule.comment)
            }
            Self::DelRule(chain, rule) => {
                let does: Vec<String> = rule.exprs.iter().map(Expr::to_string).collect();
                let name = if rule.comment.is_empty() { "without a name" } else { &rule.comment };
                write!(f, "chain {chain} has a rule that should not be there: '{name}' (")?;
                write!(f, "{})", does.join(", "))
            }
        }
    }
}
