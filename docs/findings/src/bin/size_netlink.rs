//! Size probe: a table, a chain and a rule encoded with netlink-bindings and written out.
use std::io::{self, Write};

use netlink_bindings::nftables::{Chained, Nfgenmsg};

fn main() -> io::Result<()> {
    let header = Nfgenmsg { nfgen_family: 1, ..Default::default() };
    let mut chain = Chained::new(1);
    chain.request().op_batch_begin_do(&header);
    chain.request().set_create().op_newtable_do(&header).encode().push_name(c"t");
    let mut request = chain.request().set_create().op_newchain_do(&header);
    request.encode().push_table(c"t").push_name(c"c").nested_hook().push_num(2).push_priority(-5);
    let mut request = chain.request().set_create().op_newrule_do(&header);
    let rule = request.encode().push_table(c"t").push_chain(c"c").nested_expressions();
    rule.nested_elem().nested_data_counter().push_bytes(0).push_packets(0);
    chain.request().op_batch_end_do(&header);
    io::stdout().write_all(chain.finalize().buf())
}
