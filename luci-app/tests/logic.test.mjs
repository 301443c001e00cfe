// What the page says about what the program answers. The first rule: it never says more than that (G11).

import test from 'node:test';
import assert from 'node:assert/strict';
import { load } from './page.mjs';

const logic = load('vpn-killswitch/logic.js');

const layer = (name, more) => ({ name, installed: true, in_force: true, detail: '', ...more });
const tunnel = more => ({ device: 'wg0', exists: true, up: true, addresses: [ '10.9.0.2' ], shakes_hands: false, handshake_seconds_ago: null, ...more });
const status = more => ({
	posture: 'protecting', enabled: true, router: 'strict', layers: [ layer('netfilter'), layer('routing') ],
	tunnels: [ tunnel() ], locals: [], uplinks: [], unclassified: [], endpoints: [], packets: {}, blocked: [],
	exempts: [], port_forward_replies: false, pauses: [], differences: [], warnings: [], errors: [], ...more
});
const banner = (more, seen) => logic.banner({ status: status(more), passed: 0, ...seen }, logic.hosts({}));

test('only a fresh answer that says protecting is shown as protected', () => {
	assert.equal(banner().state, 'protecting');

	for (const posture of [ 'disabled', 'blocking', 'paused', 'degraded', 'something', '', undefined, null ]) {
		const look = banner({ posture });

		assert.notEqual(look.state, 'protecting', String(posture));
		assert.notEqual(look.tone, 'good', String(posture));
		assert.notEqual(look.title, 'Protected', String(posture));
	}

	for (const seen of [ { passed: 16 }, { passed: NaN }, { passed: undefined }, { error: 'Connection lost' }, { error: 'x', passed: 1 } ])
		assert.equal(banner({}, seen).state, 'unknown', JSON.stringify(seen));

	assert.equal(logic.banner({}).title, 'Looking…');
	assert.equal(banner({}, { passed: 15 }).state, 'protecting');
});

test('each posture has its own words and its own picture', () => {
	const looks = [
		banner(), banner({ posture: 'blocking' }), banner({ posture: 'paused', pauses: [ { what: 'br-lan', seconds_left: 598 } ] }),
		banner({ posture: 'disabled' }), banner({ posture: 'degraded', differences: [ 'rule fwd_drop is missing' ] }), banner({}, { error: 'x' })
	];

	assert.equal(new Set(looks.map(l => l.state)).size, looks.length);
	assert.equal(new Set(looks.map(l => l.title)).size, looks.length);
	assert.match(looks[2].detail, /br-lan .* 9:58/);
	assert.match(looks[4].detail, /fwd_drop is missing/);
});

test('degraded names its reason: an error before a difference before what is warned of', () => {
	const warnings = [ { code: 'not-at-boot', message: 'm' }, { code: 'offload', message: 'n' } ];
	const detail = more => banner({ posture: 'degraded', warnings, ...more }).detail;

	assert.equal(detail({}), 'The router would start open');
	assert.equal(detail({ differences: [ 'd' ] }), 'd');
	assert.equal(detail({ differences: [ 'd' ], errors: [ 'e' ] }), 'e');
	assert.equal(detail({ warnings: [ { code: 'of another version', message: 'm' } ] }), 'm');
});

test('degraded with nothing in the kernel is called open', () => {
	const none = [ layer('netfilter', { installed: false, in_force: false }), layer('routing', { installed: false, in_force: false }) ];

	assert.equal(banner({ posture: 'degraded', layers: none }).state, 'off');
	assert.equal(banner({ posture: 'degraded', layers: none }).title, 'Open');
});

test('a tunnel that is up and silent is not said to carry anything', () => {
	const silent = [ null, 181, 100000 ];

	for (const handshake_seconds_ago of silent) {
		const look = banner({ tunnels: [ tunnel({ shakes_hands: true, handshake_seconds_ago }) ] });

		assert.match(look.detail, /does not answer/);
		assert.equal(logic.tunnel(tunnel({ shakes_hands: true, handshake_seconds_ago })).tone, 'warn');
	}

	assert.match(banner({ tunnels: [ tunnel({ shakes_hands: true, handshake_seconds_ago: 100 }) ] }).detail, /no other way/);
	assert.equal(logic.tunnel(tunnel({ shakes_hands: true })).handshake, 'never');
	assert.equal(logic.tunnel(tunnel()).handshake, '-');
	assert.equal(logic.tunnel(tunnel({ up: false, shakes_hands: true })).state, 'down');
	assert.equal(logic.tunnel(tunnel({ exists: false, up: false })).state, 'does not exist');
});

test('what may go around the tunnel is named beside what may not', () => {
	const exempts = [ { name: 'TV', packets: 0 }, { name: 'Console', packets: 7 } ];

	for (const posture of [ 'protecting', 'blocking' ]) {
		assert.match(banner({ posture, exempts }).detail, /Exempt: TV, Console\.$/);
		assert.doesNotMatch(banner({ posture }).detail, /Exempt/);
		assert.match(banner({ posture, exempts, port_forward_replies: true }).detail, /Exempt: TV, Console, answers to port forwards\.$/);
	}
});

test('times are counted down as on a clock and told in one unit', () => {
	assert.deepEqual([ 0, -3, 0.2, 59, 60, 598, 3600, 7325 ].map(logic.clock), [ '0:00', '0:00', '0:01', '0:59', '1:00', '9:58', '1:00:00', '2:02:05' ]);
	assert.deepEqual([ 0, 5, 59, 60, 3599, 3600, 172799, 172800 ].map(logic.ago),
		[ 'just now', '5 s ago', '59 s ago', '1 min ago', '59 min ago', '1 h ago', '47 h ago', '2 days ago' ]);
});

const HINTS = {
	'00:11:22:AA:BB:CC': { ipaddrs: [ '192.168.1.7' ], ip6addrs: [ '2001:db8::7', 'fe80::7' ], name: 'laptop' },
	'00:11:22:AA:BB:01': { ipaddrs: [ '192.168.1.1' ], ip6addrs: [], name: 'router' },
	'00:11:22:AA:BB:02': { ipaddrs: [ '203.0.113.1' ], ip6addrs: [] }
};

test('hosts are known by name, and only those at home can be paused', () => {
	const known = logic.hosts(HINTS);

	assert.equal(logic.nameOf('192.168.1.7', known), 'laptop');
	assert.equal(logic.nameOf('192.168.1.8', known), '192.168.1.8');
	assert.deepEqual(known.byAddress['2001:db8::7'].addrs, [ '192.168.1.7', '2001:db8::7' ]);

	const at = { locals: [ { addresses: [ '192.168.1.1' ] } ], tunnels: [] };

	assert.deepEqual(logic.clients(at, known).map(h => h.name), [ 'laptop' ]);
	assert.deepEqual(logic.clients(null, logic.hosts({})), []);
});

test('pauses of one host are one pause, and one that has run out is none', () => {
	const known = logic.hosts(HINTS);
	const pauses = [ { what: '192.168.1.7', seconds_left: 300 }, { what: '2001:db8::7', seconds_left: 301 }, { what: 'br-lan', seconds_left: 10 } ];

	assert.deepEqual(logic.pauses({ pauses }, known, 4), [
		{ name: 'br-lan', what: [ 'br-lan' ], left: 6, address: false },
		{ name: 'laptop', what: [ '192.168.1.7', '2001:db8::7' ], left: 297, address: true }
	]);
	assert.equal(logic.pauses({ pauses }, known, 10).length, 1);
	assert.equal(logic.pauses({ pauses }, known, 1000).length, 0);
});

test('rates are of the time between two readings, and none when the counters began anew', () => {
	const reading = (at, passed, blocked) => ({ at, passed, blocked });

	assert.deepEqual(logic.rate(reading(10, 100, 5), reading(15, 200, 5)), { passed: 20, blocked: 0 });
	assert.equal(logic.rate(reading(10, 100, 5), reading(15, 3, 9)), null);
	assert.equal(logic.rate(reading(10, 1, 1), reading(10, 1, 1)), null);
	assert.deepEqual(logic.counts({ through_tunnel: 5, to_local: 100, exempt: 2, refused_forward: 1, refused_router: 2, refused_dns: 3, refused_inbound: 4 }), { passed: 7, blocked: 10 });
	assert.deepEqual([ 0, 0.5, 1, 1.1, 3, 7, 10, 11, 260 ].map(logic.axis), [ 1, 1, 1, 2, 5, 10, 10, 20, 500 ]);
});

test('what the user should know is listed, the worst first', () => {
	const codes = more => logic.warnings(status(more)).map(w => w.code);

	assert.deepEqual(codes({}), []);
	assert.deepEqual(codes({ warnings: [ { code: 'no-endpoint', message: 'm' } ], errors: [ 'e' ], differences: [ 'd' ] }), [ 'error', 'difference', 'no-endpoint' ]);
	assert.deepEqual(codes({ unclassified: [ 'br-guest' ] }), [ 'unclassified' ]);
	assert.deepEqual(codes({ unclassified: [ 'br-guest' ], enabled: false }), []);

	const locals = [ { addresses: [ '192.168.1.1', '2001:db8::1' ] } ];

	assert.deepEqual(codes({ locals }), [ 'no-ipv6' ]);
	assert.deepEqual(codes({ locals, tunnels: [ tunnel({ addresses: [ '10.9.0.2', 'fd09::2' ] }) ] }), []);
	assert.deepEqual(codes({ locals, tunnels: [ tunnel({ addresses: [ '10.9.0.2', 'fe80::2' ] }) ] }), [ 'no-ipv6' ]);
	assert.deepEqual(codes({ locals: [ { addresses: [ 'fd00::1', 'fe80::1' ] } ] }), []);
});

test('an explanation that lets a packet out around the tunnel looks like danger', () => {
	const said = more => logic.verdict({ verdict: 'passes', place: 'tunnel', out: 'wg0', rule: '', guarantee: '', reason: '', certain: true, ...more });

	assert.equal(said().tone, 'good');
	assert.equal(said({ place: 'outside', out: 'wan' }).tone, 'error');
	assert.equal(said({ place: 'nowhere' }).tone, 'error');
	assert.equal(said({ verdict: 'refused', place: 'outside' }).title, 'No');
	assert.equal(said({ verdict: 'perhaps' }).state, 'unknown');
	assert.equal(said({ certain: false }).lines.length, 1);
	assert.match(said({ verdict: 'refused', rule: 'fwd_drop', guarantee: 'G1' }).lines[0], /fwd_drop.*G1/);
});

test('switching on warns where the tunnel could not come up', () => {
	assert.match(logic.cutsItself('strict', [])[0], /No VPN server/);
	assert.ok(logic.cutsItself(undefined, [ { resolved: false } ]));
	assert.equal(logic.cutsItself('strict', [ { resolved: true } ]), null);
	assert.equal(logic.cutsItself('dns', []), null);
});
