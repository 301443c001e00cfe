//! What users meet: texts of `/etc/config/vpn-killswitch`, read as a whole.

use super::super::{Config, Host, RouterMode, parse};
use super::{DEFAULT_PASS_MARK, ENDPOINT_MAX, EXEMPT_MAX};
use crate::types::{Ports, Proto};

#[path = "schema_accident_tests.rs"]
mod accidents;
#[path = "schema_values_tests.rs"]
mod values;

const FILE: &str = "/etc/config/vpn-killswitch";

/// Every message as the user sees it, without the file's name.
fn errors_as_written(text: &str) -> Vec<String> {
    let errors = parse(text.as_bytes()).expect_err(text);
    errors.iter().map(|e| e.in_file(FILE).replacen(FILE, "", 1)).collect()
}

/// Says that protection is off where the text says nothing, on the line of the first section.
fn switched(text: &str) -> String {
    if text.contains("option enabled") || text.contains("option 'enabled'") {
        return text.to_owned();
    }
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    match first.starts_with("config killswitch '") {
        true => format!("{first} ; option enabled '0'\n{rest}"),
        false => text.to_owned(),
    }
}

fn errors(text: &str) -> Vec<String> {
    errors_as_written(&switched(text))
}

fn good(text: &str) -> Config {
    let text = switched(text);
    parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
}

/// A section 'main' with `options` (from line 2 on).
fn main(options: &str) -> String {
    format!("config killswitch 'main'\n{options}\n")
}

/// A complete, enabled section 'main' (5 lines), then `more` from line 6 on.
fn with(more: &str) -> String {
    main(
        "option enabled '1'\nlist tunnel_interface 'wg0'\nlist tunnel_device 'tun*'\n\
         list local_interface 'lan'",
    ) + more
}

#[test]
fn an_empty_killswitch_section_has_the_defaults_of_the_manual() {
    let config = good("config killswitch\n\toption enabled '0'\n");
    assert_eq!(config, Config::default());
    assert!(!config.enabled && config.reject && config.ntp && config.log);
    assert!(!config.port_forward_replies);
    assert_eq!((config.router, config.pass_mark), (RouterMode::Strict, 0x1000_0000));
}

#[test]
fn a_complete_file_is_read_completely() {
    let config = good(
        "config killswitch 'main'
	option schema '1'
	option enabled 'on'
	list tunnel_interface 'wg0'
	list tunnel_device 'tun*'
	list tunnel_device 'ppp1'
	list local_interface 'lan'
	list local_device 'br-guest'
	option router 'dns'
	option reject '0'
	option port_forward_replies 'yes'
	option ntp 'false'
	list bootstrap_dns '9.9.9.9'
	list bootstrap_dns '2620:fe::fe'
	option log 'disabled'
	option pass_mark '0x4000000'

config endpoint
	option name 'Zürich'
	option host 'VPN.Example.net.'
	option port '51820'
	option source_port '51821'
	option mark '0xca6c'
	option user 'openvpn'

config endpoint
	option host '2001:db8::1'
	option proto 'esp'

config exempt
	option name 'TV'
	option enabled '0'
	list src_mac '00:11:22:AA:bb:cc'
	list src_ip '192.168.1.0/24'
	list dest_ip '203.0.113.7'
	list dest_port '8000-8100'
	option proto 'tcp'
",
    );
    let text = |list: &[crate::types::DevicePattern]| {
        list.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(config.enabled && !config.reject && config.port_forward_replies);
    assert!(!config.ntp && !config.log);
    assert_eq!(config.tunnel_interfaces, ["wg0"]);
    assert_eq!(text(&config.tunnel_devices), ["tun*", "ppp1"]);
    assert_eq!(config.local_interfaces, ["lan"]);
    assert_eq!(text(&config.local_devices), ["br-guest"]);
    assert_eq!((config.router, config.pass_mark), (RouterMode::Dns, 0x400_0000));
    assert_eq!(config.bootstrap_dns.len(), 2);

    let [named, esp] = &config.endpoints[..] else { panic!("{:?}", config.endpoints) };
    assert_eq!(named.host, Host::Name("vpn.example.net".to_owned()));
    assert_eq!((named.name.as_str(), named.line), ("Zürich", 18));
    assert_eq!(
        (named.proto, named.port, named.source_port),
        (Proto::Udp, Some(51820), Some(51821))
    );
    assert_eq!((named.mark, named.user.as_deref()), (Some(0xca6c), Some("openvpn")));
    assert_eq!((esp.name.as_str(), esp.proto, esp.port), ("endpoint 2", Proto::Esp, None));

    let [tv] = &config.exempts[..] else { panic!("{:?}", config.exempts) };
    assert!(!tv.enabled && tv.name == "TV" && tv.proto == Some(Proto::Tcp));
    assert_eq!(tv.src_mac[0].to_string(), "00:11:22:aa:bb:cc");
    assert_eq!(
        (tv.src_ip[0].to_string(), tv.dest_ip[0].to_string()),
        ("192.168.1.0/24".to_owned(), "203.0.113.7".to_owned())
    );
    assert_eq!(tv.dest_port, [Ports { first: 8000, last: 8100 }]);
}

#[test]
fn a_file_without_a_killswitch_section_says_so() {
    for text in
        ["", "\n# nothing\n", "config endpoint\n\toption host '192.0.2.1'\n\toption port '1'\n"]
    {
        assert_eq!(errors(text), [": there is no section 'config killswitch'"]);
    }
}

#[test]
fn two_killswitch_sections_are_refused() {
    assert_eq!(
        errors("config killswitch 'main'\n\nconfig killswitch 'other'\n\toption router 'open'\n"),
        [":3: killswitch 'other': a second 'config killswitch'; the first is in line 1: join them"]
    );
}

#[test]
fn unknown_sections_and_options_name_what_was_probably_meant() {
    assert_eq!(
        errors(&with("config exempts\nconfig zzz 'x'\n")),
        [
            ":6: exempts: unknown section type 'exempts'; did you mean 'exempt'?; known are \
             killswitch, endpoint, exempt",
            ":7: zzz 'x': unknown section type 'zzz'; known are killswitch, endpoint, exempt",
        ]
    );
    assert_eq!(
        errors(&main("option port_foward_replies '1'")),
        [":2: killswitch 'main': port_foward_replies: unknown option; did you mean \
          'port_forward_replies'?; known are enabled, tunnel_interface, tunnel_device, ipsec, \
          local_interface, local_device, router, reject, port_forward_replies, ntp, bootstrap_dns, \
          log, pass_mark, survive_sysupgrade, schema"]
    );
    let meant = |section: &str, wrong: &str| {
        let text = with(&format!("config {section}\n\toption {wrong} '1'\n"));
        let all = errors(&text).join("\n");
        let start = all.find("did you mean '").map(|at| at + 14);
        start.and_then(|at| all[at..].split('\'').next()).unwrap_or_default().to_owned()
    };
    for (section, wrong, right) in [
        ("endpoint", "hots", "host"),
        ("endpoint", "sourceport", "source_port"),
        ("endpoint", "protos", "proto"),
        ("exempt", "src_mca", "src_mac"),
        ("exempt", "scr_ip", "src_ip"),
        ("exempt", "destip", "dest_ip"),
        ("exempt", "completely_different", ""),
    ] {
        assert_eq!(meant(section, wrong), right, "{wrong}");
    }
    // Options of one kind of section are unknown in another.
    assert!(
        errors(&with("config exempt\n\tlist src_ip '192.0.2.1'\n\toption mark '1'\n"))[0]
            .starts_with(":8: exempt: mark: unknown option")
    );
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_lines() {
    let text = "config killswitch 'main'
	option enabled 'maybe'
	list tunnel_device 'tun0'
	list tunnel_device 'a/b'
	option router 'stirct'

config endpoint
	option host '300.1.1.1'
	option port '0'

config exempt 'tv'
	list src_ip '192.168.1.5/24'
	list src_ip '192.168.1.6'
	list src_ip 'fritz.box'
	option colour 'red'
";
    assert_eq!(
        errors(text),
        [
            ":2: killswitch 'main': enabled: found 'maybe', allowed is 1 or 0 (on, off, true, \
             false, yes, no, enabled, disabled)",
            ":4: killswitch 'main': tunnel_device: found 'a/b': a device name is made of letters, \
             digits and . - _ @ +; '*' only at its end",
            ":5: killswitch 'main': router: found 'stirct', allowed is strict, dns or open",
            ":8: endpoint: host: found '300.1.1.1', allowed is an address or a host name",
            ":9: endpoint: port: found '0', allowed is a port from 1 to 65535",
            ":12: exempt 'tv': src_ip: found '192.168.1.5/24': it has bits set behind its prefix \
             length",
            ":14: exempt 'tv': src_ip: found 'fritz.box': it is not an address or network",
            ":15: exempt 'tv': colour: unknown option; known are name, enabled, local_interface, local_device, src_mac, src_ip, \
             dest_ip, dest_port, proto",
        ]
    );
}

#[test]
fn an_error_in_a_section_that_is_switched_off_is_an_error() {
    assert_eq!(
        errors(&with("config exempt\n\toption enabled '0'\n\tlist src_mac 'TV'\n")),
        [
            ":8: exempt: src_mac: found 'TV': it is not an Ethernet address such as 00:11:22:aa:bb:cc"
        ]
    );
    assert_eq!(errors(&main("option log 'x'")).len(), 1, "also when the kill switch is off");
}

#[test]
fn a_syntax_error_is_the_only_error_and_has_its_line() {
    let found =
        errors("config killswitch 'main'\n\toption enabled 'maybe'\n\toption router 'dns\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with(":3: "), "{found:?}");
}

#[test]
fn protection_needs_a_tunnel_and_a_local_network() {
    assert_eq!(
        errors(&main("option enabled '1'")),
        [
            ":1: killswitch 'main': enabled without a tunnel: add list tunnel_interface or list \
             tunnel_device (or option ipsec)",
            ":1: killswitch 'main': enabled without a local network, which would lock you out: add \
             list local_interface or list local_device",
        ]
    );
    good(&main("option enabled '0'"));
    for (tunnel, local) in [
        ("tunnel_interface 'wg0'", "local_device 'lan'"),
        ("tunnel_device 'wg0'", "local_interface 'lan'"),
    ] {
        good(&main(&format!("option enabled '1'\nlist {tunnel}\nlist {local}")));
    }
}

#[test]
fn a_tunnel_is_never_a_local_network() {
    let text = main("list tunnel_device 'tun*'\nlist local_device 'tun5'\nlist local_device 'lan'");
    assert_eq!(
        errors(&text),
        [
            ":1: killswitch 'main': tunnel_device 'tun*' and local_device 'tun5' name the same device: \
          a tunnel's far side is not a local network"
        ]
    );
    assert_eq!(
        errors(&main("list tunnel_interface 'vpn'\noption local_interface 'lan vpn'")),
        [
            ":1: killswitch 'main': interface 'vpn' is listed as tunnel_interface and as local_interface"
        ]
    );
    for (tunnel, local) in [("l*", "lan"), ("lan", "la*"), ("tun*", "tu*"), ("wg0", "wg0")] {
        let text = main(&format!("list tunnel_device '{tunnel}'\nlist local_device '{local}'"));
        assert_eq!(errors(&text).len(), 1, "{tunnel} {local}");
    }
    good(&main("list tunnel_device 'tun*'\nlist local_device 'tap*'\nlist local_device 'tu'"));
}

#[test]
fn too_many_sections_are_refused_with_their_number() {
    let many =
        |kind: &str, options: &str, n: usize| with(&format!("config {kind}\n{options}").repeat(n));
    let endpoint = "\toption host '192.0.2.1'\n\toption port '1194'\n";
    good(&many("endpoint", endpoint, ENDPOINT_MAX));
    let [too_many] = &errors(&many("endpoint", endpoint, ENDPOINT_MAX + 1))[..] else { panic!() };
    assert!(too_many.starts_with(": 65 sections 'config endpoint', at most 64 are allowed"));
    let exempt = "\tlist src_ip '192.0.2.1'\n";
    good(&many("exempt", exempt, EXEMPT_MAX));
    assert_eq!(
        errors(&many("exempt", exempt, EXEMPT_MAX + 1)),
        [
            ": 65 sections 'config exempt', at most 64 are allowed; one section may list many addresses"
        ]
    );
}

#[test]
fn one_exemption_may_list_ten_thousand_addresses() {
    let lines: String =
        (0..10_000).map(|n| format!("\tlist src_ip '10.{}.{}.1'\n", n / 100, n % 100)).collect();
    let started = std::time::Instant::now();
    let config = good(&with(&format!("config exempt\n{lines}")));
    assert_eq!(config.exempts[0].src_ip.len(), 10_000);
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[test]
fn values_in_messages_are_short_and_printable() {
    let text = main(&format!("option router '{}'", "x".repeat(500)));
    assert_eq!(
        errors(&text),
        [format!(
            ":2: killswitch 'main': router: found '{}…', allowed is strict, dns or open",
            "x".repeat(60)
        )]
    );
    let raw = b"config killswitch 'main'\n\toption enabled 0\n\toption router '\x1b[2J\xff'\n";
    let message = parse(raw).unwrap_err()[0].in_file(FILE);
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(message.contains("found '\u{fffd}[2J\u{fffd}'"), "{message:?}");
}

#[test]
fn the_default_pass_mark_is_one_bit_clear_of_pbr_and_mwan3() {
    assert_eq!(DEFAULT_PASS_MARK.count_ones(), 1);
    assert_eq!(DEFAULT_PASS_MARK & (0x00ff_0000 | 0x3f00), 0);
}
