'use strict';
'require baseclass';

/*
 * What may stand in the configuration, as the program reads it (src/config, src/types): each check answers
 * true, or what is wrong in the program's own words. A test holds the two together.
 */

const DNS_PORTS = [ 53, 853, 5353, 5355 ];
const DEFAULT_PASS_MARK = 0x10000000;

const allowed = what => _('allowed is %s').format(what);

/* The bytes of an address, or null. */
function parseAddress(text) {
	const four = text.split('.');

	if (four.length == 4 && four.every(n => n >= 0 && n <= 255 && String(+n) == n))
		return four.map(Number);
	if (!/^[0-9a-f.]*:[0-9a-f:.]*$/i.test(text))
		return null;

	try {
		/* The browser reads the many ways to write one, and writes it in one way. */
		const [ head, tail ] = new URL('http://[' + text + ']').hostname.slice(1, -1).split('::').map(half => half ? half.split(':') : []);
		const words = tail ? [ ...head, ...Array(8 - head.length - tail.length).fill('0'), ...tail ] : head;

		return words.flatMap(w => [ parseInt(w, 16) >> 8, parseInt(w, 16) & 255 ]);
	}
	catch {
		return null;
	}
}

const stemOf = text => text.replace(/\*$/, '');

function device(text) {
	const stem = stemOf(text);

	if (stem == '')
		return _('\'*\' alone would name every device');
	if (stem.length > 15)
		return _('a device name has at most 15 characters');
	if (stem == '.' || stem == '..')
		return _('the kernel has no device of that name');
	if (!/^[!-~]+$/.test(stem) || /[/:*"\\]/.test(stem))
		return _('a device name is made of letters, digits and . - _ @ +; \'*\' only at its end');

	return text != 'lo' || _('the loopback device is neither a tunnel nor a network');
}

const interfaceName = text => (/^[A-Za-z0-9_.@-]{1,64}$/.test(text)) || _('an interface\'s name is made of letters, digits and . - _ @');

function exemptNet(text) {
	const [ , host, digits ] = /^([^/]*)(?:\/(.*))?$/.exec(text);
	const bytes = parseAddress(host);

	if (!bytes)
		return _('it is not an address or network');
	if (digits != null && !/^\d+$/.test(digits))
		return _('its prefix length is not a number');

	const length = digits == null ? bytes.length * 8 : +digits;

	if (length > bytes.length * 8)
		return _('its prefix length is too large');
	if (bytes.some((byte, n) => byte & (255 >> Math.min(8, Math.max(0, length - 8 * n)))))
		return _('it has bits set behind its prefix length');

	return length >= 8 || _('it is too wide for an exemption; the widest is /8');
}

function unicast(bytes) {
	const zero = n => !bytes.slice(0, n).some(b => b), [ first ] = bytes;

	if (bytes.length == 4 ? zero(4) || first == 127 || first >> 4 == 14 : first == 255 || (zero(15) && bytes[15] <= 1))
		return _('it is not the address of another host');
	if (bytes.length == 4)
		return !bytes.every(b => b == 255) || _('it is the broadcast address');

	return !(zero(10) && bytes[10] == 255 && bytes[11] == 255) || _('it is an IPv4 address in IPv6 clothes: write it as IPv4');
}

function address(text) {
	const bytes = parseAddress(text);

	return bytes ? unicast(bytes) : _('it is not an address');
}

function host(text) {
	const bytes = parseAddress(text), name = text.replace(/\.$/, ''), labels = name.split('.');
	const fits = bytes ? unicast(bytes) === true :
		name.length <= 253 && labels.every(l => (/^[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$/.test(l))) &&
		!/^\d+$/.test(labels[labels.length - 1]);

	return fits || allowed(_('an address or a host name'));
}

function mac(text) {
	const parts = text.split(/[:-]/), bytes = parts.map(p => parseInt(p, 16));

	if (parts.length != 6 || !parts.every(p => (/^[0-9a-f]{1,2}$/i.test(p))))
		return _('it is not an Ethernet address such as 00:11:22:aa:bb:cc');

	return !(bytes[0] & 1 || !bytes.some(b => b)) || _('it is a group address or zero: no device sends from it');
}

/* A decimal number from 1 to `most`. */
const within = (text, most) => (/^\d+$/.test(text)) && +text >= 1 && +text <= most;

const port = text => within(text, 65535) || allowed(_('a port from 1 to 65535'));

function range(text) {
	const [ , first, last ] = /^([^-]*)(?:-(.*))?$/.exec(text);

	return [ first, last == null ? first : last ];
}

function ports(text) {
	const ends = range(text);

	if (!ends.every(p => within(p, 65535)))
		return _('it is not a port (1-65535) or a range of ports such as 8000-8100');

	return +ends[0] <= +ends[1] || _('its first port is above its last');
}

const isProto = text => (/^(tcp|udp|icmp|icmpv6|gre|esp|ah|6in4)$/.test(text)) || within(text, 255);

const exemptProto = text => isProto(text) || allowed(_('tcp, udp, icmp, icmpv6, gre, esp or a number'));

const serverProto = text => isProto(text) || allowed(_('udp, tcp, gre, esp, ah, 6in4 or a protocol number'));

const hasPorts = proto => (/^(tcp|udp|0*6|0*17)$/.test(proto));

function label(text) {
	/* Control characters, and marks that change the direction of writing. */
	const hidden = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/;

	return (text.trim() != '' && Array.from(text).length <= 32 && !hidden.test(text)) || allowed(_('a name of at most 32 printable characters'));
}

/* A 32-bit number, decimal or with 0x; NaN for anything else. */
function number(text) {
	const n = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : NaN;

	return n <= 0xffffffff ? n : NaN;
}

/* The bit beside the pass mark that the program uses as well. */
const neighbour = mark => mark == 0x80000000 ? 0x40000000 : mark * 2;

/* `m` is the main section: the bits that it uses mean something else. */
function mark(text, m) {
	const n = number(text), pass = number(m?.pass_mark || '') || DEFAULT_PASS_MARK;
	const hex = bit => '0x' + bit.toString(16);

	if (!(n > 0))
		return allowed(_('a packet mark other than 0, such as 0xca6c'));
	if (m?.ipsec == '1' && n & neighbour(pass))
		return _('it contains the bit %s, which option ipsec needs').format(hex(neighbour(pass)));

	return !(n & pass) || _('it contains the pass mark %s, which would let such packets go anywhere').format(hex(pass));
}

function passMark(text) {
	const n = number(text);

	return (n > 0 && Math.log2(n) % 1 == 0 && !((n | neighbour(n)) & 0x00ff3f00)) ||
		allowed(_('one bit that pbr and mwan3 leave alone (0x1 to 0x40, 0x4000, 0x1000000 to 0x80000000)'));
}

const user = text => (/^[A-Za-z0-9_.$-]{1,32}$/.test(text)) || allowed(_('a user\'s name or number'));

/* UCI's words for yes and no (/lib/functions.sh), as form.Flag writes them. */
function flag(text, otherwise) {
	const at = [ '0', '1', 'off', 'on', 'false', 'true', 'no', 'yes', 'disabled', 'enabled' ].indexOf(text);

	return at < 0 ? otherwise : String(at % 2);
}

/* Values of a list: the words of an option count as well. */
const words = value => [].concat(value ?? []).flatMap(v => String(v).split(/\s+/)).filter(w => w != '');

/* What is wrong with an exemption as a whole, all of it { src_mac, src_ip, dest_ip, dest_port, proto }. */
function exemption(e) {
	const named = [ 'src_mac', 'src_ip', 'dest_ip', 'dest_port' ].filter(k => words(e[k]).length);

	if (!named.length)
		return _('it names nothing and would exempt everyone: add src_mac, src_ip, dest_ip or dest_port');

	const list = words(e.dest_port);
	const count = list.map(range).reduce((n, [ first, last ]) => n + +last - +first + 1, 0);

	if (named.join() == 'dest_port' && count > 1000)
		return _('%d ports of everyone: at most 1000 without src_mac, src_ip or dest_ip').format(count);
	if (list.length && e.proto && !hasPorts(e.proto))
		return _('only tcp and udp have ports: change proto or remove it');

	const of = (nets, v6) => !nets.length || nets.some(n => n.includes(':') == v6);

	return [ false, true ].some(v6 => of(words(e.src_ip), v6) && of(words(e.dest_ip), v6)) ||
		_('src_ip and dest_ip are of different families: no packet has both');
}

/* What is wrong with a VPN server as a whole, { proto, port, source_port, mark, user }. */
function server(e) {
	const proto = e.proto || 'udp', ported = hasPorts(proto);

	if (ported && !e.port)
		return _('missing; it names %s').format(_('the VPN server\'s port, from 1 to 65535'));
	if (!ported && (e.port || e.source_port))
		return _('protocol %s has no ports: remove it, or set proto to udp or tcp').format(proto);

	return !(ported && DNS_PORTS.includes(+e.port) && !e.mark && !e.user) ||
		_('an endpoint on a DNS port would let the router\'s own DNS questions out: add option mark (WireGuard\'s fwmark) or option user (the VPN\'s own user)');
}

/* Whether two patterns of devices may mean one device. */
function overlap(a, b) {
	const fits = (name, pattern) => pattern.endsWith('*') ? stemOf(name).startsWith(stemOf(pattern)) : name == pattern;

	return fits(a, b) || fits(b, a);
}

/* What contradicts itself in the main section. */
function main(m) {
	const [ tunnel_device, tunnel_interface, local_device, local_interface ] = [ m.tunnel_device, m.tunnel_interface, m.local_device, m.local_interface ].map(words);

	for (const t of tunnel_device)
		for (const l of local_device)
			if (overlap(t, l))
				return _('tunnel_device \'%s\' and local_device \'%s\' name the same device: a tunnel\'s far side is not a local network').format(t, l);

	const twice = tunnel_interface.find(name => local_interface.includes(name));

	if (twice)
		return _('interface \'%s\' is listed as tunnel_interface and as local_interface').format(twice);
	if (m.enabled != '1')
		return true;
	if (!tunnel_device.length && !tunnel_interface.length && m.ipsec != '1')
		return _('enabled without a tunnel: add list tunnel_interface or list tunnel_device (or option ipsec)');

	return local_device.length + local_interface.length > 0 ||
		_('enabled without a local network, which would lock you out: add list local_interface or list local_device');
}

return baseclass.extend({
	device, interfaceName, exemptNet, address, host, mac, port, ports, exemptProto, serverProto, label, mark, passMark,
	user, flag, words, exemption, server, main
});
