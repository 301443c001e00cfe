// A router of network namespaces, around the process that runs the tests: it is the router, in a namespace of its
// own (make test-luci sees to that). A client is behind br-lan, the provider behind wan0, the VPN behind wg0.

import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { program } from './page.mjs';

const sh = text => execFileSync('sh', [ '-ec', text ], { encoding: 'utf8', stdio: [ 'ignore', 'pipe', 'pipe' ] });

export const CONFIG = `config killswitch 'main'
	option enabled '0'
	list tunnel_device 'wg0'
	list local_device 'br-lan'
	option router 'strict'

config endpoint 'server'
	option name 'Provider'
	option host '203.0.113.10'
	option port '51820'
	option proto 'udp'
`;

/** Makes it. Everything ends with the process: namespaces have no names, the root directory is removed. */
export function router() {
	if (!sh('ip -o link').trim().split('\n').every(line => / lo: /.test(line)))
		throw new Error('this is not a namespace of its own: run make test-luci LUCI=<checkout>');

	const peers = {};
	const root = mkdtempSync(join(tmpdir(), 'vks-luci-'));

	sh('ip link set lo up; ip link add br-lan type bridge; echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding');

	for (const [ name, device ] of [ [ 'client', 'lan0' ], [ 'provider', 'wan0' ], [ 'vpn', 'wg0' ] ]) {
		/* Ends when its input does, and that is ours. */
		const child = spawn('unshare', [ '--net', 'cat' ], { stdio: [ 'pipe', 'ignore', 'inherit' ] });

		peers[name] = child;
		/* The namespace is the child's as soon as it is another than ours. */
		const ours = sh('readlink /proc/self/ns/net');

		for (let n = 0; sh(`readlink /proc/${child.pid}/ns/net`) == ours; n++)
			if (n > 500)
				throw new Error(`${name}: no namespace`);

		sh(`ip link add ${device} type veth peer name eth0 netns ${child.pid}; ip link set ${device} up; nsenter -t ${child.pid} -n sh -ec 'ip link set lo up; ip link set eth0 up'`);
	}

	const at = (name, text) => sh(`nsenter -t ${peers[name].pid} -n sh -ec '${text}'`);

	sh(`ip link set lan0 master br-lan; ip link set br-lan up
		ip addr add 192.168.1.1/24 dev br-lan; ip addr add 100.64.7.2/24 dev wan0; ip addr add 10.9.0.2/24 dev wg0
		ip route add default via 100.64.7.1 dev wan0 metric 100; ip route add default via 10.9.0.1 dev wg0 metric 5`);
	at('client', 'ip addr add 192.168.1.7/24 dev eth0; ip route add default via 192.168.1.1');
	at('provider', 'ip addr add 100.64.7.1/24 dev eth0');
	at('vpn', 'ip addr add 10.9.0.1/24 dev eth0');
	mkdirSync(join(root, 'etc/config'), { recursive: true });

	return {
		root,
		configure: text => writeFileSync(join(root, 'etc/config/vpn-killswitch'), text),
		configuration: () => readFileSync(join(root, 'etc/config/vpn-killswitch'), 'utf8'),
		run: (...args) => execFileSync(program(), [ '--root', root, '--platform', 'generic', ...args ], { encoding: 'utf8', stdio: [ 'ignore', 'pipe', 'pipe' ] }),
		sh,
		at,
		tunnelDown: () => sh('ip link set wg0 down'),
		tunnelUp: () => sh('ip link set wg0 up; ip route replace default via 10.9.0.1 dev wg0 metric 5'),
		end() {
			Object.values(peers).forEach(child => child.kill());
			rmSync(root, { recursive: true });
		}
	};
}
