//! DNS crates against damaged messages: how many are read, how many panic, and the most memory
//! that one of them takes.
//! As many messages as the argument says, the same ones for each crate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use domain::base::{Message, ParsedName};
use domain::rdata::{A, Aaaa, Cname};

/// Bytes that are in use, and the most there ever were.
struct Counting;
static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(used, Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes a message apart as far as a resolver would: whether it could be read.
type Reader = fn(&[u8]) -> bool;

fn with_domain(bytes: &[u8]) -> bool {
    let Ok(message) = Message::from_slice(bytes) else { return false };
    let Ok(question) = message.sole_question() else { return false };
    let Ok(answer) = message.answer() else { return false };
    for record in answer {
        let Ok(record) = record else { return false };
        let same = record.owner() == *question.qname();
        let read = record.to_record::<A>().is_ok()
            && record.to_record::<Aaaa>().is_ok()
            && record.to_record::<Cname<ParsedName<&[u8]>>>().is_ok();
        if !read || same && record.owner().to_string().is_empty() {
            return false;
        }
    }
    true
}

fn with_simple_dns(bytes: &[u8]) -> bool {
    simple_dns::Packet::parse(bytes).is_ok_and(|message| {
        let mut owners = message.answers.iter().map(|record| record.name.to_string());
        owners.all(|name| !name.is_empty())
    })
}

fn with_message_parser(bytes: &[u8]) -> bool {
    dns_message_parser::Dns::decode(bytes.to_vec().into()).is_ok()
}

fn with_hickory(bytes: &[u8]) -> bool {
    hickory_proto::op::Message::from_vec(bytes).is_ok()
}

/// Names are not looked at: see `dns_protocol`.
fn with_protocol(bytes: &[u8]) -> bool {
    let (mut q, mut r) = (vec![Default::default(); 4], vec![vec![Default::default(); 64]; 3]);
    let [a, b, c] = &mut r[..] else { return false };
    dns_protocol::Message::read(bytes, &mut q, a, b, c).is_ok()
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % end.max(1)
    }
}

fn record(owner: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(0).to_be_bytes();
    [owner, &[0, kind, 0, 1, 0, 0, 1, 0], &length, data].concat()
}

/// Answers as they come: addresses, aliases that refer to each other's names, a zone's head, an OPT.
fn valid() -> Vec<Vec<u8>> {
    let question = b"\x03vpn\x07example\x03net\0\0\x01\0\x01";
    let message = |counts: [u8; 3], records: &[Vec<u8>]| {
        let [a, b, c] = counts;
        let header = [0, 7, 0x81, 0x80, 0, 1, 0, a, 0, b, 0, c];
        [&header[..], question, &records.concat()].concat()
    };
    let four = record(&[0xc0, 12], 1, &[192, 0, 2, 1]);
    let six = record(&[0xc0, 12], 28, &[0x20; 16]);
    let alias = record(&[0xc0, 12], 5, b"\x01b\xc0\x10");
    let next = record(&[0xc0, 45], 1, &[192, 0, 2, 2]);
    let soa = record(
        &[0xc0, 16],
        6,
        b"\x02ns\xc0\x10\x01h\xc0\x10\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01",
    );
    let opt = [&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 12][..], &[0, 10, 0, 8], &[7; 8]].concat();
    let text = record(&[0xc0, 12], 16, b"\x05hello");
    vec![
        message([1, 0, 0], std::slice::from_ref(&four)),
        message([3, 0, 1], &[alias.clone(), next, four, opt.clone()]),
        message([1, 1, 0], &[six, soa.clone()]),
        message([0, 1, 1], &[soa, opt]),
        message([2, 0, 0], &[text, alias]),
    ]
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len());
        let byte = random.below(256).to_le_bytes()[0];
        match random.below(8) {
            _ if bytes.is_empty() => {}
            0 => bytes.truncate(at),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, byte),
            3 => bytes[at] = [0, 1, 12, 0x3f, 0x40, 0x80, 0xc0, 0xff][usize::from(byte) % 8],
            4 => bytes.extend_from_within(at..),
            _ => bytes[at] = byte,
        }
    }
}

fn main() {
    let count = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let readers: [(&str, Reader); 5] = [
        ("domain", with_domain),
        ("simple-dns", with_simple_dns),
        ("dns-message-parser", with_message_parser),
        ("hickory-proto", with_hickory),
        ("dns-protocol", with_protocol),
    ];
    panic::set_hook(Box::new(|_| ()));
    for (name, reader) in readers {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let valid = valid();
        let whole = valid.iter().filter(|message| reader(message)).count();
        let (mut read, mut panics, mut words) = (0, 0, String::new());
        let mut most = 0;
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.clear();
            if random.below(10) == 0 {
                bytes.extend((0..random.below(512)).map(|_| random.below(256).to_le_bytes()[0]));
            } else {
                bytes.extend(&valid[random.below(valid.len())]);
                damage(&mut random, &mut bytes);
            }
            let before = USED.load(Relaxed);
            MOST.store(before, Relaxed);
            match panic::catch_unwind(AssertUnwindSafe(|| reader(&bytes))) {
                Ok(done) => read += usize::from(done),
                Err(e) => {
                    panics += 1;
                    words = e.downcast_ref::<String>().cloned().unwrap_or_default();
                }
            }
            most = most.max(MOST.load(Relaxed) - before);
        }
        let kib = most / 1024;
        println!(
            "{name}: {whole} of {} whole ones read; of {count} damaged ones {read} read, \
             {panics} panics {words:?}, most memory {kib} KiB",
            valid.len()
        );
    }
}
