//! Valid and invalid values of every option.

use super::{errors, good, main, with};

/// The messages about one option of the section 'main', behind `killswitch 'main': `.
fn refused(option: &str, value: &str) -> String {
    let keyword = if LISTS.contains(&option) { "list" } else { "option" };
    let found = errors(&main(&format!("{keyword} {option} '{value}'")));
    let start = format!(":2: killswitch 'main': {option}: ");
    let [one] = &found[..] else { panic!("{option} '{value}': {found:?}") };
    one.strip_prefix(&start).unwrap_or_else(|| panic!("{one}")).to_owned()
}

const LISTS: [&str; 5] =
    ["tunnel_interface", "tunnel_device", "local_interface", "local_device", "bootstrap_dns"];

#[test]
fn switches_know_the_words_of_openwrt() {
    for option in ["enabled", "reject", "port_forward_replies", "ntp", "log"] {
        for (word, on) in [
            ("1", true),
            ("on", true),
            ("true", true),
            ("yes", true),
            ("enabled", true),
            ("0", false),
            ("off", false),
            ("false", false),
            ("no", false),
            ("disabled", false),
        ] {
            let needs = "list tunnel_device 'wg0'\nlist local_device 'lan'\n";
            let config = good(&main(&format!("{needs}option {option} '{word}'")));
            let value = match option {
                "enabled" => config.enabled,
                "reject" => config.reject,
                "port_forward_replies" => config.port_forward_replies,
                "ntp" => config.ntp,
                _ => config.log,
            };
            assert_eq!(value, on, "{option} {word}");
        }
        for bad in ["2", "ON", "True", "y", " 1", "01", "-1"] {
            assert_eq!(
                refused(option, bad),
                format!(
                    "found '{bad}', allowed is 1 or 0 (on, off, true, false, yes, no, enabled, \
                     disabled)"
                )
            );
        }
    }
}

#[test]
fn scalars_of_the_main_section() {
    good(&main("option schema '1'"));
    assert_eq!(refused("schema", "2"), "found '2', allowed is the number 1");
    for mode in ["strict", "dns", "open"] {
        assert_eq!(good(&main(&format!("option router {mode}"))).router.to_string(), mode);
    }
    assert_eq!(refused("router", "STRICT"), "found 'STRICT', allowed is strict, dns or open");

    for (text, mark) in [("0x80000000", 1 << 31), ("1", 1), ("0X00000010", 16), ("64", 1 << 6)] {
        assert_eq!(good(&main(&format!("option pass_mark {text}"))).pass_mark, mark);
    }
    for bad in ["0", "0x0", "3", "0x30000000", "0x100000000", "0x", "-1", "+1", "0x+1", "1e3", "ff"]
    {
        assert_eq!(
            refused("pass_mark", bad),
            format!(
                "found '{bad}', allowed is one bit that pbr and mwan3 leave alone (0x1 to 0x40, 0x4000, 0x1000000 to 0x80000000)"
            )
        );
    }
}

#[test]
fn scalars_are_not_lists() {
    assert_eq!(
        errors(&main("list router 'dns'\nlist router 'open'")),
        [
            ":2: killswitch 'main': router: written as a list; use: option router '…' (strict, dns or \
          open)"
        ]
    );
    assert_eq!(
        errors(&with("config endpoint\nlist host '192.0.2.1'\noption port 1")),
        [":7: endpoint: host: written as a list; use: option host '…' (an address or a host name)"]
    );
    assert_eq!(errors(&with("config exempt\nlist name 'a'\nlist src_ip '192.0.2.1'")).len(), 1);
}

#[test]
fn lists_may_be_written_as_one_option_with_words() {
    let list = good(&main("list local_interface 'lan'\nlist local_interface 'guest'"));
    let words = good(&main("option local_interface ' lan\tguest  lan '"));
    assert_eq!(list, words);
    assert_eq!(words.local_interfaces, ["lan", "guest"], "a word that is repeated counts once");
    assert_eq!(
        errors(&main("option local_device 'lan br/x'")),
        [":2: killswitch 'main': local_device: found 'br/x': a device name is made of letters, \
          digits and . - _ @ +; '*' only at its end"]
    );
    assert_eq!(
        errors(&main("option local_device '   '")),
        [":2: killswitch 'main': local_device: found '': it is empty"]
    );
}

#[test]
fn names_of_devices_and_interfaces() {
    for option in ["tunnel_device", "local_device"] {
        for good_name in ["wg0", "tun*", "br-lan.20", "eth0@x", "l2tp+1", "abcdefghijklmno"] {
            good(&main(&format!("list {option} '{good_name}'")));
        }
        for (bad, why) in [
            ("", "it is empty"),
            ("*", "'*' alone would name every device"),
            ("abcdefghijklmnop", "a device name has at most 15 characters"),
            ("lo", "the loopback device is neither a tunnel nor a network"),
            ("..", "the kernel has no device of that name"),
            ("t*n", "a device name is made of letters, digits and . - _ @ +; '*' only at its end"),
            ("a b", "a device name is made of letters, digits and . - _ @ +; '*' only at its end"),
        ] {
            assert_eq!(refused(option, bad), format!("found '{bad}': {why}"));
        }
    }
    for option in ["tunnel_interface", "local_interface"] {
        good(&main(&format!("list {option} 'wan_6'\nlist {option} '@lan'")));
        assert_eq!(refused(option, ""), "found '': it is empty");
        assert_eq!(
            refused(option, "tun*"),
            "found 'tun*': an interface's name is made of letters, digits and . - _ @"
        );
        refused(option, &"x".repeat(65));
    }
}

#[test]
fn bootstrap_servers_are_addresses_of_hosts() {
    good(&main("list bootstrap_dns '9.9.9.9'\nlist bootstrap_dns '2620:fe::fe'"));
    for (bad, why) in [
        ("dns.quad9.net", "it is not an address"),
        ("9.9.9.9:53", "it is not an address"),
        ("0.0.0.0", "it is not the address of another host"),
        ("127.0.0.1", "it is not the address of another host"),
        ("::1", "it is not the address of another host"),
        ("ff02::fb", "it is not the address of another host"),
        ("255.255.255.255", "it is the broadcast address"),
    ] {
        assert_eq!(refused("bootstrap_dns", bad), format!("found '{bad}': {why}"));
    }
}

/// Messages about an endpoint with `options` (from line 7 on), without the place of the section.
fn endpoint(options: &[&str]) -> Vec<String> {
    let found = errors(&with(&format!("config endpoint\n{}\n", options.join("\n"))));
    found.iter().map(|e| e.replacen(": endpoint", "", 1)).collect()
}

#[test]
fn endpoints_need_a_host_and_a_port() {
    assert_eq!(
        endpoint(&[]),
        [
            ":6: host: missing; it names the VPN server's address or name",
            ":6: port: missing; it names the VPN server's port, from 1 to 65535",
        ]
    );
    assert_eq!(
        endpoint(&["option host '192.0.2.1'", "option proto 'gre'", "option port '1'"]),
        [":9: port: protocol gre has no ports: remove it, or set proto to udp or tcp"]
    );
    assert_eq!(
        endpoint(&["option host '192.0.2.1'", "option proto '50'", "option source_port '1'"]),
        [":9: source_port: protocol esp has no ports: remove it, or set proto to udp or tcp"]
    );
    for proto in ["gre", "esp", "ah", "6in4", "47", "132", "icmp"] {
        let options = format!("config endpoint\noption host '192.0.2.1'\noption proto '{proto}'");
        assert_eq!(good(&with(&options)).endpoints[0].port, None);
    }
}

#[test]
fn hosts_are_addresses_or_names() {
    for host in ["192.0.2.1", "2001:db8::1", "vpn", "vpn.example.net", "a_b.example", "1and1.de"] {
        good(&with(&format!("config endpoint\noption host '{host}'\noption port '1'")));
    }
    let long = ["a".repeat(63).as_str(); 4].join(".");
    for host in [
        "1.2.3",
        "300.1.1.1",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "ff02::1",
        "192.0.2.1:51820",
        "[2001:db8::1]",
        "192.0.2.0/24",
        "fe80::1%wan",
        "a..b",
        "-a.example",
        "a-.example",
        ".",
        "https://vpn.example",
        "vpn example",
        "müller.example",
        &long,
    ] {
        assert_eq!(
            endpoint(&[&format!("option host '{host}'"), "option port '1'"]),
            [format!(
                ":7: host: found '{}', allowed is an address or a host name",
                if host.len() > 60 { format!("{}…", &host[..60]) } else { host.to_owned() }
            )]
        );
    }
}

#[test]
fn endpoint_values_out_of_range() {
    let fields = ["option host '192.0.2.1'", "option port '1194'"];
    for (option, bad, allowed) in [
        ("port", "0", "a port from 1 to 65535"),
        ("port", "65536", "a port from 1 to 65535"),
        ("port", "+80", "a port from 1 to 65535"),
        ("port", "80-90", "a port from 1 to 65535"),
        ("source_port", "x", "a port from 1 to 65535"),
        ("proto", "UDP", "udp, tcp, gre, esp, ah, 6in4 or a protocol number"),
        ("proto", "0", "udp, tcp, gre, esp, ah, 6in4 or a protocol number"),
        ("proto", "256", "udp, tcp, gre, esp, ah, 6in4 or a protocol number"),
        ("mark", "0", "a packet mark other than 0, such as 0xca6c"),
        ("mark", "0x100000000", "a packet mark other than 0, such as 0xca6c"),
        ("user", "open vpn", "a user's name or number"),
        ("name", "   ", "a name of at most 32 printable characters"),
        ("name", "123456789012345678901234567890123", "a name of at most 32 printable characters"),
    ] {
        let line = format!("option {option} '{bad}'");
        let (options, at) = match option {
            "port" => (vec![fields[0], &line], 8),
            _ => (vec![fields[0], fields[1], &line], 9),
        };
        assert_eq!(
            endpoint(&options),
            [format!(":{at}: {option}: found '{bad}', allowed is {allowed}")]
        );
    }
}

#[test]
fn an_endpoint_on_a_dns_port_says_whose_packets_it_means() {
    for port in ["53", "853", "5353", "5355"] {
        for proto in ["udp", "tcp", "6"] {
            let options = [
                "option host '192.0.2.1'".to_owned(),
                format!("option proto '{proto}'"),
                format!("option port '{port}'"),
            ];
            let options = options.each_ref().map(String::as_str);
            assert_eq!(
                endpoint(&options),
                [
                    ":9: port: an endpoint on a DNS port would let the router's own DNS questions out: \
                  add option mark (WireGuard's fwmark) or option user (the VPN's own user)"
                ]
            );
            for owner in ["option mark '0xca6c'", "option user 'openvpn'", "option user '0'"] {
                let text = [&options[..], &[owner]].concat().join("\n");
                good(&with(&format!("config endpoint\n{text}")));
            }
        }
    }
}

/// Messages about an exemption with `options` (from line 7 on), without the place of the section.
fn exempt(options: &[&str]) -> Vec<String> {
    let found = errors(&with(&format!("config exempt\n{}\n", options.join("\n"))));
    found.iter().map(|e| e.replacen(": exempt", "", 1)).collect()
}

#[test]
fn an_exemption_names_something() {
    let nothing =
        ":6: it names nothing and would exempt everyone: add src_mac, src_ip, dest_ip or dest_port";
    assert_eq!(exempt(&[]), [nothing]);
    assert_eq!(exempt(&["option name 'TV'", "option proto 'tcp'"]), [nothing]);
    for what in [
        "src_mac '02:00:00:00:00:01'",
        "src_ip '192.0.2.1'",
        "dest_ip '2001:db8::/32'",
        "dest_port '25'",
    ] {
        good(&with(&format!("config exempt\nlist {what}")));
    }
}

#[test]
fn an_exemption_is_never_for_every_address() {
    for option in ["src_ip", "dest_ip"] {
        for net in ["0.0.0.0/0", "::/0"] {
            assert_eq!(
                exempt(&[&format!("list {option} '{net}'")]),
                [format!(
                    ":7: {option}: found '{net}': it is too wide for an exemption; the widest is /8"
                )]
            );
        }
    }
}

#[test]
fn exemptions_that_no_packet_could_meet_are_refused() {
    assert_eq!(
        exempt(&["list src_ip '192.168.1.5'", "list dest_ip '2001:db8::/32'"]),
        [":8: dest_ip: src_ip and dest_ip are of different families: no packet has both"]
    );
    good(&with(
        "config exempt\nlist src_ip '192.168.1.5'\nlist src_ip '2001:db8::5'\nlist dest_ip '2001:db8::/32'",
    ));
    assert_eq!(
        exempt(&["list dest_port '80'", "option proto 'icmp'"]),
        [":7: dest_port: only tcp and udp have ports: change proto or remove it"]
    );
}

#[test]
fn exemption_values_out_of_range() {
    for (option, bad, why) in [
        ("src_mac", "00:11:22:aa:bb", "it is not an Ethernet address such as 00:11:22:aa:bb:cc"),
        ("src_mac", "01:00:5e:00:00:01", "it is a group address or zero: no device sends from it"),
        ("src_ip", "10.0.0.5/8", "it has bits set behind its prefix length"),
        ("src_ip", "10.0.0.0/33", "its prefix length is too large"),
        ("dest_ip", "10.0.0.0/x", "its prefix length is not a number"),
        ("dest_ip", "10.0.0.1-10.0.0.9", "it is not an address or network"),
        ("dest_port", "0", "it is not a port (1-65535) or a range of ports such as 8000-8100"),
        ("dest_port", "http", "it is not a port (1-65535) or a range of ports such as 8000-8100"),
        ("dest_port", "90-80", "its first port is above its last"),
        ("dest_port", "80,443", "it is not a port (1-65535) or a range of ports such as 8000-8100"),
    ] {
        assert_eq!(
            exempt(&[&format!("list {option} '{bad}'")]),
            [format!(":7: {option}: found '{bad}': {why}")]
        );
    }
    assert_eq!(
        exempt(&["list src_ip '192.0.2.1'", "option proto 'TCP'"]),
        [":8: proto: found 'TCP', allowed is tcp, udp, icmp, icmpv6, gre, esp or a number"]
    );
    // One bad entry refuses the list, and does not make it "any".
    assert_eq!(exempt(&["list src_ip 'tv'", "list src_ip '192.0.2.1'"]).len(), 1);
    assert_eq!(exempt(&["list src_ip 'tv'", "list dest_port '80'"]).len(), 1);
}
