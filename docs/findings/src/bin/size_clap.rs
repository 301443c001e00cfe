//! Size probe: the same command line with clap's derive (no colours).
use std::ffi::OsString;

use clap::Parser;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "/")]
    root: OsString,
    #[arg(long)]
    json: bool,
    command: Option<String>,
}

fn main() {
    let args = Args::parse();
    println!("{:?} {:?} {}", args.command, args.root, args.json);
}
