//! What `nft` itself says about our table, in a form that can be compared.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::indexing_slicing, reason = "test code: JSON without a key is null")]

use crate::lab::Res;
use crate::lab::ns::Ns;
use serde_json::Value;
use std::collections::BTreeMap;

/// The whole table as `nft -j` lists it: chains with their rules in order, sets with their elements
/// sorted, counters by name. Left out is what differs between two kernels that have the same rules:
/// handles, counted packets, elements that packets or commands added.
pub fn of(ns: &Ns) -> Res<BTreeMap<String, Vec<Value>>> {
    let json: Value = serde_json::from_str(&ns.sh("nft -j list table inet vpn_killswitch")?)?;
    let mut out: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for item in json["nftables"].as_array().ok_or("no list")? {
        let (kind, body) = item.as_object().and_then(|o| o.iter().next()).ok_or("no item")?;
        let mut body = body.clone();
        let Some(fields) = body.as_object_mut() else { continue };
        let owner = if kind == "rule" { "chain" } else { "name" };
        let key = format!("{kind} {}", fields.get(owner).and_then(Value::as_str).unwrap_or(""));
        for volatile in ["handle", "packets", "bytes"] {
            fields.remove(volatile);
        }
        if fields.contains_key("timeout") {
            fields.remove("elem");
        }
        if fields.get("flags").is_some_and(|f| f.to_string().contains("timeout")) {
            fields.remove("elem");
        }
        if let Some(elements) = fields.get_mut("elem").and_then(Value::as_array_mut) {
            elements.sort_by_key(Value::to_string);
        }
        if kind != "metainfo" {
            out.entry(key).or_default().push(body);
        }
    }
    Ok(out)
}

/// Where two listings differ, in words; empty when they do not.
pub fn differences(
    a: &BTreeMap<String, Vec<Value>>,
    b: &BTreeMap<String, Vec<Value>>,
) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let mut out = Vec::new();
    for key in keys {
        let (a, b) =
            (a.get(key).cloned().unwrap_or_default(), b.get(key).cloned().unwrap_or_default());
        let other =
            |of: &[Value], n: usize| of.get(n).map_or("nothing".to_owned(), Value::to_string);
        for n in 0..a.len().max(b.len()) {
            if a.get(n) != b.get(n) {
                out.push(format!("{key}, number {n}:\n  {}\n  {}", other(&a, n), other(&b, n)));
            }
        }
    }
    out
}
