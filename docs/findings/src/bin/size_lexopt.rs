//! Size probe: the same command line with lexopt.
use std::ffi::OsString;

use lexopt::{Arg, ValueExt};

fn main() -> Result<(), lexopt::Error> {
    let (mut root, mut json, mut command) = (OsString::from("/"), false, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("root") => root = parser.value()?,
            Arg::Long("json") => json = true,
            Arg::Value(value) if command.is_none() => command = Some(value.string()?),
            _ => return Err(arg.unexpected()),
        }
    }
    println!("{command:?} {root:?} {json}");
    Ok(())
}
