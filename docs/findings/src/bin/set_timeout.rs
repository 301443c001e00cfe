//! netlink-bindings 0.3.5: a set's timeout is written, and read, in the host's byte order.
//! Run it under `unshare -n`; everything it makes is in a table `t` of that namespace.

use std::process::Command;

use netlink_bindings::nftables::{Chained, Nfgenmsg, SetFlags};
use netlink_socket2::NetlinkSocket;

const DAY_MS: u64 = 24 * 3600 * 1000;

fn add_set(name: &std::ffi::CStr, timeout: u64) {
    let mut batch_header = Nfgenmsg::new();
    batch_header.set_res_id(10);
    let header = Nfgenmsg { nfgen_family: 1, ..Default::default() };
    let mut chain = Chained::new(1);
    chain.request().op_batch_begin_do(&batch_header);
    chain.request().set_create().op_newtable_do(&header).encode().push_name(c"t");
    let (flags, ipv4_addr, bytes) = (SetFlags::Timeout as u32, 7, 4);
    let mut request = chain.request().set_create().op_newset_do(&header);
    let set = request.encode().push_table(c"t").push_name(name).push_flags(flags);
    set.push_key_type(ipv4_addr).push_key_len(bytes).push_id(1).push_timeout(timeout);
    drop(request);
    chain.request().op_batch_end_do(&batch_header);
    let mut socket = NetlinkSocket::new();
    match socket.request_chained(&chain.finalize()) {
        Ok(mut replies) => {
            println!("{name:?}: {:?}", replies.recv_all().map_err(|e| e.to_string()))
        }
        Err(e) => println!("{name:?}: sending: {e}"),
    }
}

fn main() {
    add_set(c"a_day", DAY_MS);
    add_set(c"a_day_turned", DAY_MS.to_be());
    let list = Command::new("nft").args(["list", "ruleset"]).output().expect("run nft");
    print!("{}", String::from_utf8_lossy(&list.stdout));
}
