//! Size probe: a question written and its answer read with dns-message-parser.
use std::io::{Read, Write};

use dns_message_parser::question::{QClass, QType, Question};
use dns_message_parser::rr::RR;
use dns_message_parser::{Dns, DomainName, Flags, Opcode, RCode};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name: DomainName = std::env::args().nth(1).unwrap_or_default().parse()?;
    let asked = Question { domain_name: name.clone(), q_class: QClass::IN, q_type: QType::A };
    let query = Dns {
        id: 7,
        flags: Flags {
            qr: false,
            opcode: Opcode::Query,
            aa: false,
            tc: false,
            rd: true,
            ra: false,
            ad: false,
            cd: false,
            rcode: RCode::NoError,
        },
        questions: vec![asked.clone()],
        answers: Vec::new(),
        authorities: Vec::new(),
        additionals: Vec::new(),
    };
    std::io::stdout().write_all(&query.encode()?)?;

    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let answer = Dns::decode(bytes.into())?;
    if answer.id != 7 || !answer.flags.qr || answer.questions != [asked] {
        return Ok(());
    }
    for record in &answer.answers {
        match record {
            RR::A(a) if a.domain_name == name => println!("{} {}", a.ipv4_addr, a.ttl),
            RR::AAAA(a) if a.domain_name == name => println!("{} {}", a.ipv6_addr, a.ttl),
            RR::CNAME(c) if c.domain_name == name => println!("{} {}", c.c_name, c.ttl),
            _ => {}
        }
    }
    Ok(())
}
