'use strict';
'require view';
'require form';
'require uci';
'require ui';
'require tools.widgets as widgets';
'require vpn-killswitch.api as api';
'require vpn-killswitch.logic as logic';
'require vpn-killswitch.rules as rules';

/* Checks each value of an option; none is fine. */
function each(check) {
	return (section_id, value) => {
		for (const word of rules.words(value)) {
			const answer = check(word);

			if (answer !== true)
				return answer;
		}

		return true;
	};
}

/* Checks the text as a whole; none is fine. */
function one(check) {
	return (section_id, value) => value == null || value === '' ? true : check(value);
}

/* A list, which a file may also write as words of one option. */
function listOf(o) {
	o.cfgvalue = (section_id) => rules.words(uci.get('vpn-killswitch', section_id, o.option));
	o.rmempty = true;
	o.optional = true;

	return o;
}

/* A switch that understands all of UCI's words, and never changes what it did not understand. */
function flag(s, tab, name, title, description, otherwise) {
	const o = tab ? s.taboption(tab, form.Flag, name, title, description) : s.option(form.Flag, name, title, description);

	o.default = otherwise;
	o.cfgvalue = (section_id) => {
		const value = uci.get('vpn-killswitch', section_id, name);

		return value == null ? null : rules.flag(value, value);
	};

	return o;
}

/*
 * Checks options that only together are wrong: at `at`, and again whenever one of them changes. A dialogue shows
 * copies of the options, so they are looked for where the check runs.
 */
function together(options, at, check, own) {
	const names = options.map(o => o.option);
	const find = (o, name) => o.section.children.find(c => c.option == name);

	at.validate = function(section_id, value) {
		const answer = own ? own(section_id, value) : true;
		const all = names.map(name => find(this, name));

		/* While the form is being built there is nothing to compare. */
		if (answer !== true || !all.every(o => o && o.getUIElement(section_id)))
			return answer;

		return check(Object.fromEntries(all.map(o => [ o.option, o === this ? value : (o.isActive(section_id) ? o.formvalue(section_id) : null) ])));
	};

	options.filter(o => o !== at).forEach(o => {
		o.onchange = function(ev, section_id) {
			const shown = find(this, at.option), element = shown ? shown.getUIElement(section_id) : null;

			if (element)
				element.triggerValidation();
		};
	});
}

function suggestHosts(o, known, values) {
	known.all.forEach(h => values(h).forEach(v => o.value(v, '%s (%s)'.format(v, h.name || h.mac))));
}

/* Candidates: what the program found and the file does not list, below the field that it belongs to. */
function candidates(o, found) {
	if (found.length)
		o.description += '<br /><em>%h</em>'.format(_('Found, and not listed: %s').format(found.join(' · ')));
}

function describe(section_id, names) {
	return names.map(n => rules.words(uci.get('vpn-killswitch', section_id, n)).join(', ')).filter(t => t).join('; ') || '-';
}

return view.extend({
	load() {
		return Promise.all([
			api.status().catch(error => ({ errors: error.lines || [ error.message ] })),
			api.hints(),
			uci.load('vpn-killswitch')
		]);
	},

	render([ status, hints ]) {
		const known = logic.hosts(hints);
		const m = new form.Map('vpn-killswitch', _('VPN Kill Switch'), _('What leaves the house goes through a tunnel or not at all. Saved settings are applied at once; what is wrong changes nothing.'));

		this.status = status;
		/* What the program refuses is never silent. */
		(status.errors || []).forEach(error => ui.addNotification(_('The configuration has an error'), E('p', {}, [ error ]), 'error'));

		this.main(m);
		this.exemptions(m, known);
		this.servers(m);

		return m.render().then(node => E('div', {}, [ api.style(), node ]));
	},

	main(m) {
		const s = m.section(form.TypedSection, 'killswitch');
		let o;

		s.anonymous = true;
		s.addremove = false;
		s.tab('networks', _('Tunnels and networks'));
		s.tab('router', _('The router itself'));
		s.tab('advanced', _('Advanced'));

		const enabled = flag(s, 'networks', 'enabled', _('Protection'), _('On: closed, also while no tunnel is up. Off: every device is exposed.'), '0');
		enabled.rmempty = false;

		const tunnelInterface = listOf(s.taboption('networks', widgets.NetworkSelect, 'tunnel_interface', _('Tunnels'), _('The VPN\'s interfaces. Only through these may anything leave.')));
		tunnelInterface.multiple = true;

		const tunnelDevice = listOf(s.taboption('networks', widgets.DeviceSelect, 'tunnel_device', _('Tunnel devices'), _('For a VPN that is not an interface of OpenWrt: the kernel\'s device, such as tun0, or tun* for every one that begins like this.')));
		tunnelDevice.multiple = true;
		tunnelDevice.noaliases = true;

		const localInterface = listOf(s.taboption('networks', widgets.NetworkSelect, 'local_interface', _('Local networks'), _('The networks of your devices, or firewall zones. Never list an uplink here.')));
		localInterface.multiple = true;
		localInterface.validate = each(rules.interfaceName);

		const localDevice = listOf(s.taboption('networks', widgets.DeviceSelect, 'local_device', _('Local devices'), _('Local networks by the kernel\'s device, such as br-lan.')));
		localDevice.multiple = true;
		localDevice.noaliases = true;

		const ipsec = flag(s, 'networks', 'ipsec', _('IPsec is a tunnel'), _('For IPsec without a device of its own. The second layer cannot tell what will be encrypted, and is left out.'), '0');

		candidates(tunnelInterface, (this.status.warnings || []).filter(w => w.code == 'vpn-unlisted').map(w => w.message));
		candidates(localDevice, this.status.unclassified || []);

		for (const option of [ tunnelDevice, localDevice ]) {
			option.validate = each(rules.device);
			/* What the second layer sends refused packets to. */
			option.filter = (section_id, name) => name != 'vks-refused';
		}

		const mine = [ enabled, tunnelInterface, tunnelDevice, localInterface, localDevice, ipsec ];
		together(mine, tunnelInterface, rules.main, each(rules.interfaceName));

		o = s.taboption('router', form.ListValue, 'router', _('What the router itself may send'),
			[
				_('Strict: only to VPN servers, for addresses (DHCP) and for the time. Costs: updates and packages come through the tunnel or not at all.'),
				_('DNS: everything but questions for names. Costs: the router\'s own traffic shows your address.'),
				_('Open: everything. Costs: names that your devices ask for can leave in the clear by the router\'s resolver.')
			].join('<br />'));
		o.value('strict', _('Strict'));
		o.value('dns', _('Everything but DNS'));
		o.value('open', _('Everything'));
		o.default = 'strict';

		flag(s, 'router', 'ntp', _('Time'), _('Let the router ask its time servers: WireGuard does not connect while the clock is wrong.'), '1');

		o = listOf(s.taboption('router', form.DynamicList, 'bootstrap_dns', _('Name servers for VPN servers'), _('Who is asked for the VPN servers\' names, outside the tunnel, and for no other name. Empty: those of the uplink.')));
		o.placeholder = '9.9.9.9';
		o.validate = each(rules.address);

		flag(s, 'advanced', 'reject', _('Tell devices at once'), _('A device learns that it was refused, instead of waiting.'), '1');
		flag(s, 'advanced', 'log', _('Log'), _('Write what was refused to the system log, a few lines a minute.'), '1');
		flag(s, 'advanced', 'port_forward_replies', _('Answer port forwards'), _('Let answers to connections that came in through the uplink out again. Costs: whoever connects sees your address.'), '0');
		flag(s, 'advanced', 'survive_sysupgrade', _('Closed after a system upgrade'), _('The firewall goes on blocking until this package is installed again.'), '0');

		o = s.taboption('advanced', form.Value, 'pass_mark', _('Pass mark'), _('The bit of the packet mark that exempts. Change it only if another program uses it.'));
		o.placeholder = '0x10000000';
		o.validate = one(rules.passMark);
	},

	exemptions(m, known) {
		const s = m.section(form.GridSection, 'exempt', _('Exemptions'), _('What may go around the tunnel. Every field that is filled in must fit; of several values one.'));
		let o;

		s.anonymous = true;
		s.addremove = true;
		s.nodescriptions = true;
		s.addbtntitle = _('Add an exemption');
		s.modaltitle = section_id => _('Exemption') + (uci.get('vpn-killswitch', section_id, 'name') ? ': ' + uci.get('vpn-killswitch', section_id, 'name') : '');

		const name = s.option(form.Value, 'name', _('Name'));
		name.placeholder = _('TV');

		o = flag(s, null, 'enabled', _('In force'), null, '1');
		o.editable = true;
		o.modalonly = null;

		o = s.option(form.DummyValue, '_who', _('Devices'));
		o.modalonly = false;
		o.textvalue = section_id => describe(section_id, [ 'src_mac', 'src_ip', 'local_interface', 'local_device' ]);

		o = s.option(form.DummyValue, '_where', _('Destinations'));
		o.modalonly = false;
		o.textvalue = section_id => describe(section_id, [ 'dest_ip', 'dest_port', 'proto' ]);

		const option = (name, title, description, check, kind) => {
			const o = s.option(kind || form.DynamicList, name, title, description);

			o.modalonly = true;
			o.optional = true;

			return kind == form.Value ? Object.assign(o, { validate: one(check) }) : Object.assign(listOf(o), { validate: each(check) });
		};

		const mac = option('src_mac', _('Device'), _('By its Ethernet address, which stays when its address changes. Phones change theirs.'), rules.mac);
		const src = option('src_ip', _('Device\'s address'), _('An address or a network.'), rules.exemptNet);
		const dest = option('dest_ip', _('Destination'), _('An address or a network; names are not possible.'), rules.exemptNet);
		const port = option('dest_port', _('Destination port'), _('Such as 443 or 8000-8100.'), rules.ports);
		const proto = option('proto', _('Protocol'), _('Empty: any; with ports, TCP and UDP.'),
			v => rules.protoNumber(v) != null || _('allowed is %s').format(_('tcp, udp, icmp, icmpv6, gre, esp or a number')), form.Value);

		suggestHosts(mac, known, h => [ h.mac.toLowerCase() ]);
		suggestHosts(src, known, h => h.addrs);
		[ 'tcp', 'udp', 'icmp', 'icmpv6', 'gre', 'esp' ].forEach(p => proto.value(p));

		together([ name, mac, src, dest, port, proto ], name, rules.exemption, one(rules.label));

		o = listOf(s.option(widgets.NetworkSelect, 'local_interface', _('Only from these networks')));
		o.multiple = true;
		o.modalonly = true;
		o.validate = each(rules.interfaceName);
		o = listOf(s.option(widgets.DeviceSelect, 'local_device', _('Only from these devices')));
		o.multiple = true;
		o.noaliases = true;
		o.modalonly = true;
		o.validate = each(rules.device);
	},

	servers(m) {
		const s = m.section(form.GridSection, 'endpoint', _('More VPN servers'), _('Servers in the configuration of WireGuard and OpenVPN are found by themselves. List here what is not.'));

		s.anonymous = true;
		s.addremove = true;
		s.nodescriptions = true;
		s.addbtntitle = _('Add a server');
		s.modaltitle = _('VPN server');

		const option = (name, title, check, description) => {
			const o = s.option(form.Value, name, title, description);

			o.optional = name != 'host';
			o.rmempty = name != 'host';

			return Object.assign(o, { validate: one(check) });
		};

		option('name', _('Name'), rules.label);
		option('host', _('Server'), rules.host, _('An address or a name.')).placeholder = 'vpn.example.net';

		const proto = option('proto', _('Protocol'), v => rules.protoNumber(v) != null || _('allowed is %s').format(_('udp, tcp, gre, esp, ah, 6in4 or a protocol number')));
		const port = option('port', _('Port'), rules.port);
		const source = option('source_port', _('Source port'), rules.port, _('Where the VPN sends from a fixed one.'));
		const mark = option('mark', _('Mark'), rules.mark, _('WireGuard\'s fwmark: then only its own packets pass.'));
		const user = option('user', _('User'), rules.user, _('Whom the VPN runs as: then only its own packets pass.'));

		[ 'udp', 'tcp', 'gre', 'esp', 'ah', '6in4' ].forEach(p => proto.value(p));
		proto.placeholder = 'udp';
		[ source, mark, user ].forEach(o => o.modalonly = true);
		port.optional = false;
		port.rmempty = true;
		together([ proto, port, source, mark, user ], port, rules.server, one(rules.port));
	},

	/* Whether saving would switch on what keeps its own tunnel down. */
	wouldCut() {
		const main = uci.sections('vpn-killswitch', 'killswitch')[0] || {};

		return rules.flag(main.enabled, '0') == '1' && !this.status.enabled &&
			!uci.sections('vpn-killswitch', 'endpoint').length && logic.cutsItself(main.router, this.status.endpoints);
	},

	handleSaveApply(ev, mode) {
		return this.handleSave(ev).then(() => this.wouldCut() ? new Promise(resolve => {
			const answer = yes => () => { ui.hideModal(); resolve(yes); };

			ui.showModal(_('The tunnel could not come up'), [
				E('p', {}, [ _('No address of a VPN server is known, and the router itself may reach nothing else: a tunnel that is down stays down. Add the server in the settings first, or let the router send more.') ]),
				E('div', { 'class': 'right' }, [
					E('button', { 'class': 'btn cbi-button', 'click': answer(false) }, [ _('Cancel') ]), ' ',
					E('button', { 'class': 'btn cbi-button cbi-button-negative important', 'click': answer(true) }, [ _('Switch on all the same') ])
				])
			]);
		}) : true).then(go => { if (go) ui.changes.apply(mode == '0'); });
	}
});
