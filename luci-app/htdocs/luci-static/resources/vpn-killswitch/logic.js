'use strict';
'require baseclass';

/*
 * What the pages say, from what the program answers. No DOM and no calls: tests run it outside of a browser.
 *
 * The rule of this file: nothing is called protected unless the program just said so (G11).
 */

/* An answer that is older is no answer. */
const STALE_SECONDS = 15;

/* Seconds after which WireGuard would have shaken hands again if packets went through (REJECT_AFTER_TIME). */
const HANDSHAKE_SECONDS = 180;

function two(n) {
	return (n < 10 ? '0' : '') + n;
}

/* 9:58 or 1:02:03, as a clock counts down. */
function clock(seconds) {
	const s = Math.max(0, Math.ceil(seconds));
	const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;

	return h ? '%d:%s:%s'.format(h, two(m), two(s % 60)) : '%d:%s'.format(m, two(s % 60));
}

/* How long ago, in one unit: nobody needs the seconds of yesterday. */
function ago(seconds) {
	if (seconds < 5)
		return _('just now');
	if (seconds < 60)
		return _('%d s ago').format(seconds);
	if (seconds < 3600)
		return _('%d min ago').format(Math.floor(seconds / 60));
	if (seconds < 172800)
		return _('%d h ago').format(Math.floor(seconds / 3600));

	return _('%d days ago').format(Math.floor(seconds / 86400));
}

function list(words) {
	return words.join(', ');
}

/* Names and addresses of hosts, from luci-rpc's hints: by address, and one entry for each host. */
function hosts(hints) {
	const byAddress = {}, all = [];

	for (const mac in hints || {}) {
		const h = hints[mac];
		const addrs = [].concat(h.ipaddrs || h.ipv4 || [], h.ip6addrs || h.ipv6 || [])
			.filter(a => !/^fe[89ab]/i.test(a));
		const host = { mac, name: h.name || null, addrs };

		addrs.forEach(a => byAddress[a] = host);
		all.push(host);
	}

	all.sort((a, b) => (a.name ? 0 : 1) - (b.name ? 0 : 1) ||
		String(a.name || a.addrs[0] || a.mac).localeCompare(String(b.name || b.addrs[0] || b.mac)));

	return { byAddress, all };
}

/* Hosts that a pause could be for: not the router, nor who lives at the uplink. The program has the last word. */
function clients(status, known) {
	const own = [].concat(...[ 'locals', 'tunnels' ].map(k => (status && status[k]) || []).map(ds => [].concat(...ds.map(d => d.addresses))));
	const home = a => /^(10|192\.168|172\.(1[6-9]|2\d|3[01]))\./.test(a);

	return known.all.filter(h => h.addrs.some(home) && !h.addrs.some(a => own.indexOf(a) >= 0));
}

function hostLabel(host) {
	return host.name || host.addrs[0] || host.mac;
}

/* A pause or a client by its name, where it has one. */
function nameOf(what, known) {
	const host = known ? known.byAddress[what] : null;

	return (host && host.name) ? host.name : what;
}

/* Pauses with what they are for and the seconds that are left after `passed`; those of one host as one. */
function pauses(status, known, passed) {
	const out = [];

	for (const p of status.pauses || []) {
		const left = p.seconds_left - (passed || 0);

		if (left <= 0)
			continue;

		const name = nameOf(p.what, known);
		const same = out.find(o => o.name == name);

		if (same) {
			same.what.push(p.what);
			same.left = Math.max(same.left, left);
		}
		else {
			out.push({ name, what: [ p.what ], left, address: (/:|^\d+(\.\d+){3}$/.test(p.what)) });
		}
	}

	return out.sort((a, b) => a.left - b.left);
}

function unknown(why) {
	return { state: 'unknown', tone: 'error', title: _('Unknown'), detail: why };
}

/*
 * The banner: `state` names the picture, `tone` the colour, and the words stand for themselves.
 *
 * `seen` is { status, passed, error, since }: the last answer, the seconds since it came, why the last call
 * failed, and since when this page has seen no tunnel up.
 */
function banner(seen, known) {
	if (seen.error)
		return unknown(_('The router does not answer, so nobody knows whether you are protected: %s').format(seen.error));

	const s = seen.status;

	if (!s)
		return { state: 'unknown', tone: 'none', title: _('Looking…'), detail: _('Asking the kernel what is in force.') };
	if (!(seen.passed <= STALE_SECONDS))
		return unknown(_('The last answer is %d seconds old, so nobody knows whether you are protected.').format(seen.passed));

	const up = (s.tunnels || []).filter(t => t.up).map(t => t.device);
	/* Whoever may go around the tunnel is named: else the sentence before would not be true. */
	const exempt = (s.exempts || []).length ? ' ' + _('Exempt: %s.').format(list(s.exempts.map(e => e.name))) : '';
	const first = [].concat(s.errors || [], s.differences || [], (s.warnings || []).map(w => w.message))[0];

	switch (s.posture) {
	case 'protecting':
		return {
			state: 'protecting', tone: 'good', title: _('Protected'),
			detail: (s.tunnels.filter(t => t.up).every(silent)
				? _('Your devices may leave only through %s, which does not answer at the moment.')
				: _('Your devices reach the internet through %s, and no other way.')).format(list(up)) + exempt
		};

	case 'blocking':
		return {
			state: 'blocking', tone: 'warn', title: _('Blocking'),
			detail: (seen.since
				? _('No tunnel is up since %s: your devices reach nothing outside.').format(seen.since)
				: _('No tunnel is up: your devices reach nothing outside.')) + exempt
		};

	case 'paused': {
		const running = pauses(s, known, seen.passed);
		/* The kernel ends them; the next answer tells of it. */
		const left = running.length ? clock(Math.max.apply(null, running.map(p => p.left))) : clock(0);

		return {
			state: 'paused', tone: 'warn', title: _('Paused'),
			detail: _('%s may go around the tunnel. Closes in %s.').format(list(running.map(p => p.name)), left)
		};
	}

	case 'disabled':
		return { state: 'off', tone: 'error', title: _('Off'), detail: _('Every device is exposed.') };

	case 'degraded':
		if (!(s.layers || []).some(l => l.installed))
			return { state: 'off', tone: 'error', title: _('Open'), detail: _('Nothing is in force: %s').format(first || _('the rules are missing')) };

		return {
			state: 'degraded', tone: 'error', title: _('Degraded'),
			detail: first || _('The kernel does not have what it should have.')
		};
	}

	return unknown(_('The program answers what this page does not know: %s').format(s.posture));
}

/* What a layer is, for people. */
function layer(l) {
	const names = { netfilter: _('Firewall (nftables)'), routing: _('Routing rules') };

	return {
		name: names[l.name] || l.name,
		tone: l.in_force ? 'good' : 'warn',
		state: l.in_force ? _('in force') : (l.installed ? _('incomplete') : _('not in force')),
		detail: l.detail || ''
	};
}

/* Whether a tunnel's device is up while its far side does not answer. */
function silent(t) {
	return t.up && t.shakes_hands && !(t.handshake_seconds_ago <= HANDSHAKE_SECONDS && t.handshake_seconds_ago != null);
}

/* What a tunnel does. A device that is up says nothing about the far side; a handshake does. */
function tunnel(t) {
	const shaken = t.handshake_seconds_ago;
	let state = _('up'), tone = 'good';

	if (!t.exists)
		[ state, tone ] = [ _('does not exist'), 'warn' ];
	else if (!t.up)
		[ state, tone ] = [ _('down'), 'warn' ];
	else if (silent(t))
		[ state, tone ] = [ _('up, but silent'), 'warn' ];

	return { state, tone, handshake: !t.shakes_hands ? '-' : (shaken == null ? _('never') : ago(shaken)) };
}

function endpoint(e) {
	const only = [];

	if (e.source_port != null)
		only.push(_('from port %d').format(e.source_port));
	if (e.mark != null)
		only.push(_('with mark %s').format('0x' + e.mark.toString(16)));
	if (e.uid != null)
		only.push(_('of user %d').format(e.uid));

	return {
		tone: e.resolved ? 'good' : 'warn',
		state: e.resolved ? list(e.addresses) : (e.problem ? _('not resolved: %s').format(e.problem) : _('not resolved yet')),
		transport: [ e.proto + (e.port != null ? ' ' + e.port : '') ].concat(only).join(', ')
	};
}

/* Titles of what `status` warns of; its own message, with names and what to do, stands below. */
function warningTitle(code) {
	const titles = {
		'clock-early': _('The clock is wrong'),
		'endpoint-unresolved': _('A VPN server has no address yet'),
		'endpoint-unsafe': _('A VPN server was left out'),
		'endpoints-too-many': _('Too many VPN servers'),
		'exempt-dns': _('An exemption lets DNS out'),
		'interface-unknown': _('An interface does not exist'),
		'local-is-uplink': _('A local network is an uplink'),
		'local-missing': _('A local network does not exist'),
		'names-unpublished': _('The resolver could not be told'),
		'no-endpoint': _('No VPN server is known'),
		'not-at-boot': _('The router would start open'),
		'not-surviving': _('A system upgrade would open the router'),
		'offload': _('Flow offloading is on'),
		'shortcuts': _('Flow offloading is on'),
		'tunnel-is-uplink': _('A tunnel is not one'),
		'user-unknown': _('A user does not exist'),
		'vpn-unlisted': _('A VPN is not listed'),
		'vpn-unreadable': _('A VPN configuration cannot be read')
	};

	return titles[code] || _('Note');
}

function globalV6(addrs) {
	return (addrs || []).some(a => (/^[23][0-9a-f]{0,3}:/i.test(a)));
}

/* Everything that the user should know, the worst first. */
function warnings(s) {
	const out = [];

	for (const e of s.errors || [])
		out.push({ code: 'error', tone: 'error', title: _('The configuration has an error'), text: e });
	for (const d of s.differences || [])
		out.push({ code: 'difference', tone: 'error', title: _('The kernel differs'), text: d });
	for (const w of s.warnings || [])
		out.push({ code: w.code, tone: 'warn', title: warningTitle(w.code), text: w.message });
	if (s.enabled && (s.unclassified || []).length)
		out.push({
			code: 'unclassified', tone: 'warn', title: _('A network is not classified'),
			text: _('%s: closed, because it is neither a tunnel nor a local network. Add it to the local networks if it is yours.').format(list(s.unclassified))
		});
	if (s.enabled && (s.tunnels || []).some(t => t.up) && globalV6([].concat.apply([], (s.locals || []).map(l => l.addresses))) &&
		!s.tunnels.some(t => (t.addresses || []).some(a => a.indexOf(':') >= 0 && !/^fe[89ab]/i.test(a))))
		out.push({
			code: 'no-ipv6', tone: 'note', title: _('The tunnel has no IPv6'),
			text: _('Your devices have IPv6 addresses, and the tunnel has none: IPv6 is blocked. IPv4 works.')
		});

	return out;
}

/* Packets that passed and that were blocked, of all the counters. */
function counts(packets) {
	const p = packets || {};
	const sum = keys => keys.reduce((n, k) => n + (p[k] || 0), 0);

	return {
		passed: sum([ 'through_tunnel', 'exempt' ]),
		blocked: sum([ 'refused_forward', 'refused_router', 'refused_dns', 'refused_inbound' ])
	};
}

/* Packets per second between two readings { at, counts }; null when the counters began anew. */
function rate(before, now) {
	const seconds = now.at - before.at;
	const passed = now.counts.passed - before.counts.passed;
	const blocked = now.counts.blocked - before.counts.blocked;

	if (!(seconds > 0) || passed < 0 || blocked < 0)
		return null;

	return { passed: passed / seconds, blocked: blocked / seconds };
}

/* The end of an axis that holds `peak`: 1, 2 or 5 times a power of ten. */
function axis(peak) {
	if (!(peak > 1))
		return 1;

	const power = Math.pow(10, Math.floor(Math.log10(peak)));

	return [ 1, 2, 5, 10 ].map(n => n * power).find(n => n >= peak);
}

/* What `explain` says, in the language of the page. */
function verdict(e) {
	const out = { lines: [] };
	const by = e.rule ? _('Rule %s, guarantee %s').format(e.rule, e.guarantee) : '';

	if (e.verdict == 'refused')
		Object.assign(out, { state: 'blocking', tone: 'good', title: _('No'), detail: _('It does not get out.') });
	else if (e.verdict == 'unreachable')
		Object.assign(out, { state: 'blocking', tone: 'good', title: _('No'), detail: _('The router has no way to send it.') });
	else if (e.verdict != 'passes')
		Object.assign(out, unknown(_('The program answers what this page does not know: %s').format(e.verdict)));
	else if (e.place == 'tunnel')
		Object.assign(out, { state: 'protecting', tone: 'good', title: _('Yes, through the tunnel'), detail: _('It leaves through %s.').format(e.out) });
	else if (e.place == 'local')
		Object.assign(out, { state: 'protecting', tone: 'good', title: _('It stays in the house'), detail: _('It goes to the local network at %s.').format(e.out) });
	else if (e.place == 'router')
		Object.assign(out, { state: 'protecting', tone: 'good', title: _('It stays in the house'), detail: _('It is for the router itself.') });
	else
		Object.assign(out, { state: 'off', tone: 'error', title: _('Yes, around the tunnel'), detail: _('It leaves by %s, in the clear.').format(e.out) });

	if (by)
		out.lines.push(by);
	if (e.reason)
		out.lines.push(e.reason);
	if (!e.certain)
		out.lines.push(_('This is not certain: see the notes.'));

	return out;
}

/* Whether switching on would cut the tunnel off, as far as can be told: mode strict without a server. */
function cutsItself(router, endpoints) {
	return (router || 'strict') == 'strict' && !(endpoints || []).some(e => e.resolved);
}

return baseclass.extend({
	clock, ago, hosts, clients, hostLabel, nameOf, pauses, banner, layer, tunnel, endpoint, warnings, warningTitle,
	counts, rate, axis, verdict, cutsItself
});
