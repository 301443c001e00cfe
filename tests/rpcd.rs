//! The ubus object as rpcd sees it: the program under the name in rpcd's folder, arguments on standard
//! input, answers on standard output, and a kernel that then is as the answers say.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a wrong index is a failed test"
)]

mod lab;

use lab::Res;
use lab::ns::{Ns, directory};
use lab::product::{Product, configuration};
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_vpn-killswitch");

/// What the program answers, and how it ended.
fn say(mut command: Command, input: &str) -> Res<(Value, Option<i32>)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // A program that does not want its arguments may have gone.
    let _ = child.stdin.take().ok_or("no input")?.write_all(input.as_bytes());
    let out = child.wait_with_output()?;
    let text = String::from_utf8(out.stdout)?;
    assert_eq!(text.lines().count(), 1, "{text}");
    Ok((serde_json::from_str(&text)?, out.status.code()))
}

#[test]
fn what_is_answered_is_what_was_done() -> Res<()> {
    let router = Ns::new("router")?;
    router.ip(
        "link add br-lan type bridge\naddr add 192.168.1.1/24 dev br-lan\nlink set br-lan up\n",
    )?;
    let product = Product::new(BINARY, &router)?;
    let off = configuration("strict", "").replace("enabled '1'", "enabled '0'");
    product.configure(&off)?;
    let call = |method: &str, given: Value| {
        say(product.command(&["rpcd", "call", method]), &given.to_string())
    };
    let posture = || Ok::<_, lab::Error>(call("status", json!({}))?.0["posture"].clone());

    assert_eq!(posture()?, "disabled");
    let (refused, code) = call("pause", json!({ "duration": "1m" }))?;
    assert_eq!((refused["error"]["code"].as_str(), code), (Some("config"), Some(1)));

    let (enabled, code) = call("enable", json!({ "ubus_rpc_session": "0" }))?;
    assert_eq!(code, Some(0), "{enabled}");
    assert!(enabled["changes"].as_array().is_some_and(|c| !c.is_empty()), "{enabled}");
    assert_eq!(posture()?, "blocking");
    assert!(std::fs::read_to_string(product.file())?.contains("option enabled '1'"));
    let (checked, _) = call("check", json!({}))?;
    assert_eq!(checked["differences"], json!([]), "{checked}");

    // A name that a shell would take apart is one wrong argument.
    let (refused, _) = call("pause", json!({ "duration": "1m; reboot" }))?;
    assert_eq!(refused["error"]["code"], "usage");
    assert_eq!(posture()?, "blocking");

    let (paused, _) = call("pause", json!({ "duration": "10m", "client": "" }))?;
    assert_eq!(paused, json!({ "open": ["br-lan"], "seconds": 600 }));
    let (paused, _) = call("pause", json!({ "duration": "5m", "client": "192.168.1.9" }))?;
    assert_eq!(paused, json!({ "open": ["192.168.1.9"], "seconds": 300 }));
    assert_eq!(posture()?, "paused");
    let (resumed, _) = call("resume", json!({ "client": "192.168.1.9" }))?;
    assert_eq!(resumed, json!({ "closed": ["192.168.1.9"], "open": ["br-lan"] }));
    let (resumed, _) = call("resume", json!({}))?;
    assert_eq!(resumed, json!({ "closed": ["br-lan"], "open": [] }));

    product.configure(&format!("{off}\nconfig endpoint\n\toption hots 'x'\n"))?;
    let (refused, _) = call("enable", json!({}))?;
    assert_eq!(refused["error"]["code"], "config", "{refused}");
    assert!(refused["error"]["lines"].as_array().is_some_and(|l| l.len() > 1), "{refused}");
    product.configure(&off.replace("'0'", "'1'"))?;
    assert_eq!(posture()?, "blocking");
    assert_eq!(call("disable", json!({}))?.0, json!({ "was_on": true }));
    assert_eq!(posture()?, "disabled");
    Ok(())
}

#[test]
fn by_its_place_in_the_folder_of_rpcd_it_is_the_object() -> Res<()> {
    let folder = directory("libexec")?.join("rpcd");
    std::fs::create_dir_all(&folder)?;
    let object = folder.join("vpn-killswitch");
    symlink(BINARY, &object)?;
    let mut list = Command::new(&object);
    list.arg("list");
    let (methods, code) = say(list, "")?;
    assert_eq!((methods["resume"].clone(), code), (json!({ "client": "string" }), Some(0)));
    // rpcd gives an answer to the caller whatever the exit code is.
    let mut call = Command::new(&object);
    call.args(["call", "format_disk"]);
    assert_eq!(say(call, "{}")?.0["error"]["code"], "usage");
    Ok(())
}
