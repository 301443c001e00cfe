//! The part of nftables' language that the laboratory's own firewalls are written in, sent to the kernel.

use super::{NETLINK_NETFILTER, unknown};
use crate::lab::Res;
use std::io::{Error, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use vpn_killswitch::netlink::attr::{bytes, each, nest, string, wide_attr, word_attr};
use vpn_killswitch::netlink::{Batch, Request, Socket, flag};

/// Messages and attributes of linux/netfilter/nf_tables.h.
const NEWTABLE: u16 = 10 << 8;
const DELTABLE: u16 = NEWTABLE + 2;
const NEWCHAIN: u16 = NEWTABLE + 3;
const NEWRULE: u16 = NEWTABLE + 6;
const DELRULE: u16 = NEWTABLE + 8;
const GETGEN: u16 = NEWTABLE + 16;
const NEWOBJ: u16 = NEWTABLE + 18;
const GETOBJ: u16 = NEWTABLE + 19;
const NEWFLOWTABLE: u16 = NEWTABLE + 22;
const OBJECT_COUNTER: u32 = 1;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// Comparisons.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

pub fn main(args: &[&str]) -> Res<()> {
    match args {
        ["-f", "-"] => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            load(&text)
        }
        ["list", "counter", "inet", table, name] => list(table, name),
        _ => Err(unknown(args)),
    }
}

fn list(table: &str, name: &str) -> Res<()> {
    let mut payload = vec![INET, 0, 0, 0];
    string(&mut payload, 1, table);
    string(&mut payload, 2, name);
    word_attr(&mut payload, 3, OBJECT_COUNTER);
    let request = Request { kind: GETOBJ, flags: 0, payload };
    let mut packets = None;
    Socket::open(NETLINK_NETFILTER)?
        .request(&request, |reply| {
            let attrs = || each(reply.get(4..).unwrap_or_default());
            let data =
                attrs().find(|(kind, _)| *kind == 4).map(|(_, data)| data).unwrap_or_default();
            let counted = each(data).find(|(kind, _)| *kind == 2);
            packets = counted.and_then(|(_, n)| Some(u64::from_be_bytes(n.try_into().ok()?)));
            Ok(())
        })
        .map_err(Error::from)?;
    println!("counter {name} {{ packets {} }}", packets.ok_or("no such counter")?);
    Ok(())
}

fn load(text: &str) -> Res<()> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let mut generation = 0;
    let request = Request { kind: GETGEN, flags: 0, payload: vec![0; 4] };
    socket
        .request(&request, |reply| {
            let id = each(reply.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == 1);
            generation =
                id.and_then(|(_, n)| Some(u32::from_be_bytes(n.try_into().ok()?))).unwrap_or(0);
            Ok(())
        })
        .map_err(Error::from)?;
    let mut script =
        Script { words: words(text), at: 0, batch: socket.batch(generation), table: String::new() };
    while script.at < script.words.len() {
        script.command()?;
    }
    Ok(socket.transact(script.batch).map_err(Error::from)?)
}

/// Words, without quotes; the ends of lines are `;`.
fn words(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    for c in text.chars() {
        match c {
            '{' | '}' | ',' | ';' => out.extend([c.to_string(), String::new()]),
            '\n' => out.extend([";".to_owned(), String::new()]),
            c if c.is_whitespace() => out.push(String::new()),
            '"' => {}
            c => {
                if let Some(word) = out.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    out.retain(|word| !word.is_empty());
    out
}

/// Several rules for one of the language: each value of `{ … }` gets its own.
type Rules = Vec<Vec<u8>>;

struct Script {
    words: Vec<String>,
    at: usize,
    batch: Batch,
    table: String,
}

impl Script {
    fn next(&mut self) -> Res<String> {
        self.at += 1;
        self.words.get(self.at - 1).cloned().ok_or_else(|| "ends too early".into())
    }

    /// Takes the word if it is this one.
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at).is_some_and(|w| w == word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: &str) -> Res<()> {
        for wanted in wanted.split(' ') {
            let found = self.next()?;
            if found != wanted {
                return Err(format!("not understood: {found} instead of {wanted}").into());
            }
        }
        Ok(())
    }

    fn send(&mut self, kind: u16, flags: i32, fill: impl FnOnce(&mut Vec<u8>)) {
        let table = std::mem::take(&mut self.table);
        self.batch.message(kind, flag(flags), |out| {
            out.extend([INET, 0, 0, 0]);
            string(out, 1, &table);
            fill(out);
        });
        self.table = table;
    }

    fn command(&mut self) -> Res<()> {
        if self.take(";") {
            return Ok(());
        }
        if self.take("flush") {
            if self.take("ruleset") {
                self.batch.message(DELTABLE, 0, |out| out.extend([0; 4]));
                return Ok(());
            }
            self.expect("chain inet")?;
            self.table = self.next()?;
            let chain = self.next()?;
            self.send(DELRULE, 0, |out| string(out, 2, &chain));
            return Ok(());
        }
        self.take("add");
        let what = self.next()?;
        self.expect("inet")?;
        self.table = self.next()?;
        match what.as_str() {
            "table" => self.table(),
            "flowtable" => self.flowtable(),
            "counter" => {
                let name = self.next()?;
                self.send(NEWOBJ, libc::NLM_F_CREATE, |out| {
                    string(out, 2, &name);
                    word_attr(out, 3, OBJECT_COUNTER);
                    nest(out, 4, |out| {
                        wide_attr(out, 1, 0);
                        wide_attr(out, 2, 0);
                    });
                });
                Ok(())
            }
            "rule" => {
                let chain = self.next()?;
                self.rule(&chain)
            }
            other => Err(unknown(&["add", other])),
        }
    }

    fn table(&mut self) -> Res<()> {
        self.send(NEWTABLE, libc::NLM_F_CREATE, |_| {});
        if !self.take("{") {
            return Ok(());
        }
        while !self.take("}") {
            if !self.take(";") {
                self.expect("chain")?;
                self.chain()?;
            }
        }
        Ok(())
    }

    fn chain(&mut self) -> Res<()> {
        let name = self.next()?;
        self.expect("{ ; type")?;
        let kind = self.next()?;
        self.expect("hook")?;
        let hook = match self.next()?.as_str() {
            "prerouting" => 0,
            "forward" => 2,
            "postrouting" => 4,
            other => return Err(unknown(&["hook", other])),
        };
        self.expect("priority")?;
        let priority: i32 = match self.next()?.as_str() {
            "filter" => 0,
            "srcnat" => 100,
            "dstnat" => -100,
            other => return Err(unknown(&["priority", other])),
        };
        self.expect("; policy accept ;")?;
        self.send(NEWCHAIN, libc::NLM_F_CREATE, |out| {
            string(out, 3, &name);
            nest(out, 4, |out| {
                word_attr(out, 1, hook);
                bytes(out, 2, &priority.to_be_bytes());
            });
            string(out, 7, &kind);
        });
        while !self.take("}") {
            if !self.take(";") {
                self.rule(&name)?;
            }
        }
        Ok(())
    }

    fn flowtable(&mut self) -> Res<()> {
        let name = self.next()?;
        self.expect("{ hook ingress priority 0 ; devices =")?;
        let devices = self.list()?;
        self.expect("; }")?;
        self.send(NEWFLOWTABLE, libc::NLM_F_CREATE, |out| {
            string(out, 2, &name);
            nest(out, 3, |out| {
                word_attr(out, 1, 0);
                word_attr(out, 2, 0);
                nest(out, 3, |out| devices.iter().for_each(|device| string(out, 1, device)));
            });
        });
        Ok(())
    }

    /// One word, or those of `{ … }`.
    fn list(&mut self) -> Res<Vec<String>> {
        let mut out = Vec::new();
        if !self.take("{") {
            return Ok(vec![self.next()?]);
        }
        while !self.take("}") {
            out.push(self.next()?);
            self.take(",");
        }
        Ok(out)
    }

    fn rule(&mut self, chain: &str) -> Res<()> {
        let mut rules: Rules = vec![Vec::new()];
        let ends = |script: &Self| {
            script.words.get(script.at).is_none_or(|word| word == ";" || word == "}")
        };
        while !ends(self) {
            self.statement(&mut rules)?;
        }
        for rule in rules {
            self.send(NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, |out| {
                string(out, 2, chain);
                nest(out, 4, |out| out.extend(rule));
            });
        }
        Ok(())
    }

    fn statement(&mut self, rules: &mut Rules) -> Res<()> {
        match self.next()?.as_str() {
            "ct" => {
                self.expect("state")?;
                let mut wanted = 0u32;
                loop {
                    wanted |= match self.next()?.as_str() {
                        "established" => 2,
                        "related" => 4,
                        other => return Err(unknown(&["ct state", other])),
                    };
                    if !self.take(",") {
                        break;
                    }
                }
                all(rules, |out| {
                    expression(out, "ct", |out| {
                        word_attr(out, 1, 1);
                        word_attr(out, 2, 0);
                    });
                    // The machine's own order, as the kernel has it in its register.
                    expression(out, "bitwise", |out| {
                        for (kind, value) in [(1, 1), (2, 1), (3, 4)] {
                            word_attr(out, kind, value);
                        }
                        nest(out, 4, |out| bytes(out, 1, &wanted.to_ne_bytes()));
                        nest(out, 5, |out| bytes(out, 1, &[0; 4]));
                    });
                    compare(out, NOT_EQUAL, &[0; 4]);
                });
                Ok(())
            }
            "meta" => {
                let key = self.next()?;
                self.meta(rules, &key)
            }
            key @ ("iifname" | "oifname") => self.meta(rules, key),
            "udp" => {
                self.expect("dport")?;
                let port: u16 = self.next()?.parse()?;
                all(rules, |out| {
                    load_meta(out, 16);
                    compare(out, EQUAL, &[17]);
                    expression(out, "payload", |out| {
                        for (kind, value) in [(1, 1), (2, 2), (3, 2), (4, 2)] {
                            word_attr(out, kind, value);
                        }
                    });
                    compare(out, EQUAL, &port.to_be_bytes());
                });
                Ok(())
            }
            "dnat" => self.dnat(rules),
            "masquerade" => {
                all(rules, |out| expression(out, "masq", |_| {}));
                Ok(())
            }
            "accept" => {
                all(rules, |out| {
                    expression(out, "immediate", |out| {
                        word_attr(out, 1, 0);
                        nest(out, 2, |out| nest(out, 2, |out| word_attr(out, 1, 1)));
                    });
                });
                Ok(())
            }
            "flow" => {
                self.expect("add")?;
                let name = self.next()?;
                let name = name.trim_start_matches('@');
                all(rules, |out| expression(out, "flow_offload", |out| string(out, 1, name)));
                Ok(())
            }
            "counter" => {
                self.expect("name")?;
                let name = self.next()?;
                all(rules, |out| {
                    expression(out, "objref", |out| {
                        word_attr(out, 1, OBJECT_COUNTER);
                        string(out, 2, &name);
                    });
                });
                Ok(())
            }
            other => Err(unknown(&[other])),
        }
    }

    fn meta(&mut self, rules: &mut Rules, key: &str) -> Res<()> {
        let number = match key {
            "iifname" => 6,
            "oifname" => 7,
            "nfproto" => 15,
            "l4proto" => 16,
            other => return Err(unknown(&["meta", other])),
        };
        let not = self.take("!=");
        let mut values = Vec::new();
        for word in self.list()? {
            values.push(match (key, word.as_str()) {
                ("iifname" | "oifname", name) if name.len() < 16 => {
                    let mut padded = name.as_bytes().to_vec();
                    padded.resize(16, 0);
                    padded
                }
                ("nfproto", "ipv4") => vec![2],
                ("nfproto", "ipv6") => vec![10],
                ("l4proto", "tcp") => vec![6],
                ("l4proto", "udp") => vec![17],
                (_, other) => return Err(unknown(&[key, other])),
            });
        }
        all(rules, |out| load_meta(out, number));
        if not {
            all(rules, |out| values.iter().for_each(|value| compare(out, NOT_EQUAL, value)));
            return Ok(());
        }
        *rules = rules
            .iter()
            .flat_map(|rule| values.iter().map(|value| (rule.clone(), value)))
            .map(|(mut rule, value)| {
                compare(&mut rule, EQUAL, value);
                rule
            })
            .collect();
        Ok(())
    }

    fn dnat(&mut self, rules: &mut Rules) -> Res<()> {
        let family = self.next()?;
        self.expect("to")?;
        let to = self.next()?;
        let (addr, port) = to.rsplit_once(':').ok_or("dnat without a port")?;
        let port: u16 = port.parse()?;
        let (family, addr) = match family.as_str() {
            "ip" => (2, addr.parse::<Ipv4Addr>()?.octets().to_vec()),
            "ip6" => (10, addr.trim_matches(['[', ']']).parse::<Ipv6Addr>()?.octets().to_vec()),
            other => return Err(unknown(&["dnat", other])),
        };
        all(rules, |out| {
            for (register, value) in [(1, &addr[..]), (2, &port.to_be_bytes())] {
                expression(out, "immediate", |out| {
                    word_attr(out, 1, register);
                    nest(out, 2, |out| bytes(out, 1, value));
                });
            }
            expression(out, "nat", |out| {
                for (kind, value) in [(1, 1), (2, family), (3, 1), (5, 2)] {
                    word_attr(out, kind, value);
                }
            });
        });
        Ok(())
    }
}

fn all(rules: &mut Rules, add: impl Fn(&mut Vec<u8>)) {
    rules.iter_mut().for_each(add);
}

fn expression(out: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    nest(out, 1, |out| {
        string(out, 1, name);
        nest(out, 2, fill);
    });
}

fn load_meta(out: &mut Vec<u8>, key: u32) {
    expression(out, "meta", |out| {
        word_attr(out, 1, 1);
        word_attr(out, 2, key);
    });
}

fn compare(out: &mut Vec<u8>, how: u32, value: &[u8]) {
    expression(out, "cmp", |out| {
        word_attr(out, 1, 1);
        word_attr(out, 2, how);
        nest(out, 3, |out| bytes(out, 1, value));
    });
}
