'use strict';
'require baseclass';
'require rpc';
'require ui';

/*
 * The program's ubus object, and the pieces that more than one page shows.
 *
 * A call that fails throws: neither rpc's failures nor the program's own errors look like an answer. What is thrown
 * has `lines` to show.
 */

function failure(message, lines = [ message ]) {
	return Object.assign(new Error(message), { lines });
}

function declare(method, ...params) {
	const call = rpc.declare({ object: 'vpn-killswitch', method, params, reject: true });

	return (...args) => call(...args).then(reply => {
		if (!L.isObject(reply))
			throw failure(_('no answer'));
		if (reply.error)
			throw failure(reply.error.message, reply.error.lines);

		return reply;
	}, error => {
		/* LuCI puts where it happened behind what happened. */
		throw failure(String(error?.message || error).split('\n')[0]);
	});
}

const hostHints = rpc.declare({ object: 'luci-rpc', method: 'getHostHints', expect: { '': {} } });

/* Each state has a picture of another shape, so that nothing depends on colours. */
const ROUND = 'M24 4a20 20 0 1 0 0 40 20 20 0 0 0 0-40Z';
const PICTURES = {
	protecting: [ 'M24 4 8 10v12c0 10 7 18 16 22 9-4 16-12 16-22V10Z', 'm16 24 6 6 11-13' ],
	blocking: [ ROUND, 'M12 24h24' ],
	paused: [ 'M8 6h32v36H8Z', 'M19 15v18M29 15v18' ],
	off: [ 'M15 4h18l11 11v18L33 44H15L4 33V15Z', 'm16 16 16 16m0-16L16 32' ],
	degraded: [ 'M24 4 3 43h42Z', 'M24 18v12m0 5v2' ],
	unknown: [ ROUND, 'M18 19c0-8 12-8 12-1 0 5-6 5-6 10m0 5v2' ]
};

/* A node with classes and children: nodes, texts, lists of them. */
function el(tag, classes, ...children) {
	return E(tag, classes ? { class: classes } : {}, children.flat());
}

function svg(tag, attrs, ...children) {
	const node = document.createElementNS('http://www.w3.org/2000/svg', tag);

	for (const key in attrs)
		node.setAttribute(key, attrs[key]);

	node.append(...children);

	return node;
}

function paragraphs(lines) {
	return lines.map(line => el('p', '', line));
}

return baseclass.extend({
	status: declare('status'),
	explain: declare('explain', 'source', 'destination', 'protocol', 'port', 'device'),
	enable: declare('enable'),
	disable: declare('disable'),
	pause: declare('pause', 'duration', 'client'),
	resume: declare('resume', 'client'),

	/* Names of hosts are a comfort: without them addresses are shown. */
	hints() {
		return L.resolveDefault(hostHints(), {});
	},

	el, svg, paragraphs,

	/* A page: `children` below its title. */
	page(title, ...children) {
		return el('div', 'cbi-map', this.style(), title ? el('h2', '', title) : '', ...children);
	},

	style() {
		return E('link', { rel: 'stylesheet', href: L.resource('vpn-killswitch/style.css') });
	},

	/* `look` is what logic.banner() or logic.verdict() returned. */
	banner(look, small) {
		const [ outline, sign ] = PICTURES[look.state];

		return E('div', { class: 'vks-banner vks-%s%s'.format(look.tone, small ? ' vks-small' : ''), 'data-state': look.state }, [
			svg('svg', { viewBox: '0 0 48 48', class: 'vks-picture', 'aria-hidden': 'true' },
				svg('path', { d: outline, class: 'vks-outline' }), svg('path', { d: sign, class: 'vks-sign' })),
			el('div', '', el(small ? 'strong' : 'h3', '', look.title), el('p', '', look.detail))
		]);
	},

	badge(look) {
		return el('span', 'vks-badge vks-' + look.tone, look.state);
	},

	/* Rows below their heads, or what is said in their place. */
	table(heads, rows, empty) {
		return el('table', 'table vks-table',
			el('tr', 'tr table-titles', heads.map(h => E('th', { class: 'th', scope: 'col' }, [ h ]))),
			rows.map(row => el('tr', 'tr', row.map((cell, n) => E('td', { class: 'td', 'data-title': heads[n] }, [ cell ])))),
			rows.length ? '' : el('tr', 'tr placeholder', E('td', { class: 'td', colspan: heads.length }, [ el('em', '', empty) ])));
	},

	failed(title, error) {
		ui.addNotification(title, paragraphs(error.lines), 'error');
	},

	/* Asks before what opens or cuts; the first button is to leave everything as it is. */
	ask(title, text, yes) {
		return new Promise(resolve => {
			const button = (answer, classes, name) => E('button', { class: 'btn cbi-button ' + classes, click: () => { ui.hideModal(); resolve(answer); } }, [ name ]);

			ui.showModal(title, [
				el('p', '', text),
				el('div', 'right', button(false, '', _('Cancel')), ' ', button(true, 'cbi-button-negative important', yes))
			]);
			document.querySelector('#modal_overlay button').focus();
		});
	}
});
