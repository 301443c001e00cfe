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

/* 9:58 or 1:02:03, as a clock counts down. */
function clock(seconds) {
	const s = Math.max(0, Math.ceil(seconds)), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;

	return h ? '%d:%02d:%02d'.format(h, m, s % 60) : '%d:%02d'.format(m, s % 60);
}

/* How long ago, in one unit: nobody needs the seconds of yesterday. */
const AGES = [ [ 60, 1, _('%d s ago') ], [ 3600, 60, _('%d min ago') ], [ 172800, 3600, _('%d h ago') ], [ Infinity, 86400, _('%d days ago') ] ];

function ago(seconds) {
	const [ , unit, text ] = AGES.find(age => seconds < age[0]);

	return seconds < 5 ? _('just now') : text.format(Math.floor(seconds / unit));
}

const list = words => words.join(', ');

const linkLocal = address => (/^fe[89ab]/i.test(address));

/* Addresses of devices, without those that every device has. */
const addresses = devices => devices.flatMap(d => d.addresses).filter(a => !linkLocal(a));

/* Names and addresses of hosts, from luci-rpc's hints: by address, and one entry for each host. */
function hosts(hints) {
	const byAddress = {};
	const all = Object.entries(hints).map(([ mac, h ]) => {
		const addrs = [].concat(h.ipaddrs || h.ipv4 || [], h.ip6addrs || h.ipv6 || []).filter(a => !linkLocal(a));

		return { mac, name: h.name || null, addrs, label: h.name || addrs[0] || mac };
	});

	all.forEach(host => host.addrs.forEach(a => byAddress[a] = host));
	all.sort((a, b) => !a.name - !b.name || a.label.localeCompare(b.label));

	return { byAddress, all };
}

/* Hosts that a pause could be for: not the router, nor who lives at the uplink. The program has the last word. */
function clients(status, known) {
	const own = status ? addresses([ ...status.locals, ...status.tunnels ]) : [];
	const home = a => (/^(10|192\.168|172\.(1[6-9]|2\d|3[01]))\./.test(a));

	return known.all.filter(h => h.addrs.some(home) && !h.addrs.some(a => own.includes(a)));
}

/* A pause or a client by its name, where it has one. */
const nameOf = (what, known) => known?.byAddress[what]?.name || what;

/* Pauses with what they are for and the seconds that are left after `passed`; those of one host as one. */
function pauses(status, known, passed) {
	const byName = {};

	for (const { what, seconds_left } of status.pauses) {
		const name = nameOf(what, known);
		const p = byName[name] ??= { name, what: [], left: 0, address: (/:|^\d+(\.\d+){3}$/.test(what)) };

		p.what.push(what);
		p.left = Math.max(p.left, seconds_left - passed);
	}

	return Object.values(byName).filter(p => p.left > 0).sort((a, b) => a.left - b.left);
}

/* What is looked at first: `state` names the picture, `tone` the colour, and the words stand for themselves. */
function look(state, tone, title, detail) {
	return { state, tone, title, detail };
}

const unknown = why => look('unknown', 'error', _('Unknown'), why);

const unsure = why => unknown(_('Nobody knows whether you are protected: %s').format(why));

const stranger = word => unknown(_('The program answers what this page does not know: %s').format(word));

/*
 * The banner, from the last answer, the seconds since it came, why the last
 * call failed, and since when this page has seen no tunnel up.
 */
function banner({ status: s, passed, error, since }, known) {
	if (error)
		return unsure(error);
	if (!s)
		return look('unknown', 'none', _('Looking…'), '');
	if (!(passed <= STALE_SECONDS))
		return unsure(_('the last answer is %d seconds old').format(passed));

	const up = s.tunnels.filter(t => t.up);
	/* Whoever may go around the tunnel is named: else the sentence before would not be true. */
	const around = s.exempts.map(e => e.name).concat(s.port_forward_replies ? _('answers to port forwards') : []);
	const exempt = around.length ? ' ' + _('Exempt: %s.').format(list(around)) : '';
	/* The program puts warnings first that degrade. */
	const first = [ ...s.errors, ...s.differences, ...s.warnings.map(w => WARNINGS[w.code]?.[0] || w.message), '' ][0];

	switch (s.posture) {
	case 'protecting':
		return look('protecting', 'good', _('Protected'), (up.every(silent)
			? _('Your devices may leave only through %s, which does not answer at the moment.')
			: _('Your devices reach the internet through %s, and no other way.')).format(list(up.map(t => t.device))) + exempt);

	case 'blocking':
		return look('blocking', 'warn', _('Blocking'), _('No tunnel is up: your devices reach nothing outside.') +
			(since ? ' ' + _('Since %s.').format(since) : '') + exempt);

	case 'paused': {
		const running = pauses(s, known, passed);

		/* The kernel ends them; the next answer tells of it. */
		return look('paused', 'warn', _('Paused'), _('%s may go around the tunnel. Closes in %s.')
			.format(list(running.map(p => p.name)), clock(Math.max(0, ...running.map(p => p.left)))));
	}

	case 'disabled':
		return look('off', 'error', _('Off'), _('Every device is exposed.'));

	case 'degraded':
		return s.layers.some(l => l.installed)
			? look('degraded', 'error', _('Degraded'), first)
			: look('off', 'error', _('Open'), _('Nothing is in force: %s').format(first));
	}

	return stranger(s.posture);
}

const LAYERS = { netfilter: _('Firewall (nftables)'), routing: _('Routing rules') };

/* What a layer is, for people. */
function layer(l) {
	return {
		name: LAYERS[l.name] || l.name,
		tone: l.in_force ? 'good' : 'warn',
		state: l.in_force ? _('in force') : (l.installed ? _('incomplete') : _('not in force')),
		detail: l.detail
	};
}

/* Whether a tunnel's device is up while its far side does not answer. */
const silent = t => t.up && t.shakes_hands && (t.handshake_seconds_ago ?? Infinity) > HANDSHAKE_SECONDS;

/* What a tunnel does. A device that is up says nothing about the far side; a handshake does. */
function tunnel(t) {
	const shaken = t.handshake_seconds_ago;
	const problem = !t.exists ? _('does not exist') : (!t.up ? _('down') : (silent(t) ? _('up, but silent') : null));

	return { tone: problem ? 'warn' : 'good', state: problem || _('up'), handshake: !t.shakes_hands ? '-' : (shaken == null ? _('never') : ago(shaken)) };
}

function endpoint(e) {
	const only = [ [ e.source_port, _('from port %d') ], [ e.mark && '0x' + e.mark.toString(16), _('with mark %s') ], [ e.uid, _('of user %d') ] ];

	return {
		tone: e.resolved ? 'good' : 'warn',
		state: e.resolved ? list(e.addresses) : (e.problem ? _('not resolved: %s').format(e.problem) : _('not resolved yet')),
		transport: list([ e.proto + (e.port == null ? '' : ' ' + e.port), ...only.filter(o => o[0] != null).map(([ value, text ]) => text.format(value)) ])
	};
}

const CORRECT = _('Correct its name in the settings, or wait until it is there.');

/* Of what `status` warns: what it is, and what to do here. Its own message, with names, stands below. */
const WARNINGS = {
	'clock-early': [ _('The clock is wrong'), _('WireGuard waits for the right time: set it, or allow time servers in the settings.') ],
	'endpoint-unresolved': [ _('A VPN server has no address yet'), _('If it stays so, write an address in place of its name.') ],
	'endpoint-unsafe': [ _('A VPN server was left out'), _('Give the VPN a mark or a user of its own.') ],
	'endpoints-too-many': [ _('Too many VPN servers'), _('Take out those that are not used.') ],
	'exempt-dns': [ _('An exemption lets DNS out'), _('Name its devices, or take the port of DNS out.') ],
	'interface-unknown': [ _('An interface does not exist'), CORRECT ],
	'local-is-uplink': [ _('A local network is an uplink'), _('Take it out of the local networks: devices leave there without the tunnel.') ],
	'local-missing': [ _('A local network does not exist'), CORRECT ],
	'names-unpublished': [ _('The resolver could not be told'), _('Devices may not find VPN servers by name. Is the memory full?') ],
	'no-endpoint': [ _('No VPN server can be reached'), _('A tunnel that is down stays down: add its server in the settings, or let the router send more.') ],
	'not-at-boot': [ _('The router would start open'), _('Enable vpn-killswitch under System → Startup.') ],
	'not-surviving': [ _('A system upgrade would open the router'), _('Unplug the uplink for the next one.') ],
	'offload': [ _('Flow offloading is on'), _('Switch it off under Network → Firewall: connections of a pause may outlast it.') ],
	'shortcuts': [ _('Connections take a shortcut'), _('Switch shortcut forwarding off: those of before may go on.') ],
	'tunnel-is-uplink': [ _('A tunnel is not one'), _('Name the VPN\'s own device: what leaves by this one is not encrypted.') ],
	'user-unknown': [ _('A user does not exist'), CORRECT ],
	'vpn-unlisted': [ _('A VPN is not listed'), _('Add it to the tunnels if your devices are to use it.') ],
	'vpn-unreadable': [ _('A VPN configuration cannot be read'), _('Correct it, or list its servers in the settings.') ]
};

/* What a warning is and what to do. */
function warning(w) {
	const [ title, todo ] = WARNINGS[w.code] || [ _('Note'), '' ];

	return { code: w.code, tone: 'warn', title, todo, lines: [ w.message ] };
}

/* Everything that the user should know, the worst first. */
function warnings(s) {
	const wrong = (code, title, lines) => lines.length ? [ { code, tone: 'error', title, lines } ] : [];
	const out = [
		...wrong('error', _('The configuration has an error'), s.errors),
		...wrong('difference', _('The kernel differs'), s.differences),
		...s.warnings.map(warning)
	];

	if (s.enabled && s.unclassified.length)
		out.push({
			code: 'unclassified', tone: 'warn', title: _('A network is not classified'), todo: _('Add it to the local networks if it is yours.'),
			lines: [ _('%s: closed, because it is neither a tunnel nor a local network.').format(list(s.unclassified)) ]
		});
	if (s.enabled && s.tunnels.some(t => t.up) && addresses(s.locals).some(a => (/^[23][0-9a-f]{0,3}:/i.test(a))) && !addresses(s.tunnels).some(a => a.includes(':')))
		out.push({
			code: 'no-ipv6', tone: 'note', title: _('The tunnel has no IPv6'),
			lines: [ _('Your devices have IPv6 addresses, the tunnel has none: IPv6 is blocked, IPv4 works.') ]
		});

	return out;
}

/* Packets that passed and that were blocked, of all the counters. */
function counts(p) {
	return {
		passed: p.through_tunnel + p.exempt,
		blocked: p.refused_forward + p.refused_router + p.refused_dns + p.refused_inbound
	};
}

/* Packets per second between two readings { at, passed, blocked }; null when the counters began anew. */
function rate(before, now) {
	const per = what => (now[what] - before[what]) / (now.at - before.at);
	const out = { passed: per('passed'), blocked: per('blocked') };

	return now.at > before.at && out.passed >= 0 && out.blocked >= 0 ? out : null;
}

/* The end of an axis that holds `peak`: 1, 2 or 5 times a power of ten. */
function axis(peak) {
	const power = Math.pow(10, Math.floor(Math.log10(Math.max(1, peak))));

	return [ 1, 2, 5, 10 ].map(n => n * power).find(n => n >= peak);
}

/* What `explain` says, in the language of the page. */
function verdict(e) {
	const say = (state, tone, title, text) => look(state, tone, title, text.format(e.out));
	const home = text => say('protecting', 'good', _('It stays in the house'), text);
	const no = text => say('blocking', 'good', _('No'), text);
	const found = {
		refused: no(_('It does not get out.')),
		unreachable: no(_('The router has no way to send it.')),
		passes: {
			tunnel: say('protecting', 'good', _('Yes, through the tunnel'), _('It leaves through %s.')),
			local: home(_('It goes to the local network at %s.')),
			router: home(_('It is for the router itself.'))
		}[e.place] || say('off', 'error', _('Yes, around the tunnel'), _('It leaves by %s, in the clear.'))
	}[e.verdict] || stranger(e.verdict);
	const by = e.rule ? _('Rule %s, guarantee %s').format(e.rule, e.guarantee) : '';

	return { ...found, lines: [ by, e.reason, e.certain ? '' : _('This is not certain: see the notes.') ].filter(line => line) };
}

/* Mode strict without a server: switching on would keep the tunnel down. What to ask then, or null. */
function cutsItself(router, endpoints) {
	return (router || 'strict') == 'strict' && !endpoints?.some(e => e.resolved) ? [ ...WARNINGS['no-endpoint'], _('Switch on all the same') ] : null;
}

return baseclass.extend({
	clock, ago, list, addresses, hosts, clients, nameOf, pauses, banner, layer, tunnel, endpoint, warning, warnings,
	counts, rate, axis, verdict, cutsItself
});
