//! Bad input: whatever lies where the configuration should be, the program ends, names the place,
//! and protection stays as it is.

use crate::kernel::powerless;
use crate::lab::Res;
use crate::stage::{NEW, OLD, Stage, assert_refused, told};
use crate::tracee::impatient;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};
use vpn_killswitch::backend::nft::table::Table;

/// The commands that read the configuration and change something.
const CHANGING: [&str; 3] = ["apply", "enable", "disable"];

/// A stage that is protected by [`OLD`], and what the kernel then has.
fn protected() -> Res<(Stage, Option<Table>)> {
    let mut stage = Stage::new()?;
    let old = stage.ruleset(OLD)?;
    stage.put(Some(&old))?;
    let before = stage.kernel()?;
    assert!(before.is_some());
    Ok((stage, before))
}

/// Runs the changing commands on what lies at the configuration's place: each refuses with code 2,
/// the file's name and these words, and protection stays.
fn refused(place: impl FnOnce(&Stage) -> Res<()>, words: &[&str]) -> Res<()> {
    refused_by(&CHANGING, place, words)
}

fn refused_by(commands: &[&str], place: impl FnOnce(&Stage) -> Res<()>, words: &[&str]) -> Res<()> {
    let (mut stage, before) = protected()?;
    place(&stage)?;
    let file = stage.file().display().to_string();
    for command in commands {
        let out = stage.run(&[command])?;
        assert_refused(&out, 2, &[&file]);
        assert_refused(&out, 2, words);
        assert!(stage.kernel()? == before, "{command}: protection changed");
    }
    // Status tells the same, and what is true all the same.
    let out = stage.run(&["status"])?;
    assert_eq!(out.status.code(), Some(2), "{}", told(&out));
    assert!(told(&out).contains(&file), "{}", told(&out));
    assert!(stage.kernel()? == before);
    Ok(())
}

#[test]
fn a_file_cut_off_at_any_byte_opens_nothing() -> Res<()> {
    let (mut stage, before) = protected()?;
    let rules = stage.ruleset(OLD)?;
    let file = stage.file().display().to_string();
    let (mut read, mut refused) = (0, 0);
    for cut in 0..OLD.len() {
        let text = &OLD.as_bytes()[..cut];
        stage.configure(text)?;
        let out = stage.run(&["apply"])?;
        match out.status.code() {
            Some(0) => {
                read += 1;
                // The kernel has what the rest of the file says, and never nothing.
                let wanted = stage.ruleset(&String::from_utf8_lossy(text))?;
                let differs = stage.nft.check(&wanted).map_err(|e| e.to_string())?;
                assert!(stage.kernel()?.is_some(), "cut at {cut}: the router is open");
                assert!(differs.is_empty(), "cut at {cut}: {} differences", differs.len());
                stage.put(Some(&rules))?;
            }
            Some(2) => {
                refused += 1;
                assert_refused(&out, 2, &[&format!("{file}:")]);
                assert!(stage.kernel()? == before, "cut at {cut}: protection changed");
            }
            _ => return Err(format!("cut at {cut}: {}", told(&out)).into()),
        }
        assert_eq!(fs::read(stage.file())?, text, "cut at {cut}: the file");
    }
    eprintln!("cut at {} places: {read} valid readings, {refused} refused", OLD.len());
    assert!(read > 5 && refused > 200);
    Ok(())
}

#[test]
fn only_a_plain_word_of_the_user_opens() -> Res<()> {
    let (mut stage, before) = protected()?;
    // What a file that lost a line says.
    stage.configure(OLD.replace("\toption enabled '1'\n", ""))?;
    let words = [":2: killswitch 'main': enabled: missing; say 1 for on or 0 for off"];
    assert_refused(&stage.run(&["apply"])?, 2, &[&stage.file().display().to_string()]);
    assert_refused(&stage.run(&["apply"])?, 2, &words);
    assert!(stage.kernel()? == before, "protection changed");
    stage.ok(&["disable"])?;
    assert!(stage.kernel()?.is_none());
    stage.ok(&["apply"])
}

#[test]
fn what_is_not_a_configuration_is_refused() -> Res<()> {
    refused(|stage| stage.configure(""), &["no section", "killswitch'"])?;
    let program: Vec<u8> = fs::read(crate::stage::binary())?.into_iter().take(60_000).collect();
    refused(|stage| stage.configure(&program), &[":1: NUL byte: this is not a text file"])?;
    let noise: Vec<u8> = (0..60_000u32).map(|n| (n * n % 251) as u8 | 1).collect();
    refused(|stage| stage.configure(&noise), &[":1: "])?;
    let large = vec![b'#'; 10 << 20];
    refused(
        |stage| stage.configure(&large),
        &["is larger than", "KiB: this is not a configuration"],
    )
}

#[test]
fn what_is_not_a_file_is_refused() -> Res<()> {
    let words = ["cannot be read: No such file or directory"];
    refused(|_| Ok(()), &words)?;
    refused(|stage| Ok(symlink("nowhere", stage.file())?), &words)?;
    refused(|stage| Ok(symlink("vpn-killswitch", stage.file())?), &["cannot be read: Too many"])?;
    refused(|stage| Ok(fs::create_dir(stage.file())?), &["is not a file"])?;
    // Nobody ever writes to it: whoever waits, hangs.
    refused(
        |stage| {
            let made = Command::new("mkfifo").arg(stage.file()).status()?;
            if made.success() { Ok(()) } else { Err("no mkfifo".into()) }
        },
        &["is not a file"],
    )?;
    refused(|stage| Ok(symlink("/dev/zero", stage.file())?), &["is not a file"])
}

#[test]
fn an_unreadable_file_is_refused() -> Res<()> {
    let (mut stage, before) = protected()?;
    stage.configure(NEW)?;
    fs::set_permissions(stage.file(), fs::Permissions::from_mode(0o000))?;
    let file = stage.file().display().to_string();
    for command in CHANGING {
        let out = powerless(&stage, &[command])?;
        assert_refused(&out, 2, &[&file, "cannot be read: Permission denied"]);
        assert!(stage.kernel()? == before, "{command}: protection changed");
    }
    Ok(())
}

#[test]
fn mistakes_in_the_configuration_are_named_with_their_place() -> Res<()> {
    for (wrong, words) in [
        (
            OLD.replace("tunnel_device", "tunel_device"),
            [":4: killswitch 'main': tunel_device: ", "tunnel_device"],
        ),
        (
            OLD.replace("config exempt", "config exmept"),
            [":14: exmept: unknown section type 'exmept'", "exempt"],
        ),
        (OLD.replace("'strict'", "'stric'"), [":7: killswitch 'main': router: ", "strict"]),
        (OLD.replace("'51820'", "'66000'"), [":11: endpoint: port: ", "1 to 65535"]),
        (OLD.replace("option host '", "option host \""), [":10: ", "unterminated \""]),
    ] {
        // Switching off is always possible where the syntax is right; the mistakes are not its matter.
        refused_by(&["apply", "enable"], |stage| stage.configure(&wrong), &words)?;
    }
    Ok(())
}

#[test]
fn mistakes_on_the_command_line_are_named() -> Res<()> {
    let (mut stage, before) = protected()?;
    stage.configure(NEW)?;
    for (args, words) in [
        (&[][..], "no command"),
        (&["aply"], "unknown command 'aply'"),
        (
            &["apply", "--platform", "amiga"],
            "unknown platform 'amiga'; known are openwrt, ddwrt, tomato, merlin and generic",
        ),
        (&["apply", "--json"], "invalid option '--json'"),
        (&["apply", "now"], "unexpected argument \"now\""),
        (&["disable", "--force"], "invalid option '--force'"),
        (&["show", "--backend", "pf"], "unknown backend 'pf'; known are nft and iptables"),
        (&["apply", "--root"], "missing argument for option '--root'"),
    ] {
        assert_refused(&stage.run(args)?, 2, &[words, "see 'vpn-killswitch --help'"]);
        assert!(stage.kernel()? == before, "{args:?}: protection changed");
        assert_eq!(fs::read_to_string(stage.file())?, NEW, "{args:?}");
    }
    Ok(())
}

#[test]
fn nobody_listens_to_the_output() -> Res<()> {
    let (mut stage, _) = protected()?;
    stage.configure(OLD)?;
    for args in [&["status"][..], &["status", "--json"], &["check"], &["show"], &["--help"]] {
        // A reader that is gone before the first word, as in `… | head -0`.
        let mut piped = stage.command(args);
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let out = impatient(piped.stdout(writer)).output()?;
        assert_eq!((out.status.code(), &out.stderr[..]), (Some(1), &b""[..]), "{}", told(&out));
        let mut full = stage.command(args);
        full.stdout(OpenOptions::new().write(true).open("/dev/full")?);
        let out = impatient(&mut full).output()?;
        assert_eq!((out.status.code(), &out.stderr[..]), (Some(1), &b""[..]), "{}", told(&out));
    }
    // What changes the kernel does it all the same, with nowhere to say so.
    let new = stage.ruleset(NEW)?;
    stage.configure(NEW)?;
    let mut silent = stage.command(&["apply"]);
    let full = File::options().write(true).open("/dev/full")?;
    silent.stdin(Stdio::null()).stdout(full.try_clone()?).stderr(full);
    assert_eq!(impatient(&mut silent).status()?.code(), Some(1));
    assert!(stage.nft.check(&new).map_err(|e| e.to_string())?.is_empty());
    Ok(())
}
