// The files of the package belong together: menu, rights, texts, translations, and what minifying leaves.

import test from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { APP, RESOURCES, TOP, files, json, load, parse, program, read, scripts, short, walk } from './page.mjs';
import { minify } from './jsmin.mjs';
import { TEMPLATE, catalogue, template, texts } from './pot.mjs';

const menu = json(join(APP, 'root/usr/share/luci/menu.d/luci-app-vpn-killswitch.json'));
const acl = json(join(APP, 'root/usr/share/rpcd/acl.d/luci-app-vpn-killswitch.json'));
const group = acl['luci-app-vpn-killswitch'];

/** The calls that the page can make: object and method. */
function declared() {
	const calls = [];

	load('vpn-killswitch/api.js', { rpc: { declare: ({ object, method }) => { calls.push(`${object} ${method}`); return () => null; } }, L: {}, E: () => null });

	return calls.sort();
}

const granted = rights => Object.entries(rights.ubus).flatMap(([ object, methods ]) => methods.map(m => `${object} ${m}`)).sort();

test('every call of the page is granted, and nothing more', () => {
	assert.deepEqual([ ...granted(group.read), ...granted(group.write) ].sort(), declared());
	assert.deepEqual(Object.keys(group).sort(), [ 'description', 'read', 'write' ]);
	assert.deepEqual([ Object.keys(group.read).sort(), Object.keys(group.write).sort() ], [ [ 'ubus', 'uci' ], [ 'ubus', 'uci' ] ]);
});

test('what only looks is a right to read, what changes is one to write', () => {
	assert.deepEqual(granted(group.read), [ 'luci-rpc getHostHints', 'vpn-killswitch explain', 'vpn-killswitch status' ]);
	assert.deepEqual(granted(group.write), [ 'disable', 'enable', 'pause', 'resume' ].map(m => `vpn-killswitch ${m}`));
});

test('calls are made in one file only, and each is used', () => {
	const source = scripts().filter(path => basename(path) != 'api.js').map(read).join('\n');

	assert.doesNotMatch(source, /require (rpc|fs|request|network|firewall)\b|rpc\.|XMLHttpRequest|fetch\(/);

	for (const call of declared().filter(c => c.startsWith('vpn-killswitch ')))
		assert.match(source, new RegExp(`\\bapi\\.${call.split(' ')[1]}\\b`), call);
});

test('the program has every method that the page calls, with its arguments', () => {
	const run = spawnSync(program(), [ 'rpcd', 'list' ], { encoding: 'utf8' });
	const methods = JSON.parse(run.stdout);

	load('vpn-killswitch/api.js', {
		L: {}, E: () => null, rpc: {
			declare({ object, method, params }) {
				if (object == 'vpn-killswitch')
					for (const name of params ?? [])
						assert.ok(name in methods[method], `${method} has no ${name}`);

				return () => null;
			}
		}
	});

	const whole = json(join(TOP, 'openwrt/files/usr/share/rpcd/acl.d/vpn-killswitch.json'))['vpn-killswitch'];

	assert.deepEqual([ ...whole.read.ubus['vpn-killswitch'], ...whole.write.ubus['vpn-killswitch'] ].sort(), Object.keys(methods).sort());
});

test('the only configuration that is touched is our own', () => {
	const named = new Set();

	for (const path of scripts())
		walk(parse(read(path)), node => {
			if (node.type != 'CallExpression' && node.type != 'NewExpression')
				return;

			const { object, property } = node.callee;

			if (object?.name == 'uci' || (object?.name == 'form' && property.name == 'Map'))
				named.add(node.arguments[0].value);
		});

	assert.deepEqual([ ...named ], group.read.uci);
	assert.deepEqual(group.write.uci, group.read.uci);
});

test('the menu leads to every page, and asks for the rights', () => {
	const pages = Object.values(menu).filter(e => e.action.type == 'view').map(e => e.action.path).sort();
	const views = files(join(RESOURCES, 'view/vpn-killswitch'), '.js').map(p => `vpn-killswitch/${basename(p, '.js')}`);

	assert.deepEqual(pages, views);
	assert.deepEqual(menu['admin/services/vpn-killswitch'].depends.acl, Object.keys(acl));
});

test('the template of translations is that of the sources (node luci-app/tests/pot.mjs --write)', () => {
	assert.equal(read(TEMPLATE), template());
});

for (const language of readdirSync(join(APP, 'po')).filter(name => name != 'templates'))
	test(`the translation ${language} is complete`, () => {
		const known = catalogue(read(join(APP, `po/${language}/vpn-killswitch.po`)));
		const holes = text => (text.match(/%(?:\.\d+)?[sdf]/g) ?? []);

		assert.deepEqual([ ...texts().keys() ].filter(id => !known.has(id)), [], 'missing');
		assert.deepEqual([ ...known.keys() ].filter(id => !texts().has(id)), [], 'of no use');

		for (const [ id, { text, fuzzy } ] of known) {
			assert.ok(text.trim() && !fuzzy, `'${id}' is not translated`);
			assert.deepEqual(holes(text), holes(id), `'${id}': the values stand in their order`);
			assert.equal(/^\s|\s$/.test(text), /^\s|\s$/.test(id), `'${id}'`);
		}
	});

test('there are the languages that are promised', () => {
	assert.deepEqual(readdirSync(join(APP, 'po')).sort(), [ 'de', 'templates', 'zh_Hans' ]);
});

/** The syntax without places. */
const shape = text => JSON.stringify(parse(text), (key, value) => [ 'start', 'end', 'range', 'loc', 'raw' ].includes(key) ? undefined : value);
const strip = path => {
	if (!process.env.JSMIN)
		return minify(read(path));

	const run = spawnSync(process.env.JSMIN, [], { input: read(path), encoding: 'utf8' });

	assert.equal(run.status, 0, `${short(path)}: ${run.stderr}`);

	return run.stdout;
};

test('minifying as LuCI does changes no meaning', () => {
	for (const path of scripts())
		assert.equal(shape(strip(path)), shape(read(path)), short(path));
});

test('all scripts together, and each page with what it loads, stay below 40 KB', () => {
	const limit = 40 * 1024;
	const size = paths => paths.reduce((n, p) => n + Buffer.byteLength(strip(p)), 0);
	const style = read(join(RESOURCES, 'vpn-killswitch/style.css')).replace(/\s+/g, ' ').length;

	assert.ok(size(scripts()) < limit, `all scripts: ${size(scripts())}`);

	for (const path of scripts().filter(p => p.includes('/view/'))) {
		const modules = [ ...read(path).matchAll(/^'require vpn-killswitch\.(\w+) as/gm) ].map(m => join(RESOURCES, `vpn-killswitch/${m[1]}.js`));

		assert.ok(modules.every(existsSync) && modules.length > 0);
		assert.ok(size([ path, ...modules ]) + style < limit, `${short(path)}: ${size([ path, ...modules ]) + style}`);
	}
});

test('every warning of the program has a title and what to do, and no other has', () => {
	const sources = files(join(TOP, 'src'), '.rs').filter(p => !/rpcd|explain/.test(p)).map(read).join('\n');
	const codes = new Set([ ...sources.matchAll(/code: "([a-z-]+)"/g) ].map(m => m[1]));
	const logic = load('vpn-killswitch/logic.js');

	assert.ok(codes.size > 10);

	for (const code of codes) {
		const { title, todo } = logic.warning({ code });

		assert.ok(title != 'Note' && todo, code);
	}

	assert.deepEqual([ ...read(join(RESOURCES, 'vpn-killswitch/logic.js')).matchAll(/^\t'([a-z-]+)': \[ _/gm) ].map(m => m[1]).filter(code => !codes.has(code)), []);
});
