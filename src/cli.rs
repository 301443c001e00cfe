//! The command line: arguments in, text and an exit code out. Everything else is in [`crate::control`].

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser, ValueExt};

use crate::backend::{Kind, iptables, nft::text};
use crate::control::{Control, Error, Outcome};
use crate::explain::Asked;
use crate::guard;
use crate::hotplug;
use crate::json;
use crate::pause::{self, Target};
use crate::platform::Platform;
use crate::rpcd;
use crate::status::Posture;
use crate::streams::{self, complain};

const FAILURE: u8 = 1;
const USAGE: u8 = 2;

/// One command: name, arguments, what it does.
struct Command {
    name: &'static str,
    arguments: &'static str,
    summary: &'static str,
}

const COMMANDS: [Command; 13] = [
    Command {
        name: "apply",
        arguments: " [--boot]",
        summary: "make the kernel agree with the configuration; at boot: or close",
    },
    Command {
        name: "enable",
        arguments: " [--force]",
        summary: "switch protection on, in the kernel and in the configuration",
    },
    Command {
        name: "disable",
        arguments: "",
        summary: "switch protection off: the router is open then",
    },
    Command {
        name: "pause",
        arguments: " DURATION [--client ADDR]",
        summary: "open for a while; the kernel closes it (90s, 10m, 2h)",
    },
    Command { name: "resume", arguments: " [--client ADDR]", summary: "end pauses now" },
    Command {
        name: "status",
        arguments: " [--json]",
        summary: "tell what is in force, read back from the kernel",
    },
    Command {
        name: "check",
        arguments: "",
        summary: "compare the kernel with what should be there; name every difference",
    },
    Command {
        name: "explain",
        arguments: " SRC DST[:PORT]/PROTO [--in DEV] [--json]",
        summary: "what becomes of a packet",
    },
    Command {
        name: "guard",
        arguments: "",
        summary: "stay, and repair what others change; for the service supervisor",
    },
    Command {
        name: "hotplug",
        arguments: "",
        summary: "follow a change of interfaces or devices; for the system's hooks",
    },
    Command {
        name: "rpcd",
        arguments: " list|call METHOD",
        summary: "be the ubus object; for rpcd",
    },
    Command {
        name: "setup",
        arguments: "",
        summary: "write a first configuration, switched off; keep one that is there",
    },
    Command {
        name: "show",
        arguments: " [--backend NAME]",
        summary: "print the rules that apply would install",
    },
];

const OPTIONS: &str = "\
Options:
  --root DIR       read and write below DIR instead of /
  --platform NAME  openwrt, ddwrt, tomato, merlin or generic, instead of what it looks like
  --backend NAME   nft or iptables instead of what the kernel has: nft, if it can
  -h, --help       this text
  -V, --version    the version

Exit codes: 0 done, 1 failed, 2 usage or configuration error. A failure opens nothing that
was closed. For status and check: 0 protecting, 3 disabled, 4 blocking (no
tunnel is up), 5 paused, 6 degraded.

Configuration: /etc/config/vpn-killswitch. Manual: vpn-killswitch(8).
";

/// What the arguments ask for.
#[derive(Debug, Default)]
struct Request {
    root: Option<PathBuf>,
    platform: Option<String>,
    command: Option<String>,
    json: bool,
    force: bool,
    boot: bool,
    backend: Option<String>,
    duration: Option<String>,
    /// `list`, or `call` and a method.
    rpcd: Vec<String>,
    client: Option<String>,
    /// Source and target of `explain`.
    packet: Vec<String>,
    device: Option<String>,
    help: bool,
    version: bool,
}

/// Runs the program with these words, of which the first is its name. Its exit code.
pub fn main(words: Vec<OsString>) -> u8 {
    streams::prepare();
    let mut arguments = words.into_iter();
    let name = arguments.next().map(PathBuf::from).unwrap_or_default();
    // rpcd runs what it finds in its folder, by the path in there, with its own arguments.
    let in_folder = name.parent().and_then(Path::file_name).is_some_and(|folder| folder == "rpcd");
    let command = in_folder.then(|| OsString::from("rpcd"));
    run(command.into_iter().chain(arguments))
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let request = match parse(Parser::from_args(arguments)) {
        Ok(request) => request,
        Err(e) => return usage(&e.to_string()),
    };
    if request.help {
        return print(&help());
    }
    if request.version {
        return print(concat!("vpn-killswitch ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    let Some(command) = request.command.as_deref() else {
        return usage("no command");
    };
    let platform = match request.platform.as_deref().map(Platform::parse).transpose() {
        Ok(platform) => platform,
        Err(why) => return usage(&why),
    };
    let backend = match request.backend.as_deref().map(|name| (name, Kind::parse(name))) {
        Some((name, None)) => {
            return usage(&format!("unknown backend '{name}'; known are nft and iptables"));
        }
        known => known.and_then(|(_, kind)| kind),
    };
    let root = request.root.clone().unwrap_or_else(|| PathBuf::from("/"));
    let control = Control::new(root).with(backend).on(platform);
    let result = match command {
        "apply" if request.boot => control.boot().map(applied),
        "apply" => control.apply().map(applied),
        "enable" => control.enable(request.force).map(applied),
        "disable" => control.disable().map(disabled),
        "pause" => pause(&control, &request),
        "resume" => resume(&control, &request),
        "status" => status(&control, request.json),
        "check" => check(&control),
        "explain" => explain(&control, &request),
        "guard" => guard::run(&control)
            .map(|()| 0)
            .map_err(|e| Error::Failed(format!("cannot listen to the kernel: {e}"))),
        "hotplug" => hotplug::run(&control, &hotplug::Event::from_environment()).map(|()| 0),
        "rpcd" => return object(&control, &request),
        "setup" => control.setup().map(|written| proposed(&control, written)),
        "show" => show(&control, backend),
        other => return usage(&format!("unknown command '{other}'")),
    };
    result.unwrap_or_else(|error| {
        complain(&error.to_string());
        match error {
            Error::Config(_) => USAGE,
            Error::Failed(_) => FAILURE,
        }
    })
}

fn parse(mut parser: Parser) -> Result<Request, lexopt::Error> {
    let mut request = Request::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("root") => request.root = Some(PathBuf::from(parser.value()?)),
            Arg::Long("platform") => request.platform = Some(parser.value()?.string()?),
            Arg::Long("json") if request.is("status") || request.is("explain") => {
                request.json = true
            }
            Arg::Long("boot") if request.is("apply") => request.boot = true,
            Arg::Long("force") if request.is("enable") => request.force = true,
            Arg::Long("in") if request.is("explain") => {
                request.device = Some(parser.value()?.string()?);
            }
            Arg::Long("backend") => request.backend = Some(parser.value()?.string()?),
            Arg::Long("client") if request.is("pause") || request.is("resume") => {
                request.client = Some(parser.value()?.string()?);
            }
            Arg::Short('h') | Arg::Long("help") => request.help = true,
            Arg::Short('V') | Arg::Long("version") => request.version = true,
            Arg::Value(word) if request.command.is_none() => {
                request.command = Some(word.string()?);
            }
            Arg::Value(word) if request.is("pause") && request.duration.is_none() => {
                request.duration = Some(word.string()?);
            }
            Arg::Value(word) if request.is("explain") && request.packet.len() < 2 => {
                request.packet.push(word.string()?);
            }
            Arg::Value(word) if request.is("rpcd") && request.rpcd.len() < 2 => {
                request.rpcd.push(word.string()?);
            }
            // Not by `unexpected`: what it says of a word is a Debug text, which routers' programs lack.
            Arg::Value(word) => {
                return Err(format!("unexpected argument \"{}\"", word.display()).into());
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(request)
}

impl Request {
    fn is(&self, command: &str) -> bool {
        self.command.as_deref() == Some(command)
    }
}

fn help() -> String {
    let mut out = String::from(
        "vpn-killswitch: what a router's clients send leaves through the VPN tunnel, or not at all.\n\n\
         Usage: vpn-killswitch [--root DIR] [--platform NAME] COMMAND\n\nCommands:\n",
    );
    for command in &COMMANDS {
        let call = format!("{}{}", command.name, command.arguments);
        // Two spaces at least, also behind a long one.
        out.push_str(&format!("  {call:<30}  {}\n", command.summary));
    }
    out.push('\n');
    out.push_str(OPTIONS);
    out
}

fn applied(outcome: Outcome) -> u8 {
    for warning in &outcome.warnings {
        complain(&format!("warning: {warning}"));
    }
    for what in &outcome.unavailable {
        complain(&format!("this kernel cannot do all; protection is complete without it: {what}"));
    }
    for what in &outcome.incomplete {
        complain(&format!("this kernel cannot do all of the second layer: {what}"));
    }
    let code = print(match (outcome.enabled, outcome.changes.is_empty()) {
        (true, true) => "Protection is in force; nothing had to be changed.\n",
        (true, false) => "Protection is in force.\n",
        (false, _) => "Protection is switched off in the configuration; the router is open.\n",
    });
    // All is done and said: nobody who waits for us has to wait for the kernel to tidy up.
    if let Some(kernel) = outcome.kernel {
        kernel.close_behind();
    }
    code
}

fn proposed(control: &Control, written: bool) -> u8 {
    let file = control.config_path();
    let file = file.display();
    print(&if written {
        format!(
            "{file} was written, switched off: look through it, then 'vpn-killswitch enable'.\n"
        )
    } else {
        format!("{file} is there already; nothing was changed.\n")
    })
}

fn disabled(was_on: bool) -> u8 {
    print(if was_on {
        "Protection is off: the router is open.\n"
    } else {
        "Protection was off already: the router is open.\n"
    })
}

fn pause(control: &Control, request: &Request) -> Result<u8, Error> {
    let Some(duration) = &request.duration else {
        return Ok(usage("pause needs a duration: 90s, 10m or 2h"));
    };
    let asked = pause::duration(duration)
        .and_then(|time| Ok((time, request.client.as_deref().map(pause::client).transpose()?)));
    let (time, client) = match asked {
        Ok(asked) => asked,
        Err(why) => return Ok(usage(&why)),
    };
    let open = names(&control.pause(client, time)?);
    Ok(print(&format!("Open for {open} until the kernel closes it in {} s.\n", time.as_secs())))
}

fn resume(control: &Control, request: &Request) -> Result<u8, Error> {
    let client = match request.client.as_deref().map(pause::client).transpose() {
        Ok(client) => client,
        Err(why) => return Ok(usage(&why)),
    };
    let (ended, open) = control.resume(client.as_ref())?;
    let mut text = match (ended.is_empty(), &client) {
        (false, _) => format!("Closed again for {}.\n", names(&ended)),
        (true, Some(client)) => format!("{client} was not paused.\n"),
        (true, None) => "Nothing was paused.\n".to_owned(),
    };
    if !open.is_empty() {
        text.push_str(&format!("Still open for {}.\n", names(&open)));
    }
    Ok(print(&text))
}

fn names(targets: &[Target]) -> String {
    targets.iter().map(Target::to_string).collect::<Vec<_>>().join(" ")
}

fn status(control: &Control, json: bool) -> Result<u8, Error> {
    let status = control.status()?;
    let printed = if json { print_json(&status) } else { print(&status.to_string()) };
    Ok(match printed {
        0 if !status.errors.is_empty() => USAGE,
        0 => status.posture.exit_code(),
        failed => failed,
    })
}

fn check(control: &Control) -> Result<u8, Error> {
    let status = control.status()?;
    if !status.errors.is_empty() {
        return Err(Error::Config(status.errors));
    }
    let mut lines: Vec<&str> = status.differences.iter().map(String::as_str).collect();
    let details = status.layers.iter().filter(|l| !l.detail.is_empty());
    let details: Vec<String> = details.map(|l| format!("layer {}: {}", l.name, l.detail)).collect();
    lines.extend(details.iter().map(String::as_str));
    lines.extend(status.warnings.iter().map(|w| w.message.as_str()));
    for line in lines {
        let _ = print(&format!("{line}\n"));
    }
    let printed = match status.posture {
        Posture::Degraded | Posture::Disabled => print(&format!("{}\n", status.headline())),
        _ => print("The kernel has what it should have.\n"),
    };
    Ok(if printed == 0 { status.posture.exit_code() } else { printed })
}

fn explain(control: &Control, request: &Request) -> Result<u8, Error> {
    let [source, target] = request.packet.as_slice() else {
        return Ok(usage(
            "explain needs SRC and DST[:PORT]/PROTO, such as 192.168.1.7 192.0.2.1:443/tcp",
        ));
    };
    let asked = match Asked::read(source, target, request.device.as_deref()) {
        Ok(asked) => asked,
        Err(why) => return Ok(usage(&why)),
    };
    let answer = control.explain(&asked)?;
    if !request.json {
        return Ok(print(&answer.to_string()));
    }
    Ok(print_json(&answer))
}

fn show(control: &Control, backend: Option<Kind>) -> Result<u8, Error> {
    let (ruleset, warnings) = control.plan()?;
    for warning in warnings {
        complain(&format!("warning: {warning}"));
    }
    Ok(print(&match backend {
        Some(Kind::Iptables) => iptables::text(&ruleset).map_err(Error::Failed)?,
        _ => text::table(&ruleset),
    }))
}

fn object(control: &Control, request: &Request) -> u8 {
    let words: Vec<&str> = request.rpcd.iter().map(String::as_str).collect();
    let (answer, code) = match words.as_slice() {
        ["list"] => (rpcd::list(), 0),
        ["call", method] => match rpcd::call(control, method) {
            Ok(answer) => (answer, 0),
            Err(answer) => (answer, FAILURE),
        },
        _ => return usage("rpcd needs list, or call and a method"),
    };
    match print(&format!("{answer}\n")) {
        0 => code,
        failed => failed,
    }
}

fn print_json(what: &dyn json::Write) -> u8 {
    print(&(json::of(what) + "\n"))
}

/// Prints to standard output; a reader that went away is a failure, not a panic.
fn print(text: &str) -> u8 {
    match streams::output().write_all(text.as_bytes()) {
        Ok(()) => 0,
        Err(_) => FAILURE,
    }
}

fn usage(why: &str) -> u8 {
    complain(&format!("{why}; see 'vpn-killswitch --help'"));
    USAGE
}
