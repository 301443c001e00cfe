//! nftnl 0.9.4 + mnl 0.3.1: a batch larger than one libnftnl page. Run it under `unshare -n`.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::process::Command;

use nftnl::{Batch, Chain, MsgType, ProtoFamily, Table};

fn main() {
    println!("page: {} bytes", nftnl::default_batch_page_size());
    for (name, count) in [(c"small", 500), (c"large", 4000)] {
        let table = Table::new(name, ProtoFamily::Inet);
        let mut batch = Batch::new();
        batch.add(&table, MsgType::Add);
        for i in 0..count {
            let chain = CString::new(format!("c{i:08}")).expect("name");
            batch.add(&Chain::new(&chain, &table), MsgType::Add);
        }
        let batch = batch.finalize();
        let pieces: Vec<usize> = batch.iter().map(<[u8]>::len).collect();
        let socket = mnl::Socket::new(mnl::Bus::Netfilter).expect("socket");
        let sent = socket.send_all(&batch);
        println!("{count} chains: pieces of {pieces:?} bytes, send_all() = {sent:?}");
        let name = name.to_str().expect("ASCII");
        let list = Command::new("nft").args(["list", "table", "inet", name]).output();
        let list = list.expect("run nft");
        println!("  arrived: {}", String::from_utf8_lossy(&list.stdout).matches("chain c").count());

        // SAFETY: sets O_NONBLOCK on a descriptor that `socket` keeps open.
        unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        let mut buffer = vec![0; 1 << 16];
        let mut answers = 0;
        let end = loop {
            match socket.recv_raw(&mut buffer) {
                Ok(_) => answers += 1,
                Err(e) => break e,
            }
        };
        println!("  who reads on gets {answers} answers, then: {end}");
    }
}
