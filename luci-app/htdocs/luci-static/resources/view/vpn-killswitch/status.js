'use strict';
'require view';
'require dom';
'require poll';
'require ui';
'require vpn-killswitch.api as api';
'require vpn-killswitch.logic as logic';

const { el, svg, table } = api;

const POLL_SECONDS = 5;
/* Names of hosts change seldom. */
const HINTS_SECONDS = 60;
/* Ten minutes of a reading every five seconds. */
const READINGS = 120;
/* More clients that were refused are counted and not listed. */
const CLIENTS = 25;
const PAUSES = [ 5, 15, 60 ];

/* What is shown only while it is known to be true, by the method that makes it. */
const SECTIONS = {
	tunnels: _('Tunnels'),
	blocked: _('Blocked for you'),
	graph: _('Packets per second'),
	endpoints: _('VPN servers'),
	layers: _('Layers')
};

const seconds = () => performance.now() / 1000;

return view.extend({
	/* Nothing is waited for: the page stands before the first answer. */
	render() {
		const seen = work => () => document.hidden ? Promise.resolve() : work.call(this);

		this.readonly = !L.hasViewPermission();
		this.known = logic.hosts({});
		this.rates = [];
		this.nodes = { banner: E('div', { role: 'status' }), controls: el('div', 'vks-controls'), pauses: el('div', 'vks-pauses'), warnings: el('div') };

		for (const name in SECTIONS)
			this.nodes[name] = E('div', { class: 'cbi-section', id: 'vks-' + name }, [ el('h3', '', SECTIONS[name]), el('div') ]);

		this.makeControls();
		this.refreshBanner();
		this.refreshHints();

		poll.add(seen(this.refresh), POLL_SECONDS);
		poll.add(seen(this.refreshHints), HINTS_SECONDS);
		/* Counts down, and notices when answers stay out: also while a call hangs. */
		window.setInterval(() => this.refreshBanner(), 1000);
		document.addEventListener('visibilitychange', seen(this.refresh));

		return api.page(_('VPN Kill Switch'), ...Object.values(this.nodes));
	},

	refreshHints() {
		return api.hints().then(hints => {
			this.known = logic.hosts(hints);
			this.fillClients();
		});
	},

	/* One call at a time: a slow router is not asked twice. */
	refresh() {
		return this.asking ??= api.status()
			.then(status => this.update(status), error => { this.error = error.message; })
			.finally(() => {
				this.asking = null;
				this.refreshBanner();
			});
	},

	update(status) {
		const reading = { at: seconds(), ...logic.counts(status.packets) };

		/* The kernel does not keep since when a tunnel is down; this page knows what it has seen. */
		if (status.posture != 'blocking')
			this.since = null;
		else if (this.status && this.status.posture != 'blocking')
			this.since = new Date().toLocaleTimeString();

		if (this.reading)
			this.rates = [ ...this.rates, logic.rate(this.reading, reading) ].slice(-READINGS);

		Object.assign(this, { status, reading, error: null });
		this.fillClients();
		dom.content(this.nodes.warnings, logic.warnings(status).map(w => E('div', { class: 'vks-warning vks-' + w.tone, 'data-code': w.code }, [
			el('strong', '', w.title), w.todo ? el('p', '', w.todo) : '', el('div', w.todo ? 'vks-hint' : '', api.paragraphs(w.lines))
		])));

		for (const name in SECTIONS)
			dom.content(this.nodes[name].lastElementChild, this[name](status));
	},

	/* What changed is written, and what only counts is not spoken: a screen reader would do it every second. */
	refreshBanner() {
		const passed = this.reading ? Math.floor(seconds() - this.reading.at) : 0;
		const look = logic.banner(Object.assign({ passed }, this), this.known), text = JSON.stringify(look);

		if (text != this.shown) {
			this.nodes.banner.setAttribute('aria-live', look.state == this.state && [ 'paused', 'unknown' ].includes(look.state) ? 'off' : 'polite');
			dom.content(this.nodes.banner, api.banner(look));
		}

		[ this.shown, this.state ] = [ text, look.state ];
		/* What was true is not shown as if it still were. */
		this.sure = look.state != 'unknown';

		for (const name of [ 'warnings', ...Object.keys(SECTIONS) ])
			this.nodes[name].style.display = this.sure ? '' : 'none';

		this.refreshControls();
		this.refreshPauses(passed);
	},

	button(name, classes, handler, ...args) {
		return E('button', { class: 'btn cbi-button ' + classes, click: ui.createHandlerFn(this, handler, ...args) }, [ name ]);
	},

	makeControls() {
		this.power = this.button(el('span', 'vks-track'), 'vks-switch', 'handlePower');
		this.power.setAttribute('role', 'switch');
		this.power.append(el('span'));
		this.client = E('select', { class: 'cbi-input-select', 'aria-label': _('Pause for') });
		this.pausers = [ this.client, ...PAUSES.map(minutes => this.button(_('%d min').format(minutes), '', 'handlePause', minutes)) ];
		this.reason = el('span', 'vks-hint');
		this.fillClients();
		dom.content(this.nodes.controls, [ this.power, el('span', '', _('Pause'), this.pausers), this.reason ]);
	},

	fillClients() {
		const chosen = this.client.value, clients = logic.clients(this.status, this.known), text = JSON.stringify(clients);

		/* A list that somebody has open stays as it is. */
		if (text == this.clients)
			return;

		this.clients = text;
		dom.content(this.client, [ { mac: '', label: _('All devices'), addrs: [] }, ...clients ].map(h =>
			E('option', { value: h.mac }, [ h.name ? '%s (%s)'.format(h.name, h.addrs[0]) : h.label ])));
		this.client.value = clients.some(h => h.mac == chosen) ? chosen : '';
	},

	/* A control that cannot be used says why. */
	refreshControls() {
		const on = this.sure && this.status.enabled;
		const why = this.readonly ? _('You may look at this and not change it.')
			: (!this.sure ? _('Waiting for the router.')
				: (!on ? _('Nothing to pause: protection is off.') : ''));

		this.power.setAttribute('aria-checked', String(on));
		this.power.lastElementChild.textContent = !this.sure ? _('Protection: unknown') : (on ? _('Protection is on') : _('Protection is off'));

		if (!this.busy) {
			this.power.disabled = this.readonly || !this.sure;
			this.pausers.forEach(node => node.disabled = why != '');
		}

		if (this.reason.textContent != why)
			this.reason.textContent = why;
	},

	refreshPauses(passed) {
		const running = this.sure ? logic.pauses(this.status, this.known, passed) : [];
		const names = JSON.stringify(running.map(p => p.what));
		const resume = (name, what) => Object.assign(this.button(name, 'cbi-button-positive', 'handleResume', what), { disabled: this.readonly });

		if (names != this.paused) {
			this.clocks = running.map(() => E('strong', { role: 'timer' }));
			this.paused = names;
			dom.content(this.nodes.pauses, running.map((p, n) => el('div', 'vks-controls',
				el('span', '', _('%s: closes in').format(p.name), this.clocks[n]),
				p.address ? resume(_('Close now'), p.what) : ''
			)).concat(running.length > 1 || running.some(p => !p.address) ? resume(_('End all pauses'), [ '' ]) : []));
		}

		running.forEach((p, n) => this.clocks[n].textContent = logic.clock(p.left));

		/* The kernel has ended one: look at once what is true now. */
		if (this.sure && this.status.pauses.length && !running.length)
			this.refresh();
	},

	/* Does something, then shows what is true, whether it worked or not. */
	async change(title, work) {
		this.busy = true;

		try {
			await work().catch(error => api.failed(title, error));
			/* A call that began before the change tells of before. */
			await this.asking;
			await this.refresh();
		}
		finally {
			this.busy = false;
			this.refreshBanner();
		}
	},

	async handlePower() {
		const s = this.status, cut = logic.cutsItself(s.router, s.endpoints);

		if (!s.enabled && (!cut || await api.ask(...cut)))
			await this.change(_('Protection could not be switched on'), async () => {
				for (const w of (await api.enable()).warnings.map(logic.warning))
					ui.addNotification(w.title, api.paragraphs([ w.todo, ...w.lines ]), 'warning');
			});
		else if (s.enabled && await api.ask(_('Switch protection off?'), _('Every device will reach the internet around the tunnel.'), _('Switch off')))
			await this.change(_('Protection could not be switched off'), api.disable);
	},

	handlePause(minutes) {
		return this.change(_('The pause was refused'), async () => {
			const results = [];

			/* A host has addresses that it no longer uses: one that can be paused is enough. */
			for (const client of this.known.all.find(h => h.mac == this.client.value)?.addrs || [ '' ])
				results.push(await api.pause(minutes + 'm', client).then(() => null, error => error));

			if (results.every(error => error))
				throw results[0];
		});
	},

	handleResume(what) {
		return this.change(_('The pause could not be ended'), async () => {
			for (const client of what)
				await api.resume(client);
		});
	},

	tunnels(status) {
		return table([ _('Device'), _('State'), _('Last handshake'), _('Addresses') ], status.tunnels.map(t => {
			const look = logic.tunnel(t);

			return [ t.device, api.badge(look), look.handshake, logic.list(logic.addresses([ t ])) || '-' ];
		}), _('No tunnel is configured.'));
	},

	endpoints(status) {
		return table([ _('Server'), _('Address'), _('Protocol'), _('Packets'), _('Found in') ], status.endpoints.map(e => {
			const look = logic.endpoint(e);

			return [ e.name == e.host ? e.host : '%s (%s)'.format(e.name, e.host), api.badge(look), look.transport, e.packets, e.source ];
		}), _('No VPN server is known.'));
	},

	layers(status) {
		return table([ _('Layer'), _('State'), _('Note') ], status.layers.map(logic.layer).map(l => [ l.name, api.badge(l), l.detail || '-' ]));
	},

	blocked({ blocked }) {
		const more = blocked.length - CLIENTS;

		return [ table([ _('Device'), _('Address'), _('Packets'), _('Last time') ], blocked.slice(0, CLIENTS).map(b => {
			const name = logic.nameOf(b.address, this.known);

			return [ name == b.address ? '-' : name, b.address, b.packets, logic.ago(b.seconds_ago) ];
		}), _('Nobody tried to get out around the tunnel.')), more > 0 ? el('p', '', _('and %d more').format(more)) : '' ];
	},

	graph() {
		const rates = this.rates, first = READINGS - rates.length;
		const lines = Object.entries({ passed: _('Passed'), blocked: _('Blocked') }).map(([ name, title ]) => {
			const all = rates.filter(r => r).map(r => r[name]);

			return { name, title, peak: Math.max(0, ...all), mean: all.reduce((a, b) => a + b, 0) / (all.length || 1), now: rates[rates.length - 1]?.[name] || 0 };
		});
		const top = logic.axis(Math.max(...lines.map(l => l.peak)));
		/* A gap where the counters began anew is a gap. */
		const points = name => rates.map((r, n) => r ? '%d,%.2f'.format(first + n, 100 - 100 * r[name] / top) : '').join(' ');

		return [
			svg('svg', {
				class: 'vks-graph', viewBox: '0 0 %d 100'.format(READINGS - 1), preserveAspectRatio: 'none', role: 'img',
				'aria-label': SECTIONS.graph
			}, ...[ 25, 50, 75 ].map(y => svg('line', { x2: READINGS, y1: y, y2: y })), ...lines.map(l => svg('polyline', { class: 'vks-' + l.name, points: points(l.name) }))),
			el('div', 'vks-axis vks-hint', [ _('%d s ago').format((READINGS - 1) * POLL_SECONDS), _('full height: %d').format(top), _('now') ].map(text => el('span', '', text))),
			table([ '', _('Now'), _('Average'), _('Peak') ], lines.map(l => [ el('strong', 'vks-key-' + l.name, l.title), ...[ l.now, l.mean, l.peak ].map(n => '%.1f'.format(n)) ]))
		];
	},

	addFooter() {}
});
