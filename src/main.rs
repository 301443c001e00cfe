//! The command: everything it does is in the library.

fn main() -> std::process::ExitCode {
    vpn_killswitch::cli::main()
}
