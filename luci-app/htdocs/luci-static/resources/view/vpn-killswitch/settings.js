'use strict';
'require view';
'require form';
'require uci';
'require ui';
'require tools.widgets as widgets';
'require vpn-killswitch.api as api';
'require vpn-killswitch.logic as logic';
'require vpn-killswitch.rules as rules';

const { Value, Flag, ListValue, DynamicList, DummyValue } = form;
const { NetworkSelect, DeviceSelect } = widgets;

const get = (section_id, name) => uci.get('vpn-killswitch', section_id, name);

const mainSection = () => uci.sections('vpn-killswitch', 'killswitch')[0] || {};

/*
 * Makes options from rows of kind, name, title, description and what else belongs to them; returns them by name.
 * `check` is asked about each value of a list, or about the text as a whole; none is fine.
 */
function options(s, tab, rows) {
	return Object.fromEntries(rows.map(([ kind, name, title, description, more ]) => {
		const o = tab ? s.taboption(tab, kind, name, title, description) : s.option(kind, name, title, description);
		const listed = [ NetworkSelect, DeviceSelect, DynamicList ].includes(kind);
		const check = more?.check || (kind == NetworkSelect ? rules.interfaceName : (kind == DeviceSelect ? rules.device : () => true));

		Object.assign(o, {
			multiple: listed,
			noaliases: true,
			/* What the second layer sends refused packets to is no device to choose. */
			filter: (section_id, value) => value != 'vks-refused',
			/* A list may be written as words of one option, a switch in all of UCI's words; what is not understood stays. */
			cfgvalue(section_id) {
				const value = get(section_id, name);

				return listed ? rules.words(value) : (kind == Flag ? rules.flag(value, value) : value);
			},
			validate: (section_id, value) => (listed ? rules.words(value) : (value ? [ value ] : [])).map(check).find(answer => answer !== true) ?? true
		}, more);
		(more?.choices || []).forEach(c => o.value(...[].concat(c)));

		return [ name, o ];
	}));
}

/*
 * Checks options that only together are wrong: at `at`, and again whenever one of them changes. A dialogue shows
 * copies of the options, so they are looked for where the check runs.
 */
function together(options, at, check) {
	const names = Object.keys(options).filter(name => name[0] != '_'), alone = at.validate;
	const find = (o, name) => o.section.children.find(c => c.option == name);

	at.validate = function(section_id, value) {
		const answer = alone(section_id, value), all = names.map(name => find(this, name));

		/* While the form is being built there is nothing to compare. */
		return answer !== true || !all.every(o => o?.getUIElement(section_id)) ? answer
			: check(Object.fromEntries(all.map(o => [ o.option, o === this ? value : (o.isActive(section_id) ? o.formvalue(section_id) : null) ])));
	};

	names.filter(name => name != at.option).forEach(name => {
		options[name].onchange = function(ev, section_id) {
			find(this, at.option)?.getUIElement(section_id)?.triggerValidation();
		};
	});
}

function grid(m, type, title, description, addbtntitle, modaltitle) {
	return Object.assign(m.section(form.GridSection, type, title, description), {
		anonymous: true, addremove: true, nodescriptions: true, addbtntitle,
		modaltitle: id => [ modaltitle, get(id, 'name') ].filter(t => t).join(': ')
	});
}

/* Candidates: what the program found and the file does not list, below the field that it belongs to. */
function candidates(o, found) {
	if (found?.length)
		o.description += '<br /><em>%h</em>'.format(_('Found, and not listed: %s').format(found.join(' · ')));
}

return view.extend({
	load() {
		return Promise.all([ api.status().catch(error => ({ errors: error.lines, warnings: [] })), api.hints(), uci.load('vpn-killswitch') ]);
	},

	render([ status, hints ]) {
		const m = new form.Map('vpn-killswitch', _('VPN Kill Switch'), _('What leaves the house goes through a tunnel or not at all. A configuration with an error changes nothing.'));

		this.status = status;
		/* What the program refuses is never silent. */
		if (status.errors.length)
			api.failed(_('The configuration has an error'), { lines: status.errors });

		this.main(m);
		this.exemptions(m, logic.hosts(hints).all);
		this.servers(m);

		return m.render().then(node => api.el('div', '', api.style(), node));
	},

	main(m) {
		const s = m.section(form.TypedSection, 'killswitch');

		s.anonymous = true;
		s.tab('networks', _('Tunnels and networks'));
		s.tab('router', _('The router itself'));
		s.tab('advanced', _('Advanced'));

		const o = options(s, 'networks', [
			[ Flag, 'enabled', _('Protection'), _('On: closed, also while no tunnel is up. Off: every device is exposed.'), { rmempty: false } ],
			[ NetworkSelect, 'tunnel_interface', _('Tunnels'), _('The VPN\'s interfaces. Only through these may anything leave.') ],
			[ DeviceSelect, 'tunnel_device', _('Tunnel devices'), _('Where the VPN is no interface of OpenWrt: its device, such as tun0 or tun*.') ],
			[ NetworkSelect, 'local_interface', _('Local networks'), _('The networks of your devices, or firewall zones. Never list an uplink here.') ],
			[ DeviceSelect, 'local_device', _('Local devices'), _('Local networks by the kernel\'s device, such as br-lan.') ],
			[ Flag, 'ipsec', _('IPsec is a tunnel'), _('For IPsec without a device of its own. The second layer cannot tell what will be encrypted, and is left out.') ]
		]);

		candidates(o.tunnel_interface, this.status.warnings.filter(w => w.code == 'vpn-unlisted').map(w => w.message));
		candidates(o.local_device, this.status.unclassified);
		together(o, o.tunnel_interface, rules.main);

		options(s, 'router', [
			[ ListValue, 'router', _('What the router itself may send'), [
				_('Strict: only to VPN servers, for addresses (DHCP) and for the time. Costs: updates come through the tunnel or not at all.'),
				_('DNS: everything but questions for names. Costs: the router\'s own traffic shows your address.'),
				_('Open: everything. Costs: names that your devices ask for can leave in the clear.')
			].join('<br />'), { default: 'strict', choices: [ [ 'strict', _('Strict') ], [ 'dns', _('Everything but DNS') ], [ 'open', _('Everything') ] ] } ],
			[ Flag, 'ntp', _('Time'), _('The router may ask its time servers: WireGuard waits for the right time.'), { default: '1' } ],
			[ DynamicList, 'bootstrap_dns', _('Name servers for VPN servers'), _('Asked outside the tunnel, for these names only. Empty: those of the uplink.'), { placeholder: '9.9.9.9', check: rules.address } ]
		]);

		options(s, 'advanced', [
			[ Flag, 'reject', _('Tell devices at once'), _('A device learns that it was refused, instead of waiting.'), { default: '1' } ],
			[ Flag, 'log', _('Log'), _('Write what was refused to the system log, a few lines a minute.'), { default: '1' } ],
			[ Flag, 'port_forward_replies', _('Answer port forwards'), _('Answers to connections from outside may go back. Costs: whoever connects sees your address.') ],
			[ Flag, 'survive_sysupgrade', _('Closed after a system upgrade'), _('The firewall goes on blocking until this package is installed again.') ],
			[ Value, 'pass_mark', _('Pass mark'), _('The bit of the packet mark that exempts. Change it only if another program uses it.'), { placeholder: '0x10000000', check: rules.passMark } ]
		]);
	},

	exemptions(m, known) {
		const s = grid(m, 'exempt', _('Exemptions'), _('What may go around the tunnel. Every field that is filled in must fit; of several values one.'), _('Add an exemption'), _('Exemption'));
		const modalonly = true, network = _('An address or a network.'), hosts = values => known.flatMap(h => values(h).map(v => [ v, '%s (%s)'.format(v, h.name || h.mac) ]));
		const sum = names => ({ modalonly: false, textvalue: id => names.map(n => logic.list(rules.words(get(id, n)))).filter(t => t).join('; ') || '-' });

		const o = options(s, null, [
			[ Value, 'name', _('Name'), null, { placeholder: _('TV'), check: rules.label } ],
			[ Flag, 'enabled', _('In force'), null, { default: '1', editable: true } ],
			[ DummyValue, '_who', _('Devices'), null, sum([ 'src_mac', 'src_ip', 'local_interface', 'local_device' ]) ],
			[ DummyValue, '_where', _('Destinations'), null, sum([ 'dest_ip', 'dest_port', 'proto' ]) ],
			[ DynamicList, 'src_mac', _('Device'), _('By its Ethernet address. Phones change theirs.'), { modalonly, check: rules.mac, choices: hosts(h => [ h.mac.toLowerCase() ]) } ],
			[ DynamicList, 'src_ip', _('Device\'s address'), network, { modalonly, check: rules.exemptNet, choices: hosts(h => h.addrs) } ],
			[ DynamicList, 'dest_ip', _('Destination'), network, { modalonly, check: rules.exemptNet } ],
			[ DynamicList, 'dest_port', _('Destination port'), _('Such as 443 or 8000-8100.'), { modalonly, check: rules.ports } ],
			[ Value, 'proto', _('Protocol'), _('Empty: any; with ports, TCP and UDP.'), { modalonly, check: rules.exemptProto, choices: [ 'tcp', 'udp', 'icmp', 'icmpv6', 'gre', 'esp' ] } ],
			[ NetworkSelect, 'local_interface', _('Only from these networks'), null, { modalonly } ],
			[ DeviceSelect, 'local_device', _('Only from these devices'), null, { modalonly } ]
		]);

		together(o, o.name, rules.exemption);
	},

	servers(m) {
		const s = grid(m, 'endpoint', _('More VPN servers'), _('Those of WireGuard and OpenVPN are found by themselves. List here what is not.'), _('Add a server'), _('VPN server'));
		const modalonly = true;

		const o = options(s, null, [
			[ Value, 'name', _('Name'), null, { check: rules.label } ],
			[ Value, 'host', _('Server'), _('An address or a name.'), { rmempty: false, placeholder: 'vpn.example.net', check: rules.host } ],
			[ Value, 'proto', _('Protocol'), null, { placeholder: 'udp', check: rules.serverProto, choices: [ 'udp', 'tcp', 'gre', 'esp', 'ah', '6in4' ] } ],
			[ Value, 'port', _('Port'), null, { check: rules.port } ],
			[ Value, 'source_port', _('Source port'), _('Where the VPN sends from a fixed one.'), { modalonly, check: rules.port } ],
			[ Value, 'mark', _('Mark'), _('WireGuard\'s fwmark: then only its own packets pass.'), { modalonly, check: value => rules.mark(value, mainSection()) } ],
			[ Value, 'user', _('User'), _('Whom the VPN runs as: then only its own packets pass.'), { modalonly, check: rules.user } ]
		]);

		together(o, o.port, rules.server);
	},

	/* Asks before it switches on what keeps its own tunnel down. */
	async handleSaveApply(ev, mode) {
		/* What is wrong LuCI has shown by then. */
		if (!await this.handleSave(ev).then(() => true, () => false))
			return;

		const main = mainSection();
		const cut = rules.flag(main.enabled, '0') == '1' && !this.status.enabled && !uci.sections('vpn-killswitch', 'endpoint').length &&
			logic.cutsItself(main.router, this.status.endpoints);

		if (!cut || await api.ask(...cut))
			ui.changes.apply(mode == '0');
	}
});
