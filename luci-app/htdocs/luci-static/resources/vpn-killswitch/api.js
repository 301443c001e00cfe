'use strict';
'require baseclass';
'require rpc';

/*
 * The program's ubus object, and the pieces that more than one page shows.
 *
 * A call that fails throws: neither rpc's failures nor the program's own errors look like an answer.
 */

function declare(method, params) {
	const call = rpc.declare({ object: 'vpn-killswitch', method, params, reject: true });

	return (...args) => call(...args).then(reply => {
		if (!L.isObject(reply))
			throw new Error(_('no answer'));

		if (L.isObject(reply.error)) {
			const error = new Error(reply.error.message);

			error.code = reply.error.code;
			error.lines = reply.error.lines || [ reply.error.message ];
			throw error;
		}

		return reply;
	}, error => {
		/* LuCI puts where it happened behind what happened. */
		throw new Error(String((error && error.message) || error).split('\n')[0]);
	});
}

const hostHints = rpc.declare({ object: 'luci-rpc', method: 'getHostHints', expect: { '': {} } });

/* Each state has a picture of another shape, so that nothing depends on colours. */
const SHIELD = 'M24 4 8 10v12c0 10 7 18 16 22 9-4 16-12 16-22V10Z';
const PICTURES = {
	protecting: [ SHIELD, 'm16 24 6 6 11-13' ],
	blocking: [ 'M24 4a20 20 0 1 0 0 40 20 20 0 0 0 0-40Z', 'M12 24h24' ],
	paused: [ 'M8 6h32v36H8Z', 'M19 15v18M29 15v18' ],
	off: [ 'M15 4h18l11 11v18L33 44H15L4 33V15Z', 'm16 16 16 16m0-16L16 32' ],
	degraded: [ 'M24 4 3 43h42Z', 'M24 18v12m0 5v2' ],
	unknown: [ 'M24 4a20 20 0 1 0 0 40 20 20 0 0 0 0-40Z', 'M18 19c0-8 12-8 12-1 0 5-6 5-6 10m0 5v2' ]
};

function svg(name, attrs, children) {
	const node = document.createElementNS('http://www.w3.org/2000/svg', name);

	for (const key in attrs)
		node.setAttribute(key, attrs[key]);

	(children || []).forEach(child => node.appendChild(child));

	return node;
}

function picture(state) {
	const [ outline, sign ] = PICTURES[state] || PICTURES.unknown;

	return svg('svg', { 'viewBox': '0 0 48 48', 'class': 'vks-picture', 'aria-hidden': 'true', 'focusable': 'false' }, [
		svg('path', { 'd': outline, 'class': 'vks-outline' }),
		svg('path', { 'd': sign, 'class': 'vks-sign' })
	]);
}

return baseclass.extend({
	status: declare('status'),
	explain: declare('explain', [ 'source', 'destination', 'protocol', 'port', 'device' ]),
	enable: declare('enable'),
	disable: declare('disable'),
	pause: declare('pause', [ 'duration', 'client' ]),
	resume: declare('resume', [ 'client' ]),

	/* Names of hosts are a comfort: without them addresses are shown. */
	hints() {
		return L.resolveDefault(hostHints(), {});
	},

	svg,

	style() {
		return E('link', { 'rel': 'stylesheet', 'href': L.resource('vpn-killswitch/style.css') });
	},

	/* `look` is what logic.banner() or logic.verdict() returned. */
	banner(look, small) {
		return E('div', { 'class': 'vks-banner vks-%s%s'.format(look.tone, small ? ' vks-small' : ''), 'data-state': look.state }, [
			picture(look.state),
			E('div', {}, [
				E(small ? 'strong' : 'h3', {}, [ look.title ]),
				E('p', {}, [ look.detail ])
			])
		]);
	},

	badge(tone, text) {
		return E('span', { 'class': 'vks-badge vks-%s'.format(tone) }, [ text ]);
	}
});
