//! Size probe: a question written and its answer read with simple-dns.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, TYPE};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1).unwrap_or_default();
    let name = Name::new(&text)?;
    let question = Question::new(name.clone(), TYPE::A.into(), CLASS::IN.into(), false);
    let mut query = Packet::new_query(7);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    query.questions.push(question);
    std::io::stdout().write_all(&query.build_bytes_vec()?)?;

    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let answer = Packet::parse(&bytes)?;
    let asked = |q: &Question<'_>| q.qname == name && q.qtype == TYPE::A.into();
    let ours = answer.id() == 7 && answer.has_flags(PacketFlag::RESPONSE);
    if !ours || !answer.questions.iter().all(asked) {
        return Ok(());
    }
    for record in answer.answers.iter().filter(|r| r.name == name) {
        match &record.rdata {
            RData::A(a) => println!("{} {}", Ipv4Addr::from(a.address), record.ttl),
            RData::AAAA(a) => println!("{} {}", Ipv6Addr::from(a.address), record.ttl),
            RData::CNAME(target) => println!("{} {}", target.0, record.ttl),
            _ => {}
        }
    }
    Ok(())
}
