// The template of translations: every text of the page, from its syntax. `node pot.mjs --write` writes it.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { APP, files, json, parse, read, scripts, short, walk } from './page.mjs';

export const TEMPLATE = join(APP, 'po/templates/vpn-killswitch.pot');

/** Texts with the files that have them. What is no plain text cannot be translated, and is an error. */
export function texts() {
	const found = new Map();
	const add = (text, path) => found.set(text, (found.get(text) ?? new Set()).add(short(path)));

	for (const path of scripts())
		walk(parse(read(path)), node => {
			if (node.type != 'CallExpression' || node.callee.name != '_')
				return;

			const [ text, ...more ] = node.arguments;

			if (text?.type != 'Literal' || typeof text.value != 'string' || more.length)
				throw new Error(`${short(path)}: _() wants one text in quotes, at ${read(path).slice(node.start, node.start + 60)}`);

			add(text.value, path);
		});

	for (const path of files(join(APP, 'root/usr/share/luci/menu.d'), '.json'))
		Object.values(json(path)).forEach(entry => add(entry.title, path));
	for (const path of files(join(APP, 'root/usr/share/rpcd/acl.d'), '.json'))
		Object.values(json(path)).forEach(group => add(group.description, path));

	return found;
}

const quote = text => JSON.stringify(text);

export function template() {
	const entries = [ ...texts() ].sort(([ a ], [ b ]) => (a < b ? -1 : 1));
	const lines = entries.map(([ text, paths ]) => `${[ ...paths ].sort().map(p => `#: ${p}\n`).join('')}msgid ${quote(text)}\nmsgstr ""\n`);

	return `msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8"\n\n${lines.join('\n')}`;
}

/** The entries of a catalogue. */
export function catalogue(text) {
	const out = new Map();
	let id = null, into = null, fuzzy = false;

	for (const line of text.split('\n')) {
		const [ , word, quoted ] = /^(?:(msgid|msgstr) )?(".*")$/.exec(line) ?? [];

		if (/^#,.*fuzzy/.test(line))
			fuzzy = true;
		if (quoted === undefined)
			continue;
		if (word == 'msgid') {
			id = '';
			into = 'id';
		}
		else if (word == 'msgstr') {
			if (out.has(id))
				throw new Error(`twice: ${id}`);

			out.set(id, { text: '', fuzzy });
			[ into, fuzzy ] = [ 'text', false ];
		}

		if (into == 'id')
			id += JSON.parse(quoted);
		else
			out.get(id).text += JSON.parse(quoted);
	}

	out.delete('');

	return out;
}

if (import.meta.url == pathToFileURL(process.argv[1]).href)
	process.argv[2] == '--write' ? writeFileSync(TEMPLATE, template()) : process.stdout.write(template());
