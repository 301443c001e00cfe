'use strict';
'require baseclass';
'require vpn-killswitch.api as api';
'require vpn-killswitch.logic as logic';

return baseclass.extend({
	title: _('VPN Kill Switch'),

	/* Never fails: LuCI would go on showing the last answer. */
	load() {
		return Promise.all([
			api.status().then(status => ({ status, passed: 0 }), error => ({ error: error.message })),
			api.hints()
		]);
	},

	render([ seen, hints ]) {
		const s = seen.status;

		return api.el('div', '', api.style(), api.banner(logic.banner(seen, logic.hosts(hints)), true), api.el('p', '',
			s ? _('Blocked packets: %d. Devices that tried to get out: %d.').format(logic.counts(s.packets).blocked, s.blocked.length) + ' ' : '',
			E('a', { href: L.url('admin/services/vpn-killswitch/status') }, [ _('Details') ])));
	}
});
