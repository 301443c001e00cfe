//! dns-protocol 0.1.2: a name that refers to itself is read for ever; names that are the same are not.

use dns_protocol::{Message, Question, ResourceRecord};
use findings::watched;

fn message(answer: &[u8]) -> Vec<u8> {
    let header = [0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    [&header[..], b"\x03vpn\x07example\x03net\0\0\x01\0\x01", answer].concat()
}

/// The owner of the first answer, and whether it is the name that was asked for.
fn owner(bytes: &[u8]) -> String {
    let (mut questions, mut answers) = ([Question::default()], [ResourceRecord::default()]);
    match Message::read(bytes, &mut questions, &mut answers, &mut [], &mut []) {
        Ok(message) => {
            let owner = message.answers()[0].name();
            format!("{owner}, same: {}", owner == message.questions()[0].name())
        }
        Err(e) => e.to_string(),
    }
}

fn main() {
    let fixed = [0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1];
    let reference = [&[0xc0, 12][..], &fixed].concat();
    let itself = [&[0xc0, 33][..], &fixed].concat();
    println!("a reference to the question: {}", owner(&message(&reference)));
    let itself = message(&itself);
    println!("a name that refers to itself: {}", watched("STILL RUNNING", move || owner(&itself)));
}
