'use strict';
'require view';
'require dom';
'require poll';
'require ui';
'require vpn-killswitch.api as api';
'require vpn-killswitch.logic as logic';

const POLL_SECONDS = 5;
/* Names of hosts change seldom. */
const HINTS_SECONDS = 60;
/* Ten minutes of a reading every five seconds. */
const READINGS = 120;
/* More clients that were refused are counted and not listed. */
const CLIENTS = 25;
const PAUSES = [ 5, 15, 60 ];

function seconds() {
	return performance.now() / 1000;
}

/* Nothing is shown in it before it is known. */
function section(title, id) {
	return E('div', { 'class': 'cbi-section', 'id': id, 'style': 'display:none' }, [ E('h3', {}, [ title ]), E('div') ]);
}

function table(heads, rows, empty) {
	return E('table', { 'class': 'table' }, [
		E('tr', { 'class': 'tr table-titles' }, heads.map(h => E('th', { 'class': 'th', 'scope': 'col' }, [ h ]))),
		...(rows.length
			? rows.map(row => E('tr', { 'class': 'tr' }, row.map((cell, n) => E('td', { 'class': 'td', 'data-title': heads[n] }, [ cell ]))))
			: [ E('tr', { 'class': 'tr placeholder' }, [ E('td', { 'class': 'td', 'colspan': heads.length }, [ E('em', {}, [ empty ]) ]) ]) ])
	]);
}

function failed(title, error) {
	ui.addNotification(title, E('div', {}, (error.lines || [ error.message ]).map(line => E('p', {}, [ line ]))), 'error');
}

return view.extend({
	/* Nothing is waited for: the page stands before the first answer. */
	render() {
		this.readonly = !L.hasViewPermission();
		this.known = logic.hosts({});
		this.rates = [];
		this.nodes = {
			banner: E('div', { 'role': 'status', 'aria-live': 'polite' }),
			controls: E('div', { 'class': 'vks-controls' }),
			pauses: E('div'),
			warnings: E('div'),
			tunnels: section(_('Tunnels'), 'vks-tunnels'),
			blocked: section(_('Blocked for you'), 'vks-blocked'),
			graph: section(_('Packets per second'), 'vks-graph'),
			endpoints: section(_('VPN servers'), 'vks-endpoints'),
			layers: section(_('Layers'), 'vks-layers')
		};

		this.makeControls();
		this.refreshBanner();
		this.refreshHints();

		poll.add(() => document.hidden ? Promise.resolve() : this.refresh(), POLL_SECONDS);
		poll.add(() => document.hidden ? Promise.resolve() : this.refreshHints(), HINTS_SECONDS);
		/* Counts down, and notices when answers stay out: also while a call hangs. */
		window.setInterval(() => this.refreshBanner(), 1000);
		document.addEventListener('visibilitychange', () => document.hidden || this.refresh());

		return E('div', { 'class': 'cbi-map' }, [
			api.style(),
			E('h2', {}, [ _('VPN Kill Switch') ]),
			...Object.keys(this.nodes).map(name => this.nodes[name])
		]);
	},

	refreshHints() {
		return api.hints().then(hints => {
			this.known = logic.hosts(hints);
			this.fillClients();
		});
	},

	/* One call at a time: a slow router is not asked twice. */
	refresh() {
		if (!this.asking)
			this.asking = api.status()
				.then(status => this.update(status), error => { this.error = error.message; })
				.finally(() => {
					this.asking = null;
					this.refreshBanner();
				});

		return this.asking;
	},

	update(status) {
		const reading = { at: seconds(), counts: logic.counts(status.packets) };

		/* The kernel does not keep since when a tunnel is down; this page knows what it has seen. */
		if (status.posture != 'blocking')
			this.since = null;
		else if (this.status && this.status.posture != 'blocking')
			this.since = new Date().toLocaleTimeString();

		if (this.reading && status.packets)
			this.rates.push(logic.rate(this.reading, reading));

		this.rates = this.rates.slice(-READINGS);
		[ this.status, this.reading, this.error ] = [ status, reading, null ];

		this.fillClients();
		this.showWarnings(status);
		this.show('tunnels', this.tunnelTable(status));
		this.show('blocked', this.blockedTable(status));
		this.show('graph', this.graph());
		this.show('endpoints', this.endpointTable(status));
		this.show('layers', this.layerTable(status));
	},

	show(name, content) {
		dom.content(this.nodes[name].lastElementChild, content);
	},

	/* What changed is written, and what only counts is not spoken: a screen reader would do it every second. */
	refreshBanner() {
		const passed = this.reading ? Math.floor(seconds() - this.reading.at) : 0;
		const look = logic.banner({ status: this.status, passed, error: this.error, since: this.since }, this.known);
		const text = JSON.stringify(look);

		if (text != this.shown) {
			const counts = look.state == this.state && [ 'paused', 'unknown' ].indexOf(look.state) >= 0;

			this.nodes.banner.setAttribute('aria-live', counts ? 'off' : 'polite');
			dom.content(this.nodes.banner, api.banner(look));
		}

		[ this.shown, this.state ] = [ text, look.state ];
		/* What was true is not shown as if it still were. */
		this.sure = look.state != 'unknown' && this.status != null;

		for (const name of [ 'tunnels', 'blocked', 'graph', 'endpoints', 'layers', 'warnings' ])
			this.nodes[name].style.display = this.sure ? '' : 'none';

		this.refreshControls();
		this.refreshPauses(passed);
	},

	makeControls() {
		this.power = E('button', {
			'class': 'btn cbi-button vks-switch', 'role': 'switch', 'aria-checked': 'false',
			'click': ui.createHandlerFn(this, 'handlePower')
		}, [ E('span', { 'class': 'vks-track', 'aria-hidden': 'true' }), E('span') ]);
		this.client = E('select', { 'class': 'cbi-input-select', 'aria-label': _('Pause for') });
		this.pauseButtons = PAUSES.map(minutes => E('button', {
			'class': 'btn cbi-button', 'click': ui.createHandlerFn(this, 'handlePause', minutes)
		}, [ _('%d min').format(minutes) ]));
		this.reason = E('span', { 'class': 'vks-hint' });

		dom.content(this.nodes.controls, [
			this.power,
			E('span', {}, [ E('span', {}, [ _('Pause') ]), this.client, ...this.pauseButtons ]),
			this.reason
		]);
		this.fillClients();
	},

	fillClients() {
		const chosen = this.client.value, clients = logic.clients(this.status, this.known);
		const names = JSON.stringify(clients);

		/* A list that somebody has open stays as it is. */
		if (names == this.clients)
			return;

		this.clients = names;

		dom.content(this.client, [
			E('option', { 'value': '' }, [ _('All devices') ]),
			...clients.map(h => E('option', { 'value': h.mac }, [
				h.name ? '%s (%s)'.format(h.name, h.addrs[0]) : h.addrs[0]
			]))
		]);
		this.client.value = clients.some(h => h.mac == chosen) ? chosen : '';
	},

	/* A control that cannot be used says why. */
	refreshControls() {
		const on = this.sure && this.status.enabled;
		let why = '';

		if (this.readonly)
			why = _('You may look at this and not change it.');
		else if (!this.sure)
			why = _('Waiting for the router.');
		else if (!on)
			why = _('There is nothing to pause while protection is off.');

		this.power.setAttribute('aria-checked', String(on));
		this.power.lastElementChild.textContent = !this.sure ? _('Protection: unknown') : (on ? _('Protection is on') : _('Protection is off'));

		if (!this.busy) {
			this.power.disabled = this.readonly || !this.sure;
			[ this.client, ...this.pauseButtons ].forEach(node => node.disabled = why != '');
		}

		if (this.reason.textContent != why)
			this.reason.textContent = why;
	},

	refreshPauses(passed) {
		const running = this.sure ? logic.pauses(this.status, this.known, passed) : [];
		const names = JSON.stringify(running.map(p => p.what));

		if (names != this.paused) {
			this.clocks = running.map(() => E('strong', { 'role': 'timer' }));
			dom.content(this.nodes.pauses, running.map((p, n) => E('div', { 'class': 'vks-controls' }, [
				E('span', {}, [ E('span', {}, [ _('%s: closes in').format(p.name) ]), this.clocks[n] ]),
				p.address ? this.resumeButton(_('Close now'), p.what) : ''
			])).concat(running.length > 1 || running.some(p => !p.address) ? [ this.resumeButton(_('End all pauses'), [ '' ]) ] : []));
			this.paused = names;
		}

		running.forEach((p, n) => this.clocks[n].textContent = logic.clock(p.left));

		/* The kernel has ended one: look at once what is true now. */
		if (this.sure && this.status.pauses.length && !running.length)
			this.refresh();
	},

	resumeButton(text, what) {
		return E('button', {
			'class': 'btn cbi-button cbi-button-positive', 'disabled': this.readonly || null,
			'click': ui.createHandlerFn(this, 'handleResume', what)
		}, [ text ]);
	},

	/* Does something, then shows what is true, whether it worked or not. */
	change(title, work) {
		this.busy = true;

		return work()
			.catch(error => failed(title, error))
			/* A call that began before the change tells of before. */
			.then(() => this.asking)
			.then(() => this.refresh())
			.finally(() => {
				this.busy = false;
				this.refreshBanner();
			});
	},

	ask(title, text, yes, work) {
		return new Promise(resolve => {
			ui.showModal(title, [
				E('p', {}, [ text ]),
				E('div', { 'class': 'right' }, [
					E('button', { 'class': 'btn cbi-button', 'click': () => { ui.hideModal(); resolve(); } }, [ _('Cancel') ]),
					' ',
					E('button', { 'class': 'btn cbi-button cbi-button-negative important', 'click': () => { ui.hideModal(); resolve(work()); } }, [ yes ])
				])
			]);
			document.querySelector('#modal_overlay button').focus();
		});
	},

	handlePower() {
		const off = () => this.change(_('Protection could not be switched off'), () => api.disable());
		const on = () => this.change(_('Protection could not be switched on'), () => api.enable().then(done => {
			for (const w of done.warnings)
				ui.addNotification(logic.warningTitle(w.code), E('p', {}, [ w.message ]), 'warning');
		}));

		if (this.status.enabled)
			return this.ask(_('Switch protection off?'), _('Every device will reach the internet around the tunnel, until you switch protection on again.'), _('Switch off'), off);
		if (logic.cutsItself(this.status.router, this.status.endpoints))
			return this.ask(_('The tunnel could not come up'), _('No address of a VPN server is known, and the router itself may reach nothing else: a tunnel that is down stays down. Add the server in the settings first, or let the router send more.'), _('Switch on all the same'), on);

		return on();
	},

	handlePause(minutes) {
		const host = this.known.all.find(h => h.mac == this.client.value);
		const clients = host ? host.addrs : [ '' ];

		return this.change(_('The pause was refused'), () => {
			/* A host has addresses that it no longer uses: one that can be paused is enough. */
			const tries = clients.reduce((before, client) => before.then(results =>
				api.pause('%dm'.format(minutes), client).then(() => results.concat(null), error => results.concat(error))
			), Promise.resolve([]));

			return tries.then(results => {
				if (results.every(error => error))
					throw results[0];
			});
		});
	},

	handleResume(what) {
		return this.change(_('The pause could not be ended'), () =>
			what.reduce((before, client) => before.then(() => api.resume(client)), Promise.resolve()));
	},

	showWarnings(status) {
		const settings = L.url('admin/services/vpn-killswitch/settings');

		dom.content(this.nodes.warnings, logic.warnings(status).map(w => E('div', { 'class': 'vks-warning vks-%s'.format(w.tone), 'data-code': w.code }, [
			E('strong', {}, [ w.title ]),
			E('p', {}, [ w.text ]),
			w.code == 'unclassified' ? E('a', { 'href': settings }, [ _('Open the settings') ]) : ''
		])));
	},

	tunnelTable(status) {
		return table([ _('Device'), _('State'), _('Last handshake'), _('Addresses') ], status.tunnels.map(t => {
			const look = logic.tunnel(t);

			return [ t.device, api.badge(look.tone, look.state), look.handshake, t.addresses.filter(a => a.indexOf('fe80') != 0).join(', ') || '-' ];
		}), _('No tunnel is configured.'));
	},

	endpointTable(status) {
		return table([ _('Server'), _('Address'), _('Protocol'), _('Packets'), _('Found in') ], status.endpoints.map(e => {
			const look = logic.endpoint(e);

			return [ e.name == e.host ? e.host : '%s (%s)'.format(e.name, e.host), api.badge(look.tone, look.state), look.transport, String(e.packets), e.source ];
		}), _('No VPN server is known.'));
	},

	layerTable(status) {
		return table([ _('Layer'), _('State'), _('Note') ], status.layers.map(l => {
			const look = logic.layer(l);

			return [ look.name, api.badge(look.tone, look.state), look.detail || '-' ];
		}), '');
	},

	blockedTable(status) {
		const shown = status.blocked.slice(0, CLIENTS), more = status.blocked.length - shown.length;

		return [ table([ _('Device'), _('Address'), _('Packets'), _('Last time') ], shown.map(b => {
			const name = logic.nameOf(b.address, this.known);

			return [ name == b.address ? '-' : name, b.address, String(b.packets), logic.ago(b.seconds_ago) ];
		}), _('Nobody tried to get out around the tunnel.')), more ? E('p', {}, [ _('and %d more').format(more) ]) : '' ];
	},

	graph() {
		const lines = [ 'passed', 'blocked' ];
		const numbers = line => this.rates.filter(r => r).map(r => r[line]);
		const peak = line => Math.max(0, ...numbers(line));
		const top = logic.axis(Math.max(...lines.map(peak)));
		const first = READINGS - this.rates.length;
		/* A gap where the counters began anew is a gap. */
		const points = line => this.rates.map((r, n) => r ? '%d,%.2f'.format(first + n, 100 - 100 * r[line] / top) : null).filter(p => p).join(' ');
		const now = this.rates[this.rates.length - 1];
		const row = (line, title) => {
			const all = numbers(line), mean = all.length ? all.reduce((a, b) => a + b, 0) / all.length : 0;

			return E('tr', { 'class': 'tr' }, [
				E('td', { 'class': 'td' }, [ E('strong', { 'class': 'vks-key-' + line }, [ title ]) ]),
				...[ [ _('Now'), now ? now[line] : 0 ], [ _('Average'), mean ], [ _('Peak'), peak(line) ] ]
					.map(([ what, n ]) => E('td', { 'class': 'td' }, [ '%s %.1f'.format(what, n) ]))
			]);
		};

		return [
			api.svg('svg', {
				'class': 'vks-graph', 'viewBox': '0 0 %d 100'.format(READINGS - 1), 'preserveAspectRatio': 'none', 'role': 'img',
				'aria-label': _('Packets per second of the last ten minutes')
			}, [ 25, 50, 75 ].map(y => api.svg('line', { 'x1': 0, 'x2': READINGS, 'y1': y, 'y2': y }))
				.concat(lines.map(line => api.svg('polyline', { 'class': 'vks-' + line, 'points': points(line) })))),
			E('div', { 'class': 'vks-axis vks-hint' }, [
				E('span', {}, [ _('%d s ago').format((READINGS - 1) * POLL_SECONDS) ]),
				E('span', {}, [ _('full height: %d').format(top) ]),
				E('span', {}, [ _('now') ])
			]),
			E('table', { 'class': 'table' }, [ row('passed', _('Passed')), row('blocked', _('Blocked')) ])
		];
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
