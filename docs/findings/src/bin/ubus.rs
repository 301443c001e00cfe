//! ubus 0.1.7 against a socket pair on whose other end bytes as ubusd would send them wait.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use findings::outcome;
use ubus::{BlobMsg, BlobMsgBuilder, BlobMsgType, Connection, Method, UbusObject};

const HELLO: u8 = 0;
const STATUS: u8 = 1;
const DATA: u8 = 2;

/// A blob attribute: 8 bits id, 24 bits length, data, padding to four bytes.
fn attr(id: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len() + 4).expect("small");
    let mut out = [&(id << 24 | len).to_be_bytes(), data].concat();
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// A named value inside a reply (blobmsg): the extended bit, name, terminator, padding.
fn field(kind: u32, name: &[u8], value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(name.len()).expect("short").to_be_bytes();
    let mut data = [&len, name, b"\0"].concat();
    data.resize(data.len().next_multiple_of(4), 0);
    data.extend_from_slice(value);
    attr(0x80 | kind, &data)
}

fn message(command: u8, sequence: u8, attrs: &[u8]) -> Vec<u8> {
    [&[0, command, 0, sequence, 0, 0, 0, 1], &*attr(0, attrs)].concat()
}

/// What the caller of `invoke` sees of a reply whose data are `fields`.
fn reply(what: &str, fields: &[u8]) {
    let (client, mut server) = UnixStream::pair().expect("socket pair");
    let data = message(DATA, 1, &attr(7, fields));
    let answers = [message(HELLO, 0, &[]), data, message(STATUS, 1, &attr(1, &[0; 4]))].concat();
    thread::spawn(move || {
        let _ = server.write_all(&answers);
        let _ = server.read_to_end(&mut Vec::new());
    });
    let seen = outcome(move || {
        let mut connection = Connection::new(client).expect("hello");
        let mut json = String::new();
        let result = connection.invoke(1, "dump", &[], |blobs| {
            for blob in blobs {
                // The same conversion as in the crate's `Connection::call`.
                let msg: BlobMsg<'_> = blob.try_into().unwrap();
                json = format!("{{{msg}}}");
            }
        });
        let valid = match serde_json::from_str::<serde_json::Value>(&json) {
            Ok(_) => "valid JSON",
            Err(_) => "INVALID JSON",
        };
        format!("{result:?} {valid} {}", json.chars().take(40).collect::<String>())
    });
    println!("{what:22} {seen}");
}

fn main() {
    let text = |s: &[u8]| field(3, b"device", &[s, b"\0"].concat());
    let two = [field(3, b"a", b"x\0"), field(3, b"b", b"y\0")].concat();
    reply("control: a string", &text(b"wg0"));
    reply("array of two", &field(1, b"list", &two));
    reply("table of two", &field(2, b"env", &two));
    reply("boolean true", &field(7, b"up", &[1]));
    reply("string a\"b", &text(b"a\"b"));
    reply("value not UTF-8", &text(b"caf\xe9"));
    reply("name not UTF-8", &field(3, b"caf\xe9", b"x\0"));
    reply("reply of 60,000 bytes", &text(&[b'a'; 60_000]));
    reply("reply of 70,000 bytes", &text(&[b'a'; 70_000]));

    let kinds = [BlobMsgType::STRING, BlobMsgType::ARRAY, BlobMsgType::TABLE];
    let policy = ["name", "list", "env"].into_iter().zip(kinds).collect();
    let methods = HashMap::from([("set", Method { name: "set", policy })]);
    let object = UbusObject { methods, ..Default::default() };
    let arguments = r#"{"name":"wg0","list":["a","b"],"env":{"k":"v"}}"#;
    let sent = object.args_from_json("set", arguments).expect("arguments");
    let mut only_name = BlobMsgBuilder::new_extended(BlobMsgType::STRING.value(), "name");
    only_name.push_str("wg0").expect("push");
    println!("\narguments {arguments}");
    println!("are sent as those of {{\"name\":\"wg0\"}} alone: {}", sent == only_name.data());
}
