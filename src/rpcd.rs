//! The ubus object `vpn-killswitch`, as rpcd's plug-in interface for programs wants it.
//!
//! Responsible for arguments and answers in JSON; what is done is [`crate::control`]'s. `list` prints the
//! methods with their arguments, `call METHOD` reads the arguments from standard input. rpcd gives what
//! is printed to the caller and does not look at the exit code: an error is an answer too.

use std::io::Read as _;

use crate::control::{Control, Error, Outcome};
use crate::explain::Asked;
use crate::json::{self, Value};
use crate::pause::{self, Target};
use crate::status::Notice;
use crate::streams;

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
    run: fn(&Control, &Arguments) -> Result<String, Refusal>,
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
struct Arguments(Value);

impl Arguments {
    /// An empty text is none: a form in a browser sends what was left blank.
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.text().filter(|text| !text.is_empty())
    }

    fn client(&self) -> Result<Option<Target>, Refusal> {
        Ok(self.text("client").map(pause::client).transpose()?)
    }
}

/// Why a call failed.
struct Refusal {
    /// `usage`, `config` or `failed`.
    code: &'static str,
    /// All of it in one text.
    message: String,
    /// One error each, where there are several.
    lines: Vec<String>,
}

json::fields!(Refusal: code, message, lines);

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
pub fn list() -> String {
    let methods: Vec<_> = METHODS.iter().map(|m| (m.name, m as &dyn json::Write)).collect();
    json::text(&methods)
}

impl json::Write for Method {
    fn write(&self, out: &mut String) {
        let example = |(name, kind): &(&'static str, Type)| -> json::Field<'static> {
            match kind {
                Type::Text => (name, &"string"),
                Type::Boolean => (name, &true),
            }
        };
        let arguments: Vec<_> = self.arguments.iter().map(example).collect();
        json::object(&arguments, out);
    }
}

/// Calls a method with the arguments on standard input. `Err` is an answer too, with one key `error`.
///
/// # Errors
/// What is wrong with the call, or why it failed.
pub fn call(control: &Control, name: &str) -> Result<String, String> {
    let mut input = Vec::new();
    let read = (&*streams::input()).take(INPUT_MAX + 1).read_to_end(&mut input);
    let result = match read {
        Ok(_) => answer(control, name, &input),
        Err(e) => Err(format!("the arguments cannot be read: {e}").into()),
    };
    result.map_err(|refusal| json::text(&[("error", &refusal)]))
}

fn answer(control: &Control, name: &str, input: &[u8]) -> Result<String, Refusal> {
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
        return Ok(Arguments(Value::Object(Vec::new())));
    }
    let mut given = match json::read(input) {
        Ok(Value::Object(given)) => given,
        Ok(_) => return Err("the arguments are not an object in JSON".to_owned().into()),
        Err(at) => {
            return Err(format!("the arguments are not an object in JSON: see byte {at}").into());
        }
    };
    given.retain(|(name, _)| name != SESSION);
    for (name, value) in &given {
        let kind = method.arguments.iter().find(|(known, _)| known == name).map(|(_, kind)| *kind);
        let wanted = match kind {
            Some(Type::Text) if value.text().is_some() => continue,
            Some(Type::Boolean) if matches!(value, Value::Bool(_)) => continue,
            Some(Type::Text) => "a string",
            Some(Type::Boolean) => "a boolean",
            None => {
                return Err(format!("{} has no argument '{name}'", method.name).into());
            }
        };
        return Err(format!("{}: '{name}' is to be {wanted}", method.name).into());
    }
    Ok(Arguments(Value::Object(given)))
}

fn status(control: &Control, _: &Arguments) -> Result<String, Refusal> {
    Ok(json::of(&control.status()?))
}

fn check(control: &Control, _: &Arguments) -> Result<String, Refusal> {
    let status = control.status()?;
    Ok(json::text(&[
        ("posture", &status.posture),
        ("headline", &status.headline()),
        ("layers", &status.layers),
        ("differences", &status.differences),
        ("warnings", &status.warnings),
        ("errors", &status.errors),
    ]))
}

fn explain(control: &Control, given: &Arguments) -> Result<String, Refusal> {
    let part = |name: &str| given.text(name).unwrap_or_default();
    let asked = Asked::new(
        part("source"),
        part("destination"),
        part("protocol"),
        part("port"),
        given.text("device"),
    )?;
    Ok(json::of(&control.explain(&asked)?))
}

fn enable(control: &Control, given: &Arguments) -> Result<String, Refusal> {
    let force = given.0.get("force").is_some_and(Value::is_true);
    let Outcome { changes, unavailable, incomplete, warnings, kernel, .. } =
        control.enable(force)?;
    if let Some(kernel) = kernel {
        kernel.close_behind();
    }
    let warnings: Vec<Notice> =
        warnings.into_iter().map(|w| Notice { code: w.code, message: w.message }).collect();
    Ok(json::text(&[
        ("changes", &changes),
        ("unavailable", &unavailable),
        ("incomplete", &incomplete),
        ("warnings", &warnings),
    ]))
}

fn disable(control: &Control, _: &Arguments) -> Result<String, Refusal> {
    Ok(json::text(&[("was_on", &control.disable()?)]))
}

fn pause(control: &Control, given: &Arguments) -> Result<String, Refusal> {
    let duration = given.text("duration");
    let duration = duration.ok_or("pause needs 'duration': 90s, 10m or 2h".to_owned())?;
    let time = pause::duration(duration)?;
    let open = control.pause(given.client()?, time)?;
    Ok(json::text(&[("open", &names(&open)), ("seconds", &time.as_secs())]))
}

fn resume(control: &Control, given: &Arguments) -> Result<String, Refusal> {
    let (closed, open) = control.resume(given.client()?.as_ref())?;
    Ok(json::text(&[("closed", &names(&closed)), ("open", &names(&open))]))
}

fn names(targets: &[Target]) -> Vec<String> {
    targets.iter().map(Target::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        let given = arguments(enable, input).ok().unwrap();
        assert_eq!(given.0, Value::Object(vec![("force".to_owned(), Value::Bool(true))]));
    }

    #[test]
    fn an_error_of_the_configuration_names_its_lines() {
        let control = Control::new("/nonexistent");
        let refusal = answer(&control, "enable", b"").err().unwrap();
        assert_eq!((refusal.code, refusal.lines.len()), ("config", 1));
    }

    #[test]
    fn the_list_has_an_example_of_each_argument() {
        let list: serde_json::Value = serde_json::from_str(&list()).unwrap();
        assert_eq!(list["pause"], json!({ "duration": "string", "client": "string" }));
        assert_eq!(list["enable"], json!({ "force": true }));
        assert_eq!(list["status"], json!({}));
        assert_eq!(list.as_object().unwrap().len(), METHODS.len());
    }
}
