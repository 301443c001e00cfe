//! netlink-socket2 0.3.5: large transactions, large errors, lost acknowledgements, silence.
//! Run it under `unshare -n`; everything it makes is in a table `t` of that namespace.

use std::net::Ipv4Addr;
use std::process::Command;

use findings::{outcome, watched};
use netlink_bindings::nftables::{Chained, ChainedFinal, Nfgenmsg, SetElemFlags, SetFlags};
use netlink_bindings::traits::NetlinkChained;
use netlink_socket2::NetlinkSocket;

const INET: u8 = 1;

fn header() -> Nfgenmsg {
    Nfgenmsg { nfgen_family: INET, ..Default::default() }
}

/// Begin, whatever `fill` adds, end.
fn batch(fill: impl FnOnce(&mut Chained<'static>)) -> ChainedFinal<'static> {
    let mut batch_header = Nfgenmsg::new();
    batch_header.set_res_id(10);
    let mut chain = Chained::new(1);
    chain.request().op_batch_begin_do(&batch_header);
    fill(&mut chain);
    chain.request().op_batch_end_do(&batch_header);
    chain.finalize()
}

fn add_table(chain: &mut Chained<'static>) {
    chain.request().set_create().op_newtable_do(&header()).encode().push_name(c"t");
}

fn add_set(chain: &mut Chained<'static>) {
    let (flags, ipv4_addr, bytes) = (SetFlags::Interval as u32, 7, 4);
    let mut request = chain.request().set_create().op_newset_do(&header());
    let set = request.encode().push_table(c"t").push_name(c"s").push_flags(flags);
    set.push_key_type(ipv4_addr).push_key_len(bytes).push_id(1);
}

/// One message with `count` addresses, each an interval's start and end.
fn add_elements(chain: &mut Chained<'static>, first: u32, count: u32) {
    let mut request = chain.request().set_create().op_newsetelem_do(&header());
    let mut list = request.encode().push_table(c"t").push_set(c"s").nested_elements();
    for i in first..first + count {
        let start = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + 2 * i;
        let key = list.nested_elem().nested_key().push_value(&start.to_be_bytes());
        list = key.end_nested().end_nested();
        let key = list.nested_elem().nested_key().push_value(&(start + 1).to_be_bytes());
        let end = (SetElemFlags::IntervalEnd as u32).to_be_bytes();
        list = key.end_nested().push_flags(&end).end_nested();
    }
}

fn addresses(count: u32) -> ChainedFinal<'static> {
    batch(|chain| {
        add_table(chain);
        add_set(chain);
        (0..count / 500).for_each(|i| add_elements(chain, i * 500, 500));
    })
}

fn in_kernel() -> usize {
    let list = Command::new("nft").args(["list", "ruleset"]).output().expect("run nft");
    String::from_utf8_lossy(&list.stdout).matches("10.0.").count()
}

fn apply(request: &ChainedFinal<'_>) -> String {
    outcome(|| {
        let mut socket = NetlinkSocket::new();
        let reply = match socket.request_chained(request) {
            Ok(mut replies) => replies.recv_all().map_err(|e| e.to_string()),
            Err(e) => Err(format!("sending: {e}")),
        };
        format!("{reply:?}")
    })
}

/// The same bytes over a socket whose send buffer was raised, as nft(8) does it.
fn send_with_large_buffer(bytes: &[u8]) -> isize {
    let (level, force) = (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE);
    let room: libc::c_int = 4 << 20;
    // SAFETY: plain system calls; `room` and `bytes` outlive them and are only read, with their
    // true lengths. The descriptor stays open until the end of the process.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER);
        libc::setsockopt(fd, level, force, (&raw const room).cast(), 4);
        libc::send(fd, bytes.as_ptr().cast(), bytes.len(), 0)
    }
}

fn main() {
    println!("1. transactions larger than the send buffer");
    for count in [1000, 10_000] {
        let request = addresses(count);
        println!("{count} addresses, {} bytes: {}", request.payload().len(), apply(&request));
        println!("  in the kernel: {}", in_kernel());
    }
    let request = addresses(10_000);
    let sent = send_with_large_buffer(request.payload());
    println!("same bytes after SO_SNDBUFFORCE: {sent} sent");
    println!("  in the kernel: {}", in_kernel());

    println!("\n2. the kernel's answer is larger than 8 KiB (it echoes the refused message)");
    for count in [10, 500] {
        Command::new("nft").args(["delete", "table", "inet", "t"]).output().expect("run nft");
        let request = batch(|chain| {
            add_table(chain);
            add_elements(chain, 0, count);
        });
        println!("{count} addresses into a set that is not there: {}", apply(&request));
    }

    println!("\n3. refused transactions: the last message adds to a set that is not there");
    for messages in [63, 64, 65, 128] {
        let request = batch(|chain| {
            (0..messages - 3).for_each(|_| add_table(chain));
            add_elements(chain, 0, 1);
        });
        println!("{messages} messages: {}", apply(&request));
    }

    println!("\n4. no answer");
    let mut silent = batch(add_table);
    // One message that the kernel passes over: NLMSG_NOOP, no acknowledgement asked for.
    *silent.buf_mut() = [16_u32.to_ne_bytes(), [1, 0, 1, 0], [0; 4], [0; 4]].concat();
    println!("{}", watched("STILL WAITING", move || apply(&silent)));
}
