//! The ubus object `vpn-killswitch`, as rpcd's plug-in interface for programs wants it.
//!
//! Responsible for arguments and answers in JSON; what is done is [`crate::control`]'s. `list` prints the
//! methods with their arguments, `call METHOD` reads the arguments from standard input. rpcd gives what
//! is printed to the caller and does not look at the exit code: an error is an answer too.

use std::io::{self, Read as _};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::control::{Control, Error, Outcome};
use crate::explain::Asked;
use crate::pause::{self, Target};
use crate::status::Notice;

/// Longer arguments are nobody's.
const INPUT_MAX: u64 = 64 << 10;
/// uhttpd adds this to the arguments of every call from a browser.
const SESSION: &str = "ubus_rpc_session";

/// A type of argument, by the example of it that `list` shows rpcd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Text,
    Boolean,
}

/// A method with its arguments, none of which is required by the type alone.
struct Method {
    name: &'static str,
    arguments: &'static [(&'static str, Type)],
    run: fn(&Control, &Arguments) -> Result<Value, Refusal>,
}

const METHODS: [Method; 7] = [
    Method { name: "status", arguments: &[], run: status },
    Method { name: "check", arguments: &[], run: check },
    Method {
        name: "explain",
        arguments: &[
            ("source", Type::Text),
            ("destination", Type::Text),
            ("protocol", Type::Text),
            ("port", Type::Text),
            ("device", Type::Text),
        ],
        run: explain,
    },
    Method { name: "enable", arguments: &[("force", Type::Boolean)], run: enable },
    Method { name: "disable", arguments: &[], run: disable },
    Method {
        name: "pause",
        arguments: &[("duration", Type::Text), ("client", Type::Text)],
        run: pause,
    },
    Method { name: "resume", arguments: &[("client", Type::Text)], run: resume },
];

/// Arguments whose names and types are those of the method.
struct Arguments(Map<String, Value>);

impl Arguments {
    /// An empty text is none: a form in a browser sends what was left blank.
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    fn client(&self) -> Result<Option<Target>, Refusal> {
        Ok(self.text("client").map(pause::client).transpose()?)
    }
}

/// Why a call failed.
#[derive(Serialize)]
struct Refusal {
    /// `usage`, `config` or `failed`.
    code: &'static str,
    /// All of it in one text.
    message: String,
    /// One error each, where there are several.
    lines: Vec<String>,
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self { code: "usage", lines: vec![message.clone()], message }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Config(lines) => Self { code: "config", message, lines },
            Error::Failed(why) => Self { code: "failed", message, lines: vec![why] },
        }
    }
}

/// The methods and their arguments.
pub fn list() -> Value {
    let example = |kind: Type| match kind {
        Type::Text => json!("string"),
        Type::Boolean => json!(true),
    };
    let arguments = |method: &Method| -> Map<_, _> {
        method.arguments.iter().map(|(name, kind)| ((*name).to_owned(), example(*kind))).collect()
    };
    METHODS.iter().map(|m| (m.name.to_owned(), Value::Object(arguments(m)))).collect()
}

/// Calls a method with the arguments on standard input. `Err` is an answer too, with one key `error`.
///
/// # Errors
/// What is wrong with the call, or why it failed.
pub fn call(control: &Control, name: &str) -> Result<Value, Value> {
    let mut input = Vec::new();
    let read = io::stdin().lock().take(INPUT_MAX + 1).read_to_end(&mut input);
    let result = match read {
        Ok(_) => answer(control, name, &input),
        Err(e) => Err(format!("the arguments cannot be read: {e}").into()),
    };
    result.map_err(|refusal| json!({ "error": refusal }))
}

fn answer(control: &Control, name: &str, input: &[u8]) -> Result<Value, Refusal> {
    let Some(method) = METHODS.iter().find(|m| m.name == name) else {
        let known = METHODS.map(|m| m.name).join(", ");
        return Err(format!("unknown method '{name}'; known are {known}").into());
    };
    (method.run)(control, &arguments(method, input)?)
}

fn arguments(method: &Method, input: &[u8]) -> Result<Arguments, Refusal> {
    if u64::try_from(input.len()).unwrap_or(u64::MAX) > INPUT_MAX {
        return Err("the arguments are too long".to_owned().into());
    }
    if input.trim_ascii().is_empty() {
        return Ok(Arguments(Map::new()));
    }
    let mut given: Map<String, Value> = serde_json::from_slice(input)
        .map_err(|e| format!("the arguments are not an object in JSON: {e}"))?;
    given.remove(SESSION);
    for (name, value) in &given {
        let kind = method.arguments.iter().find(|(known, _)| known == name).map(|(_, kind)| *kind);
        let wanted = match kind {
            Some(Type::Text) if value.is_string() => continue,
            Some(Type::Boolean) if value.is_boolean() => continue,
            Some(Type::Text) => "a string",
            Some(Type::Boolean) => "a boolean",
            None => {
                return Err(format!("{} has no argument '{name}'", method.name).into());
            }
        };
        return Err(format!("{}: '{name}' is to be {wanted}", method.name).into());
    }
    Ok(Arguments(given))
}

fn status(control: &Control, _: &Arguments) -> Result<Value, Refusal> {
    to_value(control.status()?)
}

fn check(control: &Control, _: &Arguments) -> Result<Value, Refusal> {
    let status = control.status()?;
    Ok(json!({
        "posture": status.posture,
        "headline": status.headline(),
        "layers": status.layers,
        "differences": status.differences,
        "warnings": status.warnings,
        "errors": status.errors,
    }))
}

fn explain(control: &Control, given: &Arguments) -> Result<Value, Refusal> {
    let part = |name: &str| given.text(name).unwrap_or_default();
    let asked = Asked::new(
        part("source"),
        part("destination"),
        part("protocol"),
        part("port"),
        given.text("device"),
    )?;
    to_value(control.explain(&asked)?)
}

fn enable(control: &Control, given: &Arguments) -> Result<Value, Refusal> {
    let force = given.0.get("force").and_then(Value::as_bool).unwrap_or(false);
    let Outcome { changes, unavailable, incomplete, warnings, kernel, .. } =
        control.enable(force)?;
    if let Some(kernel) = kernel {
        kernel.close_behind();
    }
    let warnings: Vec<Notice> =
        warnings.into_iter().map(|w| Notice { code: w.code, message: w.message }).collect();
    Ok(json!({
        "changes": changes,
        "unavailable": unavailable,
        "incomplete": incomplete,
        "warnings": warnings,
    }))
}

fn disable(control: &Control, _: &Arguments) -> Result<Value, Refusal> {
    Ok(json!({ "was_on": control.disable()? }))
}

fn pause(control: &Control, given: &Arguments) -> Result<Value, Refusal> {
    let duration = given.text("duration");
    let duration = duration.ok_or("pause needs 'duration': 90s, 10m or 2h".to_owned())?;
    let time = pause::duration(duration)?;
    let open = control.pause(given.client()?, time)?;
    Ok(json!({ "open": names(&open), "seconds": time.as_secs() }))
}

fn resume(control: &Control, given: &Arguments) -> Result<Value, Refusal> {
    let (closed, open) = control.resume(given.client()?.as_ref())?;
    Ok(json!({ "closed": names(&closed), "open": names(&open) }))
}

fn names(targets: &[Target]) -> Vec<String> {
    targets.iter().map(Target::to_string).collect()
}

fn to_value(what: impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(what).map_err(|e| Error::Failed(format!("cannot write JSON: {e}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(method: &str, input: &str) -> String {
        let control = Control::new("/nonexistent");
        let refusal = answer(&control, method, input.as_bytes()).err().unwrap();
        assert_eq!(refusal.code, "usage", "{}", refusal.message);
        refusal.message
    }

    #[test]
    fn arguments_have_names_and_types() {
        assert_eq!(refused("pause", "{\"client\":7}"), "pause: 'client' is to be a string");
        assert_eq!(refused("enable", "{\"force\":\"1\"}"), "enable: 'force' is to be a boolean");
        assert_eq!(refused("status", "{\"clint\":\"\"}"), "status has no argument 'clint'");
        assert!(refused("reboot", "{}").contains("known are status, check"));
        assert!(refused("status", "[]").contains("not an object"));
        assert!(refused("status", "{").contains("not an object"));
        assert!(refused("status", &" ".repeat(70_000)).contains("too long"));
        assert!(refused("pause", "").contains("needs 'duration'"));
        assert!(refused("pause", "{\"duration\":\"10 parsecs\"}").contains("not a duration"));
        let both = "{\"duration\":\"1m\",\"client\":\"300.1.1.1\"}";
        assert!(refused("pause", both).contains("is not an address"));
    }

    #[test]
    fn what_the_web_server_adds_is_no_argument() {
        let input = b"{\"ubus_rpc_session\":\"0123\",\"force\":true}";
        let enable = METHODS.iter().find(|m| m.name == "enable").unwrap();
        assert!(arguments(enable, input).is_ok_and(|a| a.0.len() == 1));
    }

    #[test]
    fn an_error_of_the_configuration_names_its_lines() {
        let control = Control::new("/nonexistent");
        let refusal = answer(&control, "enable", b"").err().unwrap();
        assert_eq!((refusal.code, refusal.lines.len()), ("config", 1));
    }

    #[test]
    fn the_list_has_an_example_of_each_argument() {
        let list = list();
        assert_eq!(list["pause"], json!({ "duration": "string", "client": "string" }));
        assert_eq!(list["enable"], json!({ "force": true }));
        assert_eq!(list["status"], json!({}));
        assert_eq!(list.as_object().unwrap().len(), METHODS.len());
    }
}
