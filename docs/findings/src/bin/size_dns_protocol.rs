//! Size probe: a question written and its answer read with dns-protocol.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use dns_protocol::{Flags, Message, Question, ResourceRecord, ResourceType};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1).unwrap_or_default();
    let mut questions = [Question::new(text.as_str(), ResourceType::A, 1)];
    let flags = Flags::standard_query();
    let query = Message::new(7, flags, &mut questions, &mut [], &mut [], &mut []);
    let mut out = vec![0; query.space_needed()];
    let length = query.write(&mut out)?;
    std::io::stdout().write_all(out.get(..length).unwrap_or_default())?;

    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let mut asked = [Question::default()];
    let mut records = [ResourceRecord::default(); 64];
    let answer = Message::read(&bytes, &mut asked, &mut records, &mut [], &mut [])?;
    if answer.id() != 7 {
        return Ok(());
    }
    for record in answer.answers().iter().filter(|r| r.name().to_string() == text) {
        if let Ok(four) = <[u8; 4]>::try_from(record.data()) {
            println!("{} {}", Ipv4Addr::from(four), record.ttl());
        } else if let Ok(sixteen) = <[u8; 16]>::try_from(record.data()) {
            println!("{} {}", Ipv6Addr::from(sixteen), record.ttl());
        }
    }
    Ok(())
}
