// What the tests know of the page: its files, and its pure modules run outside of a browser.

import { readFileSync, readdirSync, existsSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

export const HERE = dirname(fileURLToPath(import.meta.url));
export const APP = dirname(HERE);
export const TOP = dirname(APP);
export const RESOURCES = join(APP, 'htdocs/luci-static/resources');
export const PROGRAM = process.env.PROGRAM ?? join(TOP, 'target/debug/vpn-killswitch');

/** All files below a folder whose names end like this. */
export function files(folder, ending) {
	return readdirSync(folder, { recursive: true, withFileTypes: true })
		.filter(e => e.isFile() && e.name.endsWith(ending))
		.map(e => join(e.parentPath ?? e.path, e.name)).sort();
}

export const scripts = () => files(join(APP, 'htdocs'), '.js');
export const read = path => readFileSync(path, 'utf8');
export const json = path => JSON.parse(read(path));
export const short = path => relative(APP, path);

/** The program must be there: a test that cannot run is no test that passed. */
export function program() {
	if (!existsSync(PROGRAM))
		throw new Error(`${PROGRAM} is missing: run cargo build, or name it with PROGRAM=`);

	return PROGRAM;
}

/** The syntax tree, as LuCI's loader takes a file: the body of a function. */
export function parse(text) {
	return require('espree').parse(text, { ecmaVersion: 2022, ecmaFeatures: { globalReturn: true } });
}

/** Calls `visit` with every node. */
export function walk(node, visit) {
	if (Array.isArray(node))
		return node.forEach(n => walk(n, visit));
	if (!node || typeof node.type != 'string')
		return;

	visit(node);
	Object.values(node).forEach(child => walk(child, visit));
}

/** LuCI's format(), as far as the page uses it. */
export function format(...args) {
	return String(this).replace(/%(?:0(\d))?(?:\.(\d+))?([sdf%])/g, (all, width, digits, kind) => {
		if (kind == '%')
			return '%';

		const value = args.shift();

		return (kind == 's' ? String(value) : (kind == 'd' ? String(Math.trunc(+value)) : (+value).toFixed(digits ?? 6))).padStart(width ?? 0, '0');
	});
}

/** What a module returns, with these globals and everything untranslated. */
export function load(path, globals = {}) {
	if (!String.prototype.format)
		Object.defineProperty(String.prototype, 'format', { value: format });

	const all = { _: text => text, baseclass: { extend: members => members }, ...globals };

	return new Function(...Object.keys(all), read(join(RESOURCES, path)))(...Object.values(all));
}
