//! Netlink attributes: length, type, value, padded to four bytes (linux/netlink.h).

use netlink_bindings::utils::{align, finalize_nested_header, push_header, push_nested_header};

/// Appends an attribute that holds what `fill` appends.
pub fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = push_nested_header(out, kind);
    fill(out);
    finalize_nested_header(out, at);
}

/// Appends an attribute of raw bytes (at most a few hundred of them).
pub fn bytes(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    push_header(out, kind, u16::try_from(value.len()).unwrap_or(0));
    out.extend(value);
    align(out);
}

/// Appends an attribute that is a string, with its final NUL.
pub fn string(out: &mut Vec<u8>, kind: u16, value: &str) {
    let mut value = value.as_bytes().to_vec();
    value.push(0);
    bytes(out, kind, &value);
}

/// Appends an attribute that is a number of 32 bits, in network order.
pub fn word_attr(out: &mut Vec<u8>, kind: u16, value: u32) {
    bytes(out, kind, &value.to_be_bytes());
}

/// Appends an attribute that is a number of 64 bits, in network order.
pub fn wide_attr(out: &mut Vec<u8>, kind: u16, value: u64) {
    bytes(out, kind, &value.to_be_bytes());
}
