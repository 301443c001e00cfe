//! Netlink attributes: length, type, value, padded to four bytes (linux/netlink.h).

use std::net::IpAddr;

use netlink_bindings::utils::{
    align, finalize_nested_header, find_attr, push_header, push_nested_header,
};

/// Bytes of a `struct nlattr`, and what attributes are padded to.
const HEADER: usize = 4;
/// The bits of its type that are no flag (`NLA_TYPE_MASK`).
const TYPE: u16 = 0x3fff;

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

/// An attribute that is a number of 32 bits, in network order.
pub fn word(attrs: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find_attr(attrs, kind)?.try_into().ok()?))
}

/// An attribute that is a number of 32 bits, in the machine's order.
pub fn native(attrs: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_ne_bytes(find_attr(attrs, kind)?.try_into().ok()?))
}

/// An attribute that is a number of 64 bits, in network order.
pub fn wide(attrs: &[u8], kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(find_attr(attrs, kind)?.try_into().ok()?))
}

/// An attribute that is a string, without its final NUL.
pub fn text(attrs: &[u8], kind: u16) -> Option<String> {
    let bytes = find_attr(attrs, kind)?;
    Some(String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned())
}

/// An attribute that is an address of either family.
pub fn addr(attrs: &[u8], kind: u16) -> Option<IpAddr> {
    let bytes = find_attr(attrs, kind)?;
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The attributes of a message or of a nest, by type, until the first that is damaged.
pub fn each(mut attrs: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1, ..] = *attrs else { return None };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attrs.get(HEADER..length)?;
        attrs = attrs.get(length.next_multiple_of(HEADER)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & TYPE, value))
    })
}
