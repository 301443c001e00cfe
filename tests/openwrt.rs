//! The scripts of the OpenWrt package, run by BusyBox's shell with stand-ins for the platform.
//!
//! A stand-in does what the platform's own function does with its arguments, and writes down that it was
//! called; the program itself is one for most tests, and the real one where its effect is what counts.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a wrong index is a failed test"
)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_vpn-killswitch");
const PROGRAM: &str = "/usr/sbin/vpn-killswitch";

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("openwrt/files")
}

/// A router: a folder with the package's files in it, and a record of what was called.
struct Router(PathBuf);

impl Router {
    fn new(name: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("openwrt-{name}"));
        let _ = fs::remove_dir_all(&root);
        for folder in ["etc/config", "usr/sbin", "sbin", "bin"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let router = Self(root);
        router.program(&format!(
            "echo \"program $*${{ACTION:+ of $ACTION}}\" >>'{}'\n",
            router.log()
        ));
        router
    }

    fn log(&self) -> String {
        self.0.join("calls").display().to_string()
    }

    /// Makes the program do this.
    fn program(&self, script: &str) {
        let path = self.0.join("usr/sbin/vpn-killswitch");
        fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A file of the package, with this router's paths in it.
    fn script(&self, path: &str) -> String {
        let text = fs::read_to_string(files().join(path)).unwrap();
        let root = self.0.display();
        let with = |text: String, path: &str| text.replace(path, &format!("{root}{path}"));
        let text = with(text, PROGRAM);
        let text = with(text, "/etc/config/");
        let text = with(text, "/sbin/ujail");
        with(text, "/sbin/fw4")
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.0.join(path), text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap_or_default()
    }

    /// Runs a script by BusyBox's shell; what it did is written down.
    fn run(&self, script: &str) -> Output {
        let file = self.0.join("script");
        fs::write(&file, script).unwrap();
        Command::new("busybox").arg("ash").arg(file).output().unwrap()
    }

    /// What was called since the last time.
    fn calls(&self) -> Vec<String> {
        let calls = self.read("calls").lines().map(str::to_owned).collect();
        let _ = fs::remove_file(self.0.join("calls"));
        calls
    }

    /// Calls the service with these words, as the platform's rc.common does.
    fn service(&self, words: &str) -> Output {
        let service = self.script("etc/init.d/vpn-killswitch");
        let service = service.lines().skip(1).collect::<Vec<_>>().join("\n");
        self.write("service", &service);
        let log = self.log();
        let action = words.split(' ').next().unwrap();
        self.run(&format!(
            r#"
# What rc.common and procd.sh do, as far as a service sees it.
call() {{ echo "$*" >>'{log}'; }}
for name in open_instance set_param close_instance add_jail add_reload_trigger; do
	eval "procd_$name() {{ call $name \"\$@\"; }}"
done
service_running() {{ return 1; }}
boot() {{ start "$@"; }}
. '{root}/service'
[ "$USE_PROCD" = 1 ] && {{
	start() {{ call lock; start_service "$@"; service_triggers; call set; }}
	stop() {{ call lock; call delete; }}
	reload() {{ call lock; reload_service "$@"; }}
	status() {{ status_service "$@"; }}
}}
case " start stop restart reload enable disable enabled boot shutdown status $EXTRA_COMMANDS " in
*" {action} "*) {words} ;;
*) echo "$START:${{STOP-none}}"; echo -e "$EXTRA_HELP" ;;
esac
"#,
            root = self.0.display()
        ))
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn at_boot_it_arms_before_it_waits_for_anybody() {
    let router = Router::new("boot");
    let out = router.service("boot");
    let calls = router.calls();
    assert_eq!(calls[..2], ["program apply --boot", "lock"], "{calls:?} {}", text(&out));
    // Not again, and not without --boot: that would do nothing with a broken configuration.
    assert_eq!(calls.iter().filter(|c| c.starts_with("program")).count(), 1);
    assert!(calls.contains(&"open_instance guard".to_owned()), "{calls:?}");
    let command = calls.iter().find(|c| c.starts_with("set_param command")).unwrap();
    assert!(command.ends_with("/usr/sbin/vpn-killswitch guard"), "{command}");
}

#[test]
fn the_guard_is_started_whatever_the_apply_says() {
    let router = Router::new("fails");
    router.program("exit 2\n");
    for action in ["boot", "start"] {
        router.service(action);
        let calls = router.calls();
        assert!(calls.contains(&"open_instance guard".to_owned()), "{action}: {calls:?}");
        // With its triggers, so that a configuration that is mended later is noticed.
        let triggers = "add_reload_trigger vpn-killswitch network firewall system openvpn";
        assert!(calls.contains(&triggers.to_owned()), "{action}: {calls:?}");
    }
}

#[test]
fn where_there_are_jails_the_guard_may_do_little() {
    let router = Router::new("confined");
    router.service("start");
    assert!(!router.calls().iter().any(|c| c.contains("jail") || c.contains("capabilities")));
    router.write("sbin/ujail", "");
    fs::set_permissions(router.0.join("sbin/ujail"), fs::Permissions::from_mode(0o755)).unwrap();
    router.service("start");
    let calls = router.calls();
    for call in ["add_jail vpn-killswitch", "set_param no_new_privs 1"] {
        assert!(calls.contains(&call.to_owned()), "{calls:?}");
    }
    let file = calls.iter().find_map(|c| c.strip_prefix("set_param capabilities /")).unwrap();
    let text = fs::read_to_string(files().join(file)).unwrap();
    let sets: serde_json::Value = serde_json::from_str(&text).unwrap();
    // procd takes a set that is missing for all there are.
    for set in ["bounding", "effective", "ambient", "permitted", "inheritable"] {
        assert_eq!(sets[set], sets["bounding"], "{set}");
    }
    let all = sets["bounding"].as_array().unwrap();
    assert!(all.contains(&"CAP_NET_ADMIN".into()) && !all.contains(&"CAP_SYS_ADMIN".into()));
}

#[test]
fn to_stop_opens_nothing() {
    let router = Router::new("stop");
    router.service("stop");
    assert_eq!(router.calls(), ["lock", "delete"]);
}

#[test]
fn each_action_is_the_command_of_that_name() {
    let router = Router::new("actions");
    for (words, command) in [
        ("start", "program apply"),
        ("reload", "program apply"),
        ("pause 10m --client 192.168.1.9", "program pause 10m --client 192.168.1.9"),
        ("resume", "program resume"),
        ("check", "program check"),
        ("status", "program status"),
    ] {
        router.service(words);
        let calls = router.calls();
        let programs: Vec<_> = calls.iter().filter(|c| c.starts_with("program")).collect();
        assert_eq!(programs, [command], "{words}");
    }
    router.program("exit 4\n");
    let status = router.service("status");
    assert_eq!(status.status.code(), Some(4), "a program may ask for the posture");
    assert!(text(&status).contains("guard does not run"));
    let help = text(&router.service("help"));
    assert!(help.starts_with("15:none\n"), "{help}");
    for command in ["pause", "resume", "check"] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(command)), "{help}");
    }
}

/// The image builder sources the script on another machine, by another shell.
#[test]
fn to_read_the_service_does_nothing() {
    let router = Router::new("top-level");
    let service = files().join("etc/init.d/vpn-killswitch");
    for shell in [&["busybox", "ash"][..], &["bash"]] {
        let out = Command::new(shell[0])
            .args(&shell[1..])
            .args(["-euc", ". \"$1\"; echo \"$START\"", "sh"])
            .arg(&service)
            .env("IPKG_INSTROOT", &router.0)
            .output()
            .unwrap();
        assert_eq!(text(&out), "15\n", "{shell:?}");
    }
    assert!(router.calls().is_empty());
}

#[test]
fn hooks_hand_the_event_on() {
    let router = Router::new("hooks");
    for hook in ["etc/hotplug.d/iface/15-vpn-killswitch", "etc/hotplug.d/net/15-vpn-killswitch"] {
        // hotplug-call reads each script in a shell of its own.
        let out = router.run(&format!("export ACTION=ifup\n( {} )\n", router.script(hook)));
        assert_eq!(router.calls(), ["program hotplug of ifup"], "{}", text(&out));
    }
    // The firewall runs its includes as `. FILE`, in a shell without an event.
    router.run(&router.script("usr/libexec/vpn-killswitch-firewall"));
    assert_eq!(router.calls(), ["program hotplug of firewall"]);
}

const UCI: &str = "[ \"$*\" = '-q get firewall.vpn_killswitch' ] || exit 9\n";

fn defaults(router: &Router) -> Output {
    router.write("bin/uci", &format!("#!/bin/sh\n{UCI}exec grep -q \"^config include 'vpn_killswitch'\" '{}/etc/config/firewall'\n", router.0.display()));
    let uci = router.0.join("bin/uci");
    fs::set_permissions(&uci, fs::Permissions::from_mode(0o755)).unwrap();
    let script = router.script("etc/uci-defaults/zz-vpn-killswitch");
    router.write("defaults", &script);
    // As default_postinst and the boot do: read in a shell of its own, and removed if all went well.
    router.run(&format!(
        "PATH='{root}/bin':$PATH\n( cd '{root}' && . ./defaults ) && rm '{root}/defaults'\n",
        root = router.0.display()
    ))
}

/// The real program, below this router's root.
fn real(router: &Router) {
    router.program(&format!("exec '{BINARY}' --root '{}' \"$@\"\n", router.0.display()));
}

#[test]
fn the_first_configuration_and_the_firewalls_hook_are_written_once() {
    let router = Router::new("defaults");
    real(&router);
    let network = "config interface 'lan'\n\toption device 'br-lan'\n\toption proto 'static'\n";
    // Somebody's comment, and a last line without its end.
    let firewall = "# mine\nconfig zone\n\toption name 'lan'\n\tlist network 'lan'";
    router.write("etc/config/network", network);
    router.write("etc/config/firewall", firewall);
    router.write("sbin/fw4", "");
    fs::set_permissions(router.0.join("sbin/fw4"), fs::Permissions::from_mode(0o755)).unwrap();

    let out = defaults(&router);
    assert!(!router.0.join("defaults").exists(), "it would run again: {}", text(&out));
    let first = (router.read("etc/config/vpn-killswitch"), router.read("etc/config/firewall"));
    assert!(first.0.contains("list local_interface 'lan'"), "{}", first.0);
    assert!(first.0.contains("option enabled '0'"));
    let hook = first.1.strip_prefix(firewall).unwrap();
    assert!(hook.starts_with("\nconfig include 'vpn_killswitch'\n"), "{hook}");
    assert!(hook.contains("option fw4_compatible '1'") && !hook.contains("reload"), "{hook}");
    let path = hook.split('\'').find(|word| word.ends_with("-firewall")).unwrap();
    assert!(files().join(path.trim_start_matches('/')).exists(), "{path}");

    defaults(&router);
    let second = (router.read("etc/config/vpn-killswitch"), router.read("etc/config/firewall"));
    assert_eq!(first, second);
}

#[test]
fn the_older_firewall_gets_the_option_that_it_knows() {
    let router = Router::new("fw3");
    router.write("etc/config/firewall", "");
    defaults(&router);
    let firewall = router.read("etc/config/firewall");
    assert!(firewall.contains("option reload '1'") && !firewall.contains("fw4"), "{firewall}");
}

#[test]
fn a_configuration_that_is_there_is_kept() {
    let router = Router::new("kept");
    real(&router);
    // Of this version, of a later one, broken, and a link to nowhere.
    for theirs in [
        "config killswitch\n\toption enabled '1'\n",
        "config killswitch\n\toption schema '2'\n\toption new '1'\n",
        "nonsense",
        "",
    ] {
        router.write("etc/config/vpn-killswitch", theirs);
        defaults(&router);
        assert_eq!(router.read("etc/config/vpn-killswitch"), theirs);
        assert!(!router.0.join("defaults").exists());
    }
    let file = router.0.join("etc/config/vpn-killswitch");
    fs::remove_file(&file).unwrap();
    symlink("nowhere", &file).unwrap();
    defaults(&router);
    assert!(!router.0.join("etc/config/nowhere").exists());
}

#[test]
fn what_could_not_be_written_is_tried_again() {
    let router = Router::new("again");
    router.program("exit 1\n");
    router.write("etc/config/firewall", "");
    let out = defaults(&router);
    assert!(router.0.join("defaults").exists(), "{}", text(&out));
    assert_eq!(router.read("etc/config/firewall"), "");
}

#[test]
fn rights_to_read_change_nothing() {
    let text =
        fs::read_to_string(files().join("usr/share/rpcd/acl.d/vpn-killswitch.json")).unwrap();
    let rights: serde_json::Value = serde_json::from_str(&text).unwrap();
    let of = |kind: &str| -> Vec<String> {
        let methods = rights["vpn-killswitch"][kind]["ubus"]["vpn-killswitch"].as_array().unwrap();
        methods.iter().map(|m| m.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("read"), ["status", "check", "explain"]);
    // Every method of the object is somebody's.
    let list = Command::new(BINARY).args(["rpcd", "list"]).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let mut known: Vec<String> = list.as_object().unwrap().keys().cloned().collect();
    let mut allowed = [of("read"), of("write")].concat();
    known.sort();
    allowed.sort();
    assert_eq!(known, allowed);
    // And the object is where rpcd looks for it.
    let link = fs::read_link(files().join("usr/libexec/rpcd/vpn-killswitch")).unwrap();
    assert_eq!(link, Path::new("../../sbin/vpn-killswitch"));
}
