// A small web server that is LuCI to the page: the files of a LuCI checkout with the page laid over them, and LuCI's
// calls, answered by the real program behind rpcd's interface for programs, and by a UCI store of files.
//
// It runs in the router's network namespace. What the page does not call is not there.

import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { extname, join, normalize } from 'node:path';
import { APP, json, program, read } from './page.mjs';
import { catalogue } from './pot.mjs';

const TYPES = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.png': 'image/png' };
const GROUP = json(join(APP, 'root/usr/share/rpcd/acl.d/luci-app-vpn-killswitch.json'))['luci-app-vpn-killswitch'];

/** A UCI file as rpcd shows it: sections by name, in their order. */
export function parseUci(text) {
	const sections = {};
	let section = null, index = 0;

	for (const line of text.split('\n')) {
		const [ word, name, value ] = [ ...line.trim().matchAll(/'((?:[^']|'\\'')*)'|"([^"]*)"|([^\s'"#]\S*)|#.*/g) ]
			.map(m => (m[1]?.replaceAll(`'\\''`, `'`)) ?? m[2] ?? m[3]).filter(w => w !== undefined);

		if (word == 'config') {
			const id = value ?? `cfg${index}`;

			section = sections[id] = { '.anonymous': value === undefined, '.type': name, '.name': id, '.index': index++ };
		}
		else if (word == 'option')
			section[name] = value;
		else if (word == 'list')
			(section[name] ??= []).push(value);
	}

	return sections;
}

export function writeUci(sections) {
	const quote = value => `'${String(value).replaceAll(`'`, `'\\''`)}'`;

	return Object.values(sections).map(s => `\nconfig ${s['.type']}${s['.anonymous'] ? '' : ` ${quote(s['.name'])}`}\n` +
		Object.entries(s).filter(([ name ]) => name[0] != '.').map(([ name, value ]) =>
			[].concat(value).map(v => `\t${Array.isArray(value) ? 'list' : 'option'} ${name} ${quote(v)}\n`).join('')).join('')).join('');
}

/**
 * Starts it. `root` is the program's root directory, `hints` and `links` what the router knows of its network.
 * The answer has `state`: what a test turns while it runs (`fails`, `delay`, `readonly`, `calls`).
 */
export async function start({ luci, root, hints = {}, interfaces = [], devices = {}, language = null }) {
	const state = { fails: null, delay: 0, readonly: false, calls: [], running: 0, most: 0 };
	const config = join(root, 'etc/config/vpn-killswitch');
	const folders = [ join(APP, 'htdocs/luci-static'), ...[ 'modules/luci-base', 'modules/luci-mod-status', 'themes/luci-theme-bootstrap' ].map(m => join(luci, m, 'htdocs/luci-static')) ];
	let staged = null, changes = [];

	/** What rpcd does with a plug-in: arguments on its input, an answer on its output. */
	const plugin = (method, given) => new Promise(resolve => {
		const child = spawn(program(), [ '--root', root, '--platform', 'generic', 'rpcd', 'call', method ], { stdio: [ 'pipe', 'pipe', 'ignore' ] });
		let out = '';

		child.stdout.on('data', data => { out += data; });
		child.on('close', () => {
			try {
				resolve([ 0, JSON.parse(out) ]);
			}
			catch {
				resolve([ 2 ]);
			}
		});
		child.stdin.end(JSON.stringify({ ...given, ubus_rpc_session: '0'.repeat(32) }));
	});

	const sections = () => (staged ??= parseUci(read(config)));
	const uci = {
		get: ({ config: name }) => [ 0, { values: name == 'vpn-killswitch' ? sections() : {} } ],
		set({ section, values }) {
			Object.assign(sections()[section], values);
			changes.push(...Object.entries(values).map(([ option, value ]) => [ 'set', section, option, value ]));

			return [ 0 ];
		},
		add({ type, values }) {
			const id = `new${changes.length}`;

			sections()[id] = { '.anonymous': true, '.type': type, '.name': id, '.index': Object.keys(sections()).length, ...values };
			changes.push([ 'add', id, type ]);

			return [ 0, { section: id } ];
		},
		delete({ section, options }) {
			if (options)
				options.forEach(o => delete sections()[section][o]);
			else
				delete sections()[section];
			changes.push([ 'remove', section ]);

			return [ 0 ];
		},
		order: () => [ 0 ],
		changes: () => [ 0, { changes: changes.length ? { 'vpn-killswitch': changes } : {} } ]
	};
	const others = {
		session: { access: ({ function: right }) => [ 0, { access: right != 'write' || !state.readonly } ] },
		luci: { getFeatures: () => [ 0, {} ] },
		file: { list: ({ path }) => [ 0, { entries: path.endsWith('view/status/include') ? [ { type: 'file', name: '15_vpn-killswitch.js' } ] : [] } ] },
		network: { get_proto_handlers: () => [ 0, { static: {} } ] },
		'network.interface': { dump: () => [ 0, { interface: interfaces } ] },
		'luci-rpc': {
			getBoardJSON: () => [ 0, {} ], getWirelessDevices: () => [ 0, {} ], getNetworkDevices: () => [ 0, devices ],
			getHostHints: () => [ 0, hints ]
		}
	};

	/** As rpcd does: what is not granted is denied. Our own group decides about our own object and file. */
	const allowed = (object, method, given) => {
		const rights = state.readonly ? [ GROUP.read ] : [ GROUP.read, GROUP.write ];

		if (object == 'vpn-killswitch')
			return rights.some(r => r.ubus[object]?.includes(method));
		if (object == 'uci' && given.config == 'vpn-killswitch')
			return method == 'get' || rights.length > 1;

		return true;
	};

	const late = () => new Promise(resolve => setTimeout(resolve, state.delay));

	async function call(params) {
		const [ , object, method, given = {} ] = params;

		state.calls.push(`${object} ${method}`);

		if (!allowed(object, method, given))
			return { error: { code: -32002, message: 'Access denied' } };
		if (object == 'vpn-killswitch') {
			if (state.fails != null)
				return { result: [ state.fails ] };

			state.most = Math.max(state.most, ++state.running);
			await late();

			const result = await plugin(method, given);

			state.running--;

			return { result };
		}

		if (method == 'getHostHints')
			await late();

		const answer = object == 'uci' ? uci[method] : others[object]?.[method];

		return answer ? { result: answer(given) } : { error: { code: -32000, message: 'Object not found' } };
	}

	/** What procd's reload trigger does when uci commits. */
	const apply = () => new Promise(resolve => {
		writeFileSync(config, writeUci(sections()));
		[ staged, changes ] = [ null, [] ];
		spawn(program(), [ '--root', root, '--platform', 'generic', 'apply' ], { stdio: 'ignore' }).on('close', resolve);
	});

	function shell(path) {
		const env = {
			media: '/luci-static/bootstrap', resource: '/luci-static/resources', scriptname: '/cgi-bin/luci', pathinfo: '/admin/services/vpn-killswitch',
			documentroot: '/www', requestpath: [], dispatchpath: [], pollinterval: 5, ubuspath: '/ubus', sessionid: '0'.repeat(32), token: '0'.repeat(32),
			nodespec: { satisfied: true, readonly: state.readonly }, apply_rollback: 30, apply_holdoff: 1, apply_timeout: 5, apply_display: 0.5
		};

		return `<!DOCTYPE html><html lang="${language ?? 'en'}"><head><meta charset="utf-8"><title>OpenWrt</title>
<script>const q = matchMedia('(prefers-color-scheme: dark)'); document.documentElement.setAttribute('data-darkmode', q.matches);</script>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<link rel="stylesheet" href="/luci-static/bootstrap/cascade.css"><link rel="stylesheet" media="only screen and (max-device-width: 854px)" href="/luci-static/bootstrap/mobile.css">
<script src="/luci-static/resources/cbi.js"></script><script src="/translations.js"></script></head>
<body><header><a class="brand" href="/">OpenWrt</a><div id="indicators" class="pull-right"></div></header><div id="maincontent" class="container"><div id="tabmenu" style="display:none"></div>
<script src="/luci-static/resources/luci.js"></script><script>L = new LuCI(${JSON.stringify(env)});</script>
<div id="view"><div class="spinning"></div><script>L.require('ui').then(ui => ui.instantiateView('${path}'));</script></div></div></body></html>`;
	}

	/** The catalogue as LuCI's server sends it: texts by the hash that cbi.js makes of them. */
	const translations = () => {
		const texts = language ? [ ...catalogue(read(join(APP, `po/${language}/vpn-killswitch.po`))) ].map(([ id, { text } ]) => [ id, text ]) : [];

		return `window.TR = Object.fromEntries(${JSON.stringify(texts)}.map(([ id, text ]) => [ sfh(id), text ]));`;
	};

	const server = createServer(async (request, response) => {
		const url = new URL(request.url, 'http://router');
		const send = (code, type, body) => response.writeHead(code, { 'content-type': type }).end(body);
		let body = '';

		for await (const part of request)
			body += part;

		if (url.pathname.startsWith('/ubus')) {
			const asked = JSON.parse(body);
			const answer = async one => ({ jsonrpc: '2.0', id: one.id, ...(one.method == 'call' ? await call(one.params) : { result: {} }) });

			return send(200, 'application/json', JSON.stringify(Array.isArray(asked) ? await Promise.all(asked.map(answer)) : await answer(asked)));
		}
		if (url.pathname == '/translations.js')
			return send(200, 'text/javascript', translations());
		if (/\/admin\/uci\/apply_/.test(url.pathname)) {
			await apply();

			return send(200, 'application/json', JSON.stringify({ token: '0' }));
		}
		if (url.pathname.endsWith('/admin/uci/confirm'))
			return send(200, 'application/json', '{}');
		/* Who is connected from where: nobody says, as without the right to ask. */
		if (url.pathname == '/cgi-bin/cgi-exec')
			return send(200, 'text/plain', '');
		if (url.pathname.endsWith('/admin/menu'))
			return send(200, 'application/json', '{}');
		if (url.pathname.startsWith('/luci-static/')) {
			const path = folders.map(f => join(f, normalize(url.pathname.slice('/luci-static'.length)))).find(p => existsSync(p) && statSync(p).isFile());

			return path ? send(200, TYPES[extname(path)] ?? 'application/octet-stream', readFileSync(path)) : send(404, 'text/plain', 'not found');
		}
		if (url.pathname.startsWith('/view/'))
			return send(200, 'text/html; charset=utf-8', shell(url.pathname.slice('/view/'.length)));

		return send(404, 'text/plain', 'not found');
	});

	await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));

	/* What was collected and not applied is nobody's any more. */
	const forget = () => { [ staged, changes ] = [ null, [] ]; };

	return { state, forget, url: `http://127.0.0.1:${server.address().port}`, close: () => new Promise(resolve => { server.closeAllConnections(); server.close(resolve); }) };
}
