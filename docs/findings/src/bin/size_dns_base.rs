//! Size probe: what the DNS probes share. An argument and a datagram in, bytes and lines out.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

fn main() -> std::io::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    std::io::stdout().write_all(name.as_bytes())?;
    let mut answer = Vec::new();
    std::io::stdin().read_to_end(&mut answer)?;
    let Some((four, rest)) = answer.split_first_chunk::<4>() else { return Ok(()) };
    println!("{} {}", Ipv4Addr::from(*four), rest.len());
    if let Some(sixteen) = rest.first_chunk::<16>() {
        println!("{} {name}", Ipv6Addr::from(*sixteen));
    }
    Ok(())
}
