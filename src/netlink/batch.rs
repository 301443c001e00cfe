//! An nftables transaction, as bytes.

use netlink_bindings::utils::{align, push_header};

use super::{begin, end, flag};

/// An nftables transaction: all its messages, in one buffer.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    pub(super) first_sequence: u32,
    count: u32,
    last_at: usize,
}

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`, `NFNL_BATCH_GENID` (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENID: u16 = 1;
/// A `struct nfgenmsg` for no family whose resource is `NFNL_SUBSYS_NFTABLES` (10).
const FOR_NFTABLES: [u8; 4] = [0, 0, 0, 10];

impl Batch {
    pub(super) fn new(first_sequence: u32, generation: u32) -> Self {
        let mut batch = Self { bytes: Vec::new(), first_sequence, count: 0, last_at: 0 };
        batch.message(BATCH_BEGIN, 0, |out| {
            out.extend(FOR_NFTABLES);
            push_header(out, BATCH_GENID, 4);
            out.extend(generation.to_be_bytes());
        });
        batch
    }

    /// Appends a message and returns its index.
    pub fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) -> usize {
        let index = self.count;
        self.last_at = self.bytes.len();
        begin(&mut self.bytes, kind, flags, self.first_sequence.wrapping_add(index));
        fill(&mut self.bytes);
        align(&mut self.bytes);
        end(&mut self.bytes, self.last_at);
        self.count += 1;
        index as usize
    }

    /// The finished bytes, and the index of the message that the kernel is to acknowledge: the last
    /// one only. Refusals come in any case, thousands of acknowledgements would overflow the socket,
    /// and kernels before 6.10 do not acknowledge the frame.
    pub(super) fn finish(mut self) -> (Vec<u8>, usize) {
        let (last, at) = (self.count - 1, self.last_at);
        if let Some([low, high]) = self.bytes.get_mut(at + 6..at + 8) {
            let [a, b] = flag(libc::NLM_F_ACK).to_ne_bytes();
            *low |= a;
            *high |= b;
        }
        self.message(BATCH_END, 0, |out| out.extend(FOR_NFTABLES));
        (self.bytes, last as usize)
    }
}
