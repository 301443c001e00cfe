// The real views in the real LuCI, in a real browser, with the real program and a real kernel behind them.
//
// LUCI names a checkout of LuCI's sources, SHOTS a folder for pictures of every page in every posture. Without LUCI
// these tests are reported as not run.

import test from 'node:test';
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { TOP } from './page.mjs';

const LUCI = process.env.LUCI;
const SHOTS = process.env.SHOTS ?? join(TOP, 'target/luci-shots');
const skip = LUCI ? false : 'not run: LUCI= names no checkout of LuCI';
const HINTS = { '00:11:22:AA:BB:CC': { ipaddrs: [ '192.168.1.7' ], ip6addrs: [], name: 'laptop' }, '00:11:22:AA:BB:01': { ipaddrs: [ '192.168.1.1' ], ip6addrs: [], name: 'router' } };
const device = (name, more) => ({ name, up: true, type: 1, flags: { up: true }, stats: {}, ipaddrs: [], ip6addrs: [], mac: '00:00:00:00:00:01', link: {}, ...more });
const DEVICES = Object.fromEntries([ device('br-lan', { bridge: true, ports: [] }), device('wan0'), device('wg0') ].map(d => [ d.name, d ]));
const STATUS = 'vpn-killswitch/status', SETTINGS = 'vpn-killswitch/settings', EXPLAIN = 'vpn-killswitch/explain';

let house, server, browser;

if (LUCI) {
	const { chromium } = await import('playwright-core');
	const { router, CONFIG } = await import('./router.mjs');
	const { start } = await import('./server.mjs');

	test.before(async () => {
		mkdirSync(SHOTS, { recursive: true });
		house = Object.assign(router(), { CONFIG });
		house.configure(CONFIG);
		server = await start({ luci: LUCI, root: house.root, hints: HINTS, devices: DEVICES });
		browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: [ '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-proxy-server' ] });
	});
	test.after(async () => {
		await browser?.close();
		await server?.close();
		house?.end();
	});
}

/** A page of its own for a test; what goes wrong in the browser's console fails it, but for what it names. */
async function open(path, { width = 1100, dark = false, forgive = null, at = server } = {}) {
	const context = await browser.newContext({ viewport: { width, height: 800 }, colorScheme: dark ? 'dark' : 'light' });
	const page = await context.newPage();
	const complaints = [];

	page.on('pageerror', e => complaints.push(e.stack ?? String(e)));
	page.on('console', m => [ 'error', 'warning' ].includes(m.type()) && complaints.push(`${m.text()} ${m.location().url}`));
	page.setDefaultTimeout(15000);
	await page.goto(`${at.url}/view/${path}`);

	return {
		page,
		banner: state => page.waitForSelector(`.vks-banner[data-state="${state}"]`),
		text: selector => page.innerText(selector),
		async shot(name) {
			await page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: true });
			assert.equal(await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth'), 0, `${name}: wider than the window`);
		},
		async close() {
			await context.close();
			assert.deepEqual(complaints.filter(c => !forgive?.test(c)), []);
		}
	};
}

/** As every test begins: protection as wanted, the tunnel up, nobody paused. */
function begin({ on = true } = {}) {
	Object.assign(server.state, { fails: null, delay: 0, readonly: false, calls: [], most: 0 });
	server.forget();
	house.tunnelUp();
	house.configure(house.CONFIG);
	house.run(on ? 'enable' : 'apply');
	if (on)
		house.run('resume');
}

const posture = () => {
	try {
		return JSON.parse(house.run('status', '--json')).posture;
	}
	catch (error) {
		return JSON.parse(error.stdout).posture;
	}
};

test('switching on and off, by keyboard as well, is what the kernel then says', { skip }, async () => {
	begin({ on: false });

	const p = await open(STATUS);

	await p.banner('off');
	await p.shot('status-off');
	await p.page.click('.vks-switch');
	await p.banner('protecting');
	assert.equal(posture(), 'protecting');
	assert.equal(await p.page.getAttribute('.vks-switch', 'aria-checked'), 'true');
	await p.shot('status-protected');

	await p.page.focus('.vks-switch');
	await p.page.keyboard.press('Space');
	await p.page.waitForSelector('.modal');
	assert.equal(posture(), 'protecting', 'nothing opens before the answer');
	await p.page.keyboard.press('Enter');
	await p.page.waitForSelector('.modal', { state: 'hidden' });
	assert.equal(posture(), 'protecting', 'the first button is to cancel');

	await p.page.focus('.vks-switch');
	await p.page.keyboard.press('Space');
	await p.page.waitForSelector('.modal');
	await p.page.keyboard.press('Tab');
	await p.page.keyboard.press('Enter');
	await p.banner('off');
	assert.equal(posture(), 'disabled');
	await p.close();
});

test('a tunnel that goes down while the page is open changes the banner within one poll', { skip }, async () => {
	begin();

	const p = await open(STATUS);

	await p.banner('protecting');
	house.tunnelDown();

	const from = Date.now();

	await p.banner('blocking');
	assert.ok(Date.now() - from < 7000, 'within one poll');
	assert.match(await p.text('.vks-banner'), /Since \d/);

	house.at('client', 'ping -c 3 -i 0.2 -W 1 192.0.2.80 >/dev/null || true');
	await p.page.waitForSelector('#vks-blocked >> text=laptop');
	await p.shot('status-blocking');
	house.tunnelUp();
	await p.banner('protecting');
	await p.close();
});

test('a pause is counted down until the kernel ends it', { skip }, async () => {
	begin();

	const p = await open(STATUS);

	await p.banner('protecting');
	await p.page.selectOption('.vks-controls select', { label: 'laptop (192.168.1.7)' });
	await p.page.click('text=5 min');
	await p.banner('paused');
	assert.match(await p.text('.vks-banner'), /laptop may go around the tunnel\. Closes in (5:00|4:5\d)/);
	assert.match(house.sh('nft list set inet vpn_killswitch paused4'), /192\.168\.1\.7/);
	await p.shot('status-paused');
	await p.page.click('text=Close now');
	await p.banner('protecting');
	assert.equal(posture(), 'protecting');

	await p.page.selectOption('.vks-controls select', { label: 'All devices' });
	await p.page.click('text=15 min');
	await p.banner('paused');
	await p.page.click('text=End all pauses');
	await p.banner('protecting');

	/* Shorter than the page offers, to see its end. */
	house.run('pause', '8s');
	await p.banner('paused');

	const clock = async () => /Closes in 0:0(\d)/.exec(await p.text('.vks-banner'))?.[1];
	const first = await clock();

	await p.page.waitForFunction(`!/0:0${first}/.test(document.querySelector('.vks-banner').innerText)`);
	assert.equal(await p.page.getAttribute('[role=status]', 'aria-live'), 'off', 'seconds are not spoken');
	await p.banner('protecting');
	assert.equal(posture(), 'protecting');
	await p.close();
});

test('without a fresh answer nothing is claimed', { skip }, async () => {
	begin();

	const p = await open(STATUS, { forgive: /ubus code|RPCError/ });

	await p.banner('protecting');
	/* rpcd restarts: the object is gone for a while. */
	server.state.fails = 4;
	await p.banner('unknown');
	assert.match(await p.text('.vks-banner'), /Nobody knows whether you are protected/);
	assert.equal(await p.page.isDisabled('.vks-switch'), true);
	assert.equal(await p.page.isVisible('#vks-tunnels'), false, 'what was true is not shown');
	assert.doesNotMatch(await p.text('#view'), /is on|is off|Protected/);
	await p.shot('status-unknown');
	server.state.fails = null;
	await p.banner('protecting');

	/* It answers, but too late. */
	server.state.delay = 18000;
	await p.page.waitForSelector('.vks-banner[data-state="unknown"]', { timeout: 25000 });
	assert.match(await p.text('.vks-banner'), /seconds old/);
	server.state.delay = 0;
	await p.page.waitForSelector('.vks-banner[data-state="protecting"]', { timeout: 25000 });
	assert.equal(server.state.most, 1, 'never two calls at once');
	await p.close();
});

test('the page stands before the first answer, and asks once a poll and not while nobody looks', { skip }, async () => {
	begin();
	/* Every call that the page makes takes long. */
	server.state.delay = 4000;

	const p = await open(STATUS);

	await p.page.waitForSelector('.vks-banner[data-state="unknown"] >> text=Looking…');
	await p.page.waitForSelector('.vks-switch >> text=Protection: unknown');
	await p.shot('status-looking');
	await p.close();
	server.state.delay = 0;

	const q = await open(STATUS);

	await q.banner('protecting');

	const calls = () => server.state.calls.filter(c => c == 'vpn-killswitch status').length;

	await q.page.evaluate(`Object.defineProperty(document, 'hidden', { configurable: true, value: true })`);

	/* A call may be under way. */
	await q.page.waitForTimeout(500);

	const before = calls(), from = server.state.calls.length;

	await q.page.waitForTimeout(11000);
	assert.equal(calls(), before, 'hidden: no calls');
	await q.page.evaluate(`delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))`);
	await q.page.waitForTimeout(1000);
	assert.equal(calls(), before + 1, 'seen again: at once');
	await q.page.waitForTimeout(10000);
	assert.ok(calls() - before >= 2 && calls() - before <= 4, `${calls() - before} calls in 11 s`);
	assert.deepEqual(server.state.calls.slice(from).filter(c => c != 'vpn-killswitch status'), [], 'a poll is one call');
	await q.close();
});

test('who may only look sees everything and changes nothing', { skip }, async () => {
	begin();
	house.run('pause', '10m');
	server.state.readonly = true;

	const p = await open(STATUS);

	await p.banner('paused');
	await p.page.waitForSelector('text=You may look at this and not change it.');

	for (const button of await p.page.$$('#view button, #view select'))
		assert.equal(await button.isDisabled(), true, await button.innerText());

	await p.shot('status-readonly');
	await p.close();
	house.run('resume');

	const s = await open(SETTINGS);

	await s.page.waitForSelector('.cbi-page-actions');
	assert.equal(await s.page.isDisabled('.cbi-page-actions .cbi-button-save'), true);
	assert.deepEqual(await s.page.$$eval('.cbi-map input:not([type=hidden]):not(.cbi-dropdown[disabled] input)', all => all.filter(i => !i.disabled && !i.readOnly && i.offsetParent).map(i => i.outerHTML)), []);
	await s.close();

	const e = await open(EXPLAIN);

	await e.page.fill('[name=source]', '192.168.1.7');
	await e.page.fill('[name=destination]', '192.0.2.80');
	await e.page.click('[type=submit]');
	await e.page.waitForSelector('.vks-banner');
	await e.close();
});

test('what degrades is said, and nothing is called protected', { skip }, async () => {
	begin();
	house.sh('nft delete rule inet vpn_killswitch forward handle $(nft -a list chain inet vpn_killswitch forward | sed -n "s/.*fwd_drop.*# handle //p")');

	const p = await open(STATUS);

	await p.banner('degraded');
	await p.page.waitForSelector('[data-code="difference"]');
	await p.shot('status-degraded');
	house.run('apply');
	await p.banner('protecting');

	house.configure(house.CONFIG.replace('strict', 'stirct').replace(`enabled '0'`, `enabled '1'`));
	await p.banner('degraded');
	await p.page.waitForSelector('[data-code="error"] >> text=allowed is strict, dns or open');
	await p.close();
});

test('an exemption is added by picking a known host', { skip }, async () => {
	begin();
	house.sh('ip link add br-iot type veth peer name iot1; ip link set iot1 addrgenmode none up; ip link set br-iot up; ip addr add 192.168.3.1/24 dev br-iot');

	const p = await open(SETTINGS);

	await p.page.waitForSelector('text=Add an exemption');
	/* Neither a tunnel nor local: a candidate. */
	await p.page.waitForSelector('[data-name="local_device"] >> text=Found, and not listed: br-iot');
	house.sh('ip link del br-iot');
	await p.shot('settings');
	await p.page.click('text=Add an exemption');
	await p.page.waitForSelector('.modal [data-name="src_mac"]');
	await p.page.fill('.modal [data-name="name"] input', 'TV');
	await p.page.click('.modal [data-name="src_mac"] .cbi-dropdown');
	await p.page.click('.modal [data-name="src_mac"] .cbi-dropdown li[data-value="00:11:22:aa:bb:cc"]');
	await p.shot('settings-exemption');
	await p.page.click('.modal .cbi-button-positive');
	await p.page.waitForSelector('.cbi-section-table-row >> text=00:11:22:aa:bb:cc');
	/* LuCI applies, and loads the page anew. */
	await Promise.all([ p.page.waitForEvent('load', { timeout: 30000 }), p.page.click('.cbi-page-actions .cbi-button-apply') ]);
	await p.page.waitForSelector('.cbi-section-table-row >> text=TV');
	assert.match(house.configuration(), /config exempt[^]*name 'TV'[^]*list src_mac '00:11:22:aa:bb:cc'/);
	assert.match(house.configuration(), /option enabled '1'/, 'what was on stays on');
	assert.match(house.sh('nft list table inet vpn_killswitch'), /00:11:22:aa:bb:cc/);
	await p.close();
});

test('a wrong value is refused at its field', { skip }, async () => {
	begin();

	const p = await open(SETTINGS, { forgive: /contains an invalid input value/ });

	await p.page.click('text=Add an exemption');
	await p.page.waitForSelector('.modal [data-name="src_ip"]');
	await p.page.fill('.modal [data-name="name"] input', 'x');
	await p.page.click('.modal .cbi-button-positive');
	await p.page.waitForSelector('.modal .cbi-input-invalid');

	const said = await p.page.$eval('.modal [data-name="name"] .cbi-input-invalid', node => node.getAttribute('data-tooltip'));

	assert.match(said, /it names nothing and would exempt everyone/);
	await p.shot('settings-refused');
	await p.page.click('.modal >> text=Dismiss');
	await p.page.click('text=Advanced');
	await p.page.fill('[data-name="pass_mark"] input', '0x100');
	await p.page.keyboard.press('Tab');
	await p.page.waitForSelector('[data-name="pass_mark"] .cbi-input-invalid');
	await p.page.click('.cbi-page-actions .cbi-button-save');
	await p.page.waitForSelector('.modal');
	assert.doesNotMatch(house.configuration(), /pass_mark/);
	await p.close();
});

test('what the program refuses is shown in the settings', { skip }, async () => {
	begin();
	house.configure(house.CONFIG.replace(`strict'`, `strict'\n\toption pass_mark '0x100'`));

	const p = await open(SETTINGS);

	await p.page.waitForSelector('.alert-message >> text=pass_mark: found \'0x100\'');
	await p.close();
});

test('switching on a set-up that keeps its own tunnel down warns first', { skip }, async () => {
	begin({ on: false });
	house.configure(house.CONFIG.split('config endpoint')[0]);

	const p = await open(STATUS);

	await p.banner('off');
	await p.page.click('.vks-switch');
	await p.page.waitForSelector('.modal >> text=No VPN server can be reached');
	await p.shot('status-warning');
	assert.equal(posture(), 'disabled');
	await p.page.click('.modal >> text=Cancel');
	await p.close();
});

test('explain says what the program says', { skip }, async () => {
	begin();

	const p = await open(EXPLAIN);
	const ask = async (from, to, protocol = 'tcp') => {
		await p.page.fill('[name=source]', from);
		await p.page.fill('[name=destination]', to);
		await p.page.selectOption('[name=protocol]', protocol);
		await p.page.click('[type=submit]');
	};

	await ask('192.168.1.7', '192.0.2.80');
	await p.page.waitForSelector('.vks-banner >> text=Yes, through the tunnel');
	await p.shot('explain-tunnel');
	house.tunnelDown();
	await ask('192.168.1.7', '192.0.2.80', 'icmp');
	await p.page.waitForSelector('.vks-banner >> text=It does not get out.');
	await p.page.click('summary');
	await p.page.waitForSelector('td >> text=fwd_reject_1');
	await p.shot('explain-refused');
	await ask('192.168.1.7', 'example.org');
	await p.page.waitForSelector('.alert-message >> text=names are not looked up');
	house.run('disable');
	await ask('192.168.1.7', '192.0.2.80');
	await p.page.waitForSelector('.vks-banner.vks-error >> text=around the tunnel');
	await p.shot('explain-exposed');
	await p.close();
});

test('the first page of LuCI has the posture, and what is old does not stay', { skip }, async () => {
	begin();

	const p = await open('status/index', { forgive: /ubus code|RPCError/ });

	await p.banner('protecting');
	await p.page.waitForSelector('text=/Blocked packets: \\d+\\. Devices that tried to get out: \\d+/');
	await p.shot('overview');
	server.state.fails = 4;
	await p.banner('unknown');
	await p.close();
});

test('pictures: narrow, dark, and in other languages', { skip }, async () => {
	begin();

	for (const [ path, name ] of [ [ STATUS, 'status' ], [ SETTINGS, 'settings' ], [ EXPLAIN, 'explain' ] ])
		for (const [ look, options ] of [ [ 'narrow', { width: 360 } ], [ 'dark', { dark: true } ], [ 'dark-narrow', { width: 360, dark: true } ] ]) {
			const p = await open(path, options);

			await p.page.waitForSelector(name == 'status' ? '#vks-layers td' : '#view h2');
			await p.shot(`${name}-${look}`);
			await p.close();
		}

	const { start } = await import('./server.mjs');

	for (const [ language, word, warned ] of [ [ 'de', 'Geschützt', 'Kein VPN-Server ist erreichbar' ], [ 'zh_Hans', '已保护', '无法访问任何 VPN 服务器' ] ]) {
		begin();

		const other = await start({ luci: LUCI, root: house.root, hints: HINTS, devices: DEVICES, language });

		for (const path of [ STATUS, SETTINGS, EXPLAIN ])
			for (const [ look, options ] of [ [ '', {} ], [ '-narrow', { width: 360 } ], [ '-dark', { width: 360, dark: true } ] ]) {
				const p = await open(path, { at: other, ...options });

				await p.page.waitForSelector(path == STATUS ? `.vks-banner >> text=${word}` : '#view h2');
				await p.shot(`${path.split('/')[1]}-${language}${look}`);
				await p.close();
			}

		/* What the program warns of, in the page's words. */
		house.configure(house.CONFIG.split('config endpoint')[0].replace(`option enabled '0'`, `option enabled '1'\n\tlist local_device 'br-gone'`));

		const p = await open(STATUS, { at: other });

		await p.page.waitForSelector(`[data-code="no-endpoint"] >> text=${warned}`);
		await p.page.waitForSelector('[data-code="local-missing"]');
		await p.shot(`status-warnings-${language}`);
		await p.close();
		await other.close();
	}
});
