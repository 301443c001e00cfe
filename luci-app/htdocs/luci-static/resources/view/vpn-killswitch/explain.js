'use strict';
'require view';
'require dom';
'require vpn-killswitch.api as api';
'require vpn-killswitch.logic as logic';

const { el } = api;
const SAYS = { passes: _('lets it pass'), refuses: _('refuses it'), nothing: _('is not asked') };

return view.extend({
	render() {
		const hosts = E('datalist', { id: 'vks-hosts' });
		const input = (name, attrs) => this[name] = E('input', { type: 'text', class: 'cbi-input-text', name, autocomplete: 'off', ...attrs });

		this.protocol = E('select', { class: 'cbi-input-select', name: 'protocol', change: () => { this.port.disabled = ![ 'tcp', 'udp' ].includes(this.protocol.value); } },
			[ 'tcp', 'udp', 'icmp', 'gre', 'esp' ].map(p => el('option', '', p)));
		this.button = E('button', { class: 'btn cbi-button cbi-button-action important', type: 'submit' }, [ _('Would this get out?') ]);
		this.result = E('div', { role: 'status' });

		/* Names are a comfort: the form does not wait for them. */
		api.hints().then(hints => dom.content(hosts, [ [ 'router', _('the router itself') ], ...logic.hosts(hints).all.flatMap(h => h.addrs.map(a => [ a, h.label ])) ]
			.map(([ value, label ]) => E('option', { value }, [ label ]))));

		return api.page(_('Would this get out?'),
			el('div', 'cbi-map-descr', _('What the rules and routes in force would do to the first packet of a connection. Nothing is sent.')),
			E('form', { class: 'cbi-section vks-form', submit: ev => { ev.preventDefault(); this.ask(); } }, [
				hosts,
				...[
					[ _('From'), input('source', { list: 'vks-hosts', placeholder: '192.168.1.7', required: '' }) ],
					[ _('To (an address)'), input('destination', { placeholder: '192.0.2.1', required: '' }) ],
					[ _('Protocol'), this.protocol ],
					[ _('Port'), input('port', { value: '443', inputmode: 'numeric' }) ],
					[ _('Comes in by'), input('device', { placeholder: _('the one that leads to it') }) ]
				].map(([ title, node ]) => el('label', '', title, node)),
				this.button
			]),
			this.result);
	},

	async ask() {
		const asked = [ 'source', 'destination', 'protocol', 'port', 'device' ].map(name => this[name].disabled ? '' : this[name].value.trim());

		this.button.disabled = true;
		dom.content(this.result, await api.explain(...asked).then(this.show,
			error => E('div', { class: 'alert-message error', role: 'alert' }, api.paragraphs(error.lines))));
		this.button.disabled = false;
	},

	show(answer) {
		const look = logic.verdict(answer);

		return [
			api.banner(look),
			el('div', 'cbi-section', el('table', 'table', [
				...look.lines.map((line, n) => [ n ? '' : _('Why'), line ]),
				[ _('Way'), '%s → %s'.format(answer.in || _('the router itself'), answer.out || '-') ],
				...answer.layers.map(l => [ logic.layer(l).name, l.in_force || l.says != 'nothing' ? SAYS[l.says] : _('not in force') ]),
				...answer.notes.map(note => [ _('Note'), note.message ])
			].map(row => el('tr', 'tr', row.map(cell => el('td', 'td left', cell)))))),
			answer.steps.length ? el('details', 'cbi-section',
				el('summary', '', _('Rules that it met')),
				api.table([ _('Chain'), _('Rule'), _('Guarantee'), _('For'), _('Decision') ], answer.steps.map(s => [ s.chain, s.rule, s.guarantee, s.comment, s.verdict || '-' ]))) : ''
		];
	},

	addFooter() {}
});
