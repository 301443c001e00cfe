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
		const look = logic.banner(seen, logic.hosts(hints));

		return E('div', {}, [
			api.style(),
			api.banner(look, true),
			E('p', {}, [
				seen.status ? _('%d packets were blocked; %d devices tried to get out.').format(logic.counts(seen.status.packets).blocked, seen.status.blocked.length) + ' ' : '',
				E('a', { 'href': L.url('admin/services/vpn-killswitch/status') }, [ _('Details') ])
			])
		]);
	}
});
