// The browser's checks against the program's: for each value both agree whether it is allowed, and why not.

import test from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { load, program } from './page.mjs';

const rules = load('vpn-killswitch/rules.js');
const root = mkdtempSync(join(tmpdir(), 'vks-rules-'));

mkdirSync(join(root, 'etc/config'), { recursive: true });
test.after(() => rmSync(root, { recursive: true }));

/** What the program complains of in a section's option, or of all options. */
function complaints(sections, option) {
	const quote = value => `'${String(value).replace(/'/g, `'\\''`)}'`;
	const text = sections.map(([ kind, options ]) => `config ${kind}\n` + Object.entries(options).map(([ name, value ]) =>
		[].concat(value).map(v => `\t${Array.isArray(value) ? 'list' : 'option'} ${name} ${quote(v)}\n`).join('')).join('')).join('\n');

	writeFileSync(join(root, 'etc/config/vpn-killswitch'), text);

	const run = spawnSync(program(), [ '--root', root, '--platform', 'generic', 'show' ], { encoding: 'utf8' });

	assert.ifError(run.error);
	assert.ok([ 0, 2 ].includes(run.status), `${run.stderr}${text}`);

	/* Behind the file's name, the line and the section. */
	const lines = run.stderr.split('\n').filter(l => /vpn-killswitch:\d+: /.test(l)).map(l => l.replace(/^.*?vpn-killswitch:\d+: /, ''));

	return option ? lines.filter(l => new RegExp(`^[^:]*: ${option}: `).test(l)) : lines;
}

const MAIN = { enabled: '0', tunnel_device: [ 'wg0' ], local_device: [ 'br-lan' ] };
const EXEMPT = { src_ip: [ '192.0.2.1' ] };
const ENDPOINT = { host: '192.0.2.1', port: '51820', proto: 'udp' };
const inMain = (name, list) => v => [ [ 'killswitch', { ...MAIN, [name]: list ? [ v ] : v } ] ];
const inExempt = (name, list) => v => [ [ 'killswitch', MAIN ], [ 'exempt', { ...EXEMPT, [name]: list ? [ v ] : v } ] ];
const inEndpoint = name => v => [ [ 'killswitch', MAIN ], [ 'endpoint', { ...ENDPOINT, [name]: v } ] ];

const ADDRESSES = [
	'9.9.9.9', '0.0.0.0', '127.0.0.1', '224.0.0.1', '239.1.1.1', '240.0.0.1', '255.255.255.255', '256.1.1.1', '1.2.3', '01.2.3.4', '1.2.3.4.5', '192.0.2.1/32',
	'::', '::1', '::2', '2001:db8::1', '2001:DB8:0:0:0:0:0:1', '1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7::', '1:2:3:4:5:6:7:8::', '::ffff:1.2.3.4', '::1.2.3.4',
	'64:ff9b::1.2.3.4', '64:ff9b::1.2.3.400', 'ff02::1', 'fe80::1', 'fe80::1%eth0', '1::2::3', ':::', ':1', '12345::', 'g::1', 'x', 'vpn.example.net'
];
const NAMES = [ 'a', 'vpn.example.net.', 'vpn..net', '-a.net', 'a-.net', 'a_b.net', '1.2.3.net', 'net.123', 'a'.repeat(63) + '.net', 'a'.repeat(64) + '.net', 'é.net', 'A.NET', `${'abcdefghi.'.repeat(25)}net`, `${'abcdefghi.'.repeat(26)}net`, '.' ];
const NETS = [
	...ADDRESSES, '10.0.0.0/8', '10.0.0.5/8', '10.0.0.0/7', '0.0.0.0/0', '0.0.0.0/8', '192.0.2.0/24', '192.0.2.0/33', '192.0.2.0/', '192.0.2.0/+24', '192.0.2.0/024', '192.0.2.0/x',
	'2001:db8::/32', '2001:db8::1/32', '2000::/7', 'fe00::/8', '::/0', '2001:db8::/129', '2001:db8::/128', '192.0.2.0/24/24'
];
const DEVICES = [ 'wg1', 'tun*', '*', 'tun*x', 'lo', 'lo*', '.', '..', '.*', 'a'.repeat(15), 'a'.repeat(16), 'a'.repeat(15) + '*', 'eth0.7', 'a/b', 'a:b', 'a"b', 'a\\b', 'é', '@wan', 'br-lan2', 'a\'b', 'pppoe-wan' ];
const PORTS = [ '1', '65535', '0', '65536', '-1', '+1', '080', '8x', '443', '53x', '00' ];
const NUMBERS = [ '0x1', '0x40', '0x80', '0x100', '0x2000', '0x4000', '0x8000', '0x10000', '0x800000', '0x1000000', '0x80000000', '0x100000000', '0', '3', '268435456', '0xg', '0x', '-1', '0X10000000', '16', '1e3', '4294967296', '0x40000000' ];
const PROTOS = [ 'tcp', 'udp', 'icmp', 'icmpv6', 'gre', 'esp', 'ah', '6in4', '1', '47', '255', '0', '256', 'TCP', 'sctp', '+6', '06' ];

const TABLE = [
	[ 'tunnel_device', inMain('tunnel_device', true), rules.device, DEVICES ],
	[ 'local_device', inMain('local_device', true), rules.device, DEVICES.filter(d => d != 'wg0') ],
	[ 'tunnel_interface', inMain('tunnel_interface', true), rules.interfaceName, [ 'wg', 'a-b', 'a.b', '@x', 'a/b', 'é', 'a'.repeat(64), 'a'.repeat(65), 'a*' ] ],
	[ 'bootstrap_dns', inMain('bootstrap_dns', true), rules.address, ADDRESSES ],
	[ 'pass_mark', inMain('pass_mark'), rules.passMark, NUMBERS ],
	[ 'host', inEndpoint('host'), rules.host, [ ...ADDRESSES, ...NAMES ] ],
	[ 'port', inEndpoint('port'), rules.port, PORTS ],
	[ 'source_port', inEndpoint('source_port'), rules.port, PORTS ],
	[ 'mark', inEndpoint('mark'), rules.mark, [ ...NUMBERS, '0x30000000', '0xffffffff' ] ],
	[ 'user', inEndpoint('user'), rules.user, [ 'root', '0', 'open-vpn', 'a$', 'a b', 'a/b', 'é', 'a'.repeat(32), 'a'.repeat(33) ].filter(u => !/ /.test(u) || true) ],
	[ 'name', inExempt('name'), rules.label, [ 'TV', 'Ein Name mit Leerzeichen', '电视', 'a'.repeat(32), 'a'.repeat(33), '😀'.repeat(32), '😀'.repeat(33), 'a\u202eb', 'a\u200bb', 'a\u0085b', ' ' ] ],
	[ 'src_mac', inExempt('src_mac', true), rules.mac, [ '00:11:22:aa:bb:cc', '0:1:2:3:4:5', '00-11-22-AA-BB-CC', '01:11:22:aa:bb:cc', '00:00:00:00:00:00', '00:11:22:aa:bb', '00:11:22:aa:bb:cc:dd', '000:1:2:3:4:5', 'g0:1:2:3:4:5', '+1:2:3:4:5:6', '02:11:22:aa:bb:cc' ] ],
	[ 'src_ip', inExempt('src_ip', true), rules.exemptNet, NETS ],
	[ 'dest_ip', v => inExempt('dest_ip', true)(v).map(([ k, o ]) => [ k, k == 'exempt' && v.includes(':') ? { ...o, src_ip: [ '2001:db8::7' ] } : o ]), rules.exemptNet, NETS ],
	[ 'dest_port', inExempt('dest_port', true), rules.ports, [ ...PORTS, '80-90', '90-80', '80-80', '0-5', '-', '80-', '-80', '1-2-3', '1-65535' ] ],
	[ 'proto', inExempt('proto'), rules.exemptProto, PROTOS ],
	[ 'proto', v => [ [ 'killswitch', MAIN ], [ 'endpoint', { host: '192.0.2.1', proto: v, ...([ 'tcp', 'udp' ].includes(v) ? { port: '1' } : {}) } ] ], rules.serverProto, PROTOS ]
];

for (const [ option, sections, check, values ] of TABLE)
	test(`${sections('x').at(-1)[0]}.${option}: what is allowed, and what is said of the rest`, () => {
		for (const value of values) {
			const said = complaints(sections(value), option), answer = check(value);

			if (answer === true)
				assert.deepEqual(said, [], `the browser allows ${option} '${value}'`);
			else
				assert.ok(said.some(l => l.includes(answer)), `${option} '${value}': the browser says '${answer}', the program ${JSON.stringify(said)}`);
		}

		assert.ok(values.some(v => check(v) === true) && values.some(v => check(v) !== true));
	});

/** Both agree about a whole section. */
function whole(answer, sections) {
	const said = complaints(sections);

	if (answer === true)
		assert.deepEqual(said, [], JSON.stringify(sections));
	else
		assert.ok(said.some(l => l.includes(answer)), `${JSON.stringify(sections)}: '${answer}' ${JSON.stringify(said)}`);
}

test('an exemption as a whole', () => {
	for (const options of [
		{}, { name: 'x' }, { src_mac: [ '00:11:22:aa:bb:cc' ] }, { src_ip: [ '192.0.2.1' ] }, { dest_port: [ '1-1000' ] }, { dest_port: [ '1-1001' ] }, { dest_port: [ '1-600', '601-1001' ] },
		{ dest_port: [ '1-1001' ], dest_ip: [ '192.0.2.1' ] }, { dest_port: [ '443' ], proto: 'icmp' }, { dest_port: [ '443' ], proto: '17' }, { proto: 'tcp' },
		{ src_ip: [ '192.0.2.1' ], dest_ip: [ '2001:db8::1' ] }, { src_ip: [ '192.0.2.1', '2001:db8::7' ], dest_ip: [ '2001:db8::1' ] }, { dest_ip: [ '2001:db8::1' ] }
	])
		whole(rules.exemption(options), [ [ 'killswitch', MAIN ], [ 'exempt', options ] ]);
});

test('a VPN server as a whole', () => {
	for (const options of [
		{}, { port: '1194' }, { proto: 'tcp' }, { proto: 'gre' }, { proto: 'gre', port: '1' }, { proto: '50', source_port: '1' }, { port: '53' }, { port: '853', proto: 'tcp' },
		{ port: '53', mark: '0xca6c' }, { port: '53', user: 'openvpn' }, { proto: '6', port: '443' }
	]) {
		const answer = rules.server(options);

		/* The program names a protocol by its name. */
		whole(typeof answer == 'string' ? answer.replace('protocol 50', 'protocol esp') : answer, [ [ 'killswitch', MAIN ], [ 'endpoint', { host: '192.0.2.1', ...options } ] ]);
	}
});

test('the main section as a whole', () => {
	for (const options of [
		{ enabled: '1' }, { enabled: '0' }, { enabled: '1', ipsec: '1' }, { enabled: '1', tunnel_device: [ 'wg0' ] }, { enabled: '1', local_device: [ 'br-lan' ] },
		{ enabled: '1', tunnel_device: [ 'wg0' ], local_device: [ 'br-lan' ] }, { enabled: '0', tunnel_device: [ 'tun*' ], local_device: [ 'tun1' ] },
		{ enabled: '0', tunnel_device: [ 'tun1' ], local_device: [ 'tun*' ] }, { enabled: '0', tunnel_device: [ 'tun*' ], local_device: [ 'tu*' ] },
		{ enabled: '0', tunnel_device: [ 'tun*' ], local_device: [ 'tap*' ] }, { enabled: '0', tunnel_interface: [ 'wg' ], local_interface: [ 'wg' ] }
	])
		whole(rules.main(options), [ [ 'killswitch', options ] ]);
});

test('a server\'s mark beside the bits that the main section takes', () => {
	for (const main of [ {}, { ipsec: '1' }, { pass_mark: '0x1' }, { pass_mark: '0x80000000', ipsec: '1' }, { pass_mark: '0x40000000', ipsec: '1' }, { pass_mark: '64' } ])
		for (const mark of [ '0xca6c', '0x1', '0x2', '0x3', '64', '128', '0x10000000', '0x20000000', '0x40000000', '0x80000000', '0xc0000000' ])
			whole(rules.mark(mark, { ...MAIN, ...main }), [ [ 'killswitch', { ...MAIN, ...main } ], [ 'endpoint', { ...ENDPOINT, mark } ] ]);
});

test('words for yes and no', () => {
	for (const word of [ '1', 'on', 'true', 'yes', 'enabled', '0', 'off', 'false', 'no', 'disabled', 'TRUE', '2', 'x' ]) {
		const answer = rules.flag(word, null), said = complaints([ [ 'killswitch', { ...MAIN, log: word } ] ], 'log');

		assert.equal(answer == null, said.length > 0, word);
	}
});
