//! Size probe: a question written and its answer read by hand. For comparison only.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A name in lower case, with its dots, and where it ends.
fn name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut out, mut end) = (Vec::new(), None);
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some((String::from_utf8(out).ok()?, end.unwrap_or(at + 1))),
            1..0x40 => {
                out.extend(
                    message.get(at + 1..at + 1 + length)?.iter().map(u8::to_ascii_lowercase),
                );
                out.push(b'.');
                at += 1 + length;
            }
            0xc0.. => {
                let to = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                end = end.or(Some(at + 2));
                at = Some(to).filter(|to| *to < at)?;
            }
            _ => return None,
        }
        if out.len() > 254 {
            return None;
        }
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

fn read(message: &[u8], asked: &[u8], wanted: &str) -> Option<()> {
    let ours = number(message, 0)? == 7 && number(message, 2)? & 0xf800 == 0x8000;
    let question = message.get(12..asked.len())?;
    if !ours || number(message, 4)? != 1 || !question.eq_ignore_ascii_case(asked.get(12..)?) {
        return None;
    }
    let mut at = asked.len();
    for _ in 0..number(message, 6)? {
        let (owner, fixed) = name(message, at)?;
        let ttl =
            u32::from(number(message, fixed + 4)?) << 16 | u32::from(number(message, fixed + 6)?);
        let start = fixed + 10;
        at = start + usize::from(number(message, fixed + 8)?);
        let data = message.get(start..at)?;
        if owner != wanted || number(message, fixed + 2)? != 1 {
            continue;
        }
        match number(message, fixed)? {
            1 => println!("{} {ttl}", Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?)),
            28 => println!("{} {ttl}", Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?)),
            5 => println!("{} {ttl}", name(message, start)?.0),
            _ => {}
        }
    }
    Some(())
}

fn main() -> std::io::Result<()> {
    let text = std::env::args().nth(1).unwrap_or_default();
    let mut asked = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in text.split('.') {
        asked.push(u8::try_from(label.len()).unwrap_or(63).min(63));
        asked.extend(label.bytes().take(63));
    }
    asked.extend([0, 0, 1, 0, 1]);
    std::io::stdout().write_all(&asked)?;

    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    read(&bytes, &asked, &format!("{}.", text.to_ascii_lowercase()));
    Ok(())
}
