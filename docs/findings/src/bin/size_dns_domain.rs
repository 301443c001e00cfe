//! Size probe: a question written and its answer read with domain.
use std::io::{Read, Write};

use domain::base::{Message, MessageBuilder, Name, ParsedName, Rtype};
use domain::rdata::{A, Aaaa, Cname};
use octseq::array::Array;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1).unwrap_or_default();
    let name = Name::<Array<255>>::from_chars(text.chars()).map_err(|e| e.to_string())?;
    let mut query = MessageBuilder::from_target(Array::<512>::new()).map_err(|_| "no room")?;
    query.header_mut().set_id(7);
    query.header_mut().set_rd(true);
    let mut query = query.question();
    query.push((&name, Rtype::A)).map_err(|_| "no room")?;
    let query = query.into_message();
    std::io::stdout().write_all(query.as_slice())?;

    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let answer = Message::from_slice(&bytes).map_err(|e| e.to_string())?;
    if !answer.is_answer(&query) {
        return Ok(());
    }
    for record in answer.answer().map_err(|e| e.to_string())? {
        let record = record.map_err(|e| e.to_string())?;
        if record.owner() != &name {
            continue;
        }
        let ttl = record.ttl().as_secs();
        if let Ok(Some(a)) = record.to_record::<A>() {
            println!("{} {ttl}", a.data().addr());
        } else if let Ok(Some(a)) = record.to_record::<Aaaa>() {
            println!("{} {ttl}", a.data().addr());
        } else if let Ok(Some(c)) = record.to_record::<Cname<ParsedName<&[u8]>>>() {
            println!("{} {ttl}", c.data().cname());
        }
    }
    Ok(())
}
