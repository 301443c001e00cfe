//! Size probe: `[--root DIR] [--json] COMMAND`, taken apart by hand.
use std::env;
use std::ffi::OsString;

fn main() -> Result<(), String> {
    let (mut root, mut json, mut command) = (OsString::from("/"), false, None);
    let mut args = env::args_os().skip(1);
    while let Some(arg) = args.next() {
        match &*arg.to_string_lossy() {
            "--root" => root = args.next().ok_or("--root needs a directory")?,
            "--json" => json = true,
            text if text.starts_with("--root=") => root = text["--root=".len()..].into(),
            text if !text.starts_with('-') && command.is_none() => command = Some(text.to_string()),
            text => return Err(format!("unexpected {text}")),
        }
    }
    println!("{command:?} {root:?} {json}");
    Ok(())
}
