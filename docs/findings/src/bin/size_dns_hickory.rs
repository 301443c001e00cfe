//! Size probe: a question written and its answer read with hickory-proto.
use std::io::{Read, Write};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut name: Name = std::env::args().nth(1).unwrap_or_default().parse()?;
    name.set_fqdn(true);
    let asked = Query::query(name.clone(), RecordType::A);
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(asked.clone());
    std::io::stdout().write_all(&query.to_vec()?)?;

    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let answer = Message::from_vec(&bytes)?;
    if answer.metadata.id != 7 || answer.queries != [asked] {
        return Ok(());
    }
    for record in answer.answers.iter().filter(|r| r.name == name) {
        match &record.data {
            RData::A(a) => println!("{a} {}", record.ttl),
            RData::AAAA(a) => println!("{a} {}", record.ttl),
            RData::CNAME(target) => println!("{target} {}", record.ttl),
            _ => {}
        }
    }
    Ok(())
}
