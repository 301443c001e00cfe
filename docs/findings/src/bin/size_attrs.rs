//! Size probe: the messages of `size_netlink` with netlink-bindings' attribute helpers only.
use std::io::{self, Write};

use netlink_bindings::utils::{align, finalize_nested_header, push_header, push_nested_header};

fn message(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend([0; 10]);
    out.extend([1, 0, 0, 10]);
    fill(out);
    let length = u32::try_from(out.len() - at).unwrap_or(0);
    out[at..at + 4].copy_from_slice(&length.to_ne_bytes());
}

fn bytes(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    push_header(out, kind, value.len() as u16);
    out.extend(value);
    align(out);
}

fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = push_nested_header(out, kind);
    fill(out);
    finalize_nested_header(out, at);
}

fn main() -> io::Result<()> {
    let mut out = Vec::new();
    message(&mut out, 0x10, |_| {});
    message(&mut out, 0xa00, |out| bytes(out, 1, b"t\0"));
    message(&mut out, 0xa03, |out| {
        bytes(out, 1, b"t\0");
        bytes(out, 3, b"c\0");
        nest(out, 4, |out| {
            bytes(out, 1, &2u32.to_be_bytes());
            bytes(out, 2, &(-5i32).to_be_bytes());
        });
    });
    message(&mut out, 0xa06, |out| {
        bytes(out, 1, b"t\0");
        bytes(out, 2, b"c\0");
        nest(out, 4, |out| {
            nest(out, 1, |out| {
                bytes(out, 1, b"counter\0");
                nest(out, 2, |out| {
                    bytes(out, 1, &0u64.to_be_bytes());
                    bytes(out, 2, &0u64.to_be_bytes());
                });
            });
        });
    });
    message(&mut out, 0x11, |_| {});
    io::stdout().write_all(&out)
}
