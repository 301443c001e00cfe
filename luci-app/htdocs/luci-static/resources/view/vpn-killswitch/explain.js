'use strict';
'require view';
'require dom';
'require ui';
'require vpn-killswitch.api as api';
'require vpn-killswitch.logic as logic';

function rows(pairs) {
	return E('table', { 'class': 'table' }, pairs.map(([ name, value ]) => E('tr', { 'class': 'tr' }, [
		E('td', { 'class': 'td left', 'style': 'width:33%' }, [ name ]),
		E('td', { 'class': 'td left' }, [ value ])
	])));
}

return view.extend({
	render() {
		const hosts = E('datalist', { 'id': 'vks-hosts' });
		const input = (name, attrs) => E('input', Object.assign({ 'type': 'text', 'class': 'cbi-input-text', 'name': name, 'autocomplete': 'off' }, attrs));
		const field = (title, node) => E('label', {}, [ title, node ]);

		this.source = input('source', { 'list': 'vks-hosts', 'placeholder': '192.168.1.7', 'required': '' });
		this.destination = input('destination', { 'placeholder': '192.0.2.1', 'required': '' });
		this.protocol = E('select', { 'class': 'cbi-input-select', 'name': 'protocol', 'change': () => this.fit() },
			[ 'tcp', 'udp', 'icmp', 'gre', 'esp' ].map(p => E('option', { 'value': p }, [ p ])));
		this.port = input('port', { 'value': '443', 'inputmode': 'numeric' });
		this.device = input('device', { 'placeholder': _('the one that leads to it') });
		this.result = E('div', { 'role': 'status', 'aria-live': 'polite' });

		/* Names are a comfort: the form does not wait for them. */
		api.hints().then(hints => dom.content(hosts, [
			E('option', { 'value': 'router' }, [ _('the router itself') ]),
			...[].concat(...logic.hosts(hints).all.map(h => h.addrs.map(a => E('option', { 'value': a }, [ logic.hostLabel(h) ]))))
		]));

		const button = E('button', { 'class': 'btn cbi-button cbi-button-action important', 'type': 'submit' }, [ _('Would this get out?') ]);

		return E('div', { 'class': 'cbi-map' }, [
			api.style(),
			E('h2', {}, [ _('Would this get out?') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Asks the rules and the routes that are in force now what they would do to the first packet of a connection. Nothing is sent.')
			]),
			E('form', { 'class': 'cbi-section vks-form', 'submit': ev => { ev.preventDefault(); this.ask(button); } }, [
				hosts,
				field(_('From'), this.source),
				field(_('To (an address)'), this.destination),
				field(_('Protocol'), this.protocol),
				field(_('Port'), this.port),
				field(_('Comes in by'), this.device),
				button
			]),
			this.result
		]);
	},

	ported() {
		return [ 'tcp', 'udp' ].indexOf(this.protocol.value) >= 0;
	},

	fit() {
		this.port.disabled = !this.ported();
	},

	ask(button) {
		const value = node => node.value.trim();

		button.disabled = true;

		return api.explain(value(this.source), value(this.destination), value(this.protocol), this.ported() ? value(this.port) : '', value(this.device))
			.then(answer => this.show(answer))
			.catch(error => dom.content(this.result, E('div', { 'class': 'alert-message error', 'role': 'alert' },
				(error.lines || [ error.message ]).map(line => E('p', {}, [ line ])))))
			.finally(() => { button.disabled = false; });
	},

	show(answer) {
		const look = logic.verdict(answer);
		const says = { passes: _('lets it pass'), refuses: _('refuses it'), nothing: _('is not asked') };

		dom.content(this.result, [
			api.banner(look),
			E('div', { 'class': 'cbi-section' }, [
				rows([
					...look.lines.map((line, n) => [ n ? '' : _('Why'), line ]),
					[ _('Way'), '%s → %s'.format(answer['in'] || _('the router itself'), answer.out || '-') ],
					...answer.layers.map(l => [ logic.layer(l).name, l.in_force || l.says != 'nothing' ? says[l.says] : _('not in force') ]),
					...answer.notes.map(note => [ _('Note'), note.message ])
				])
			]),
			answer.steps.length ? E('details', { 'class': 'cbi-section' }, [
				E('summary', {}, [ _('Rules that it met') ]),
				E('table', { 'class': 'table' }, [
					E('tr', { 'class': 'tr table-titles' }, [ _('Chain'), _('Rule'), _('Guarantee'), _('For'), _('Decision') ].map(t => E('th', { 'class': 'th' }, [ t ]))),
					...answer.steps.map(s => E('tr', { 'class': 'tr' }, [ s.chain, s.rule, s.guarantee, s.comment, s.verdict || '-' ].map(c => E('td', { 'class': 'td' }, [ c ]))))
				])
			]) : ''
		]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
