'use strict';
'require baseclass';

/*
 * What may stand in the configuration, as the program reads it (src/config, src/types): each check answers
 * true, or what is wrong in the program's own words. A test holds the two together.
 */

const DNS_PORTS = [ 53, 853, 5353, 5355 ];
const PROTOS = { icmp: 1, '6in4': 41, tcp: 6, udp: 17, gre: 47, esp: 50, ah: 51, icmpv6: 58 };

function isIPv4(text) {
	const m = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);

	return m != null && m.slice(1).every(n => n <= 255 && String(+n) == n);
}

/* The sixteen bytes of an IPv6 address, or null. */
function parseIPv6(text) {
	if (!/^[0-9a-f:.]+$/i.test(text))
		return null;

	const v4 = /^(.*:)([^:]*\..*)$/.exec(text);

	if (v4) {
		if (!isIPv4(v4[2]))
			return null;

		const b = v4[2].split('.').map(Number);

		text = v4[1] + (b[0] * 256 + b[1]).toString(16) + ':' + (b[2] * 256 + b[3]).toString(16);
	}

	const halves = text.split('::');

	if (halves.length > 2)
		return null;

	const words = halves.map(h => h == '' ? [] : h.split(':'));
	const count = words.reduce((n, w) => n + w.length, 0);

	if (words.some(w => w.some(x => !/^[0-9a-f]{1,4}$/i.test(x))))
		return null;
	if (halves.length == 1 ? count != 8 : count > 7)
		return null;

	const full = halves.length == 1 ? words[0] : words[0].concat(Array(8 - count).fill('0'), words[1]);

	return [].concat.apply([], full.map(w => [ parseInt(w, 16) >> 8, parseInt(w, 16) & 255 ]));
}

function parseAddress(text) {
	return isIPv4(text) ? text.split('.').map(Number) : parseIPv6(text);
}

function device(text) {
	const prefix = /\*$/.test(text), stem = prefix ? text.slice(0, -1) : text;

	if (stem == '')
		return prefix ? _('\'*\' alone would name every device') : _('it is empty');
	if (stem.length > 15)
		return _('a device name has at most 15 characters');
	if (stem == '.' || stem == '..')
		return _('the kernel has no device of that name');
	if (!/^[!-~]+$/.test(stem) || /[/:*"\\]/.test(stem))
		return _('a device name is made of letters, digits and . - _ @ +; \'*\' only at its end');
	if (stem == 'lo' && !prefix)
		return _('the loopback device is neither a tunnel nor a network');

	return true;
}

function interfaceName(text) {
	if (text == '')
		return _('it is empty');
	if (text.length > 64 || !/^[A-Za-z0-9_.@-]+$/.test(text))
		return _('an interface\'s name is made of letters, digits and . - _ @');

	return true;
}

function exemptNet(text) {
	const slash = text.indexOf('/');
	const bytes = parseAddress(slash < 0 ? text : text.slice(0, slash));

	if (!bytes)
		return _('it is not an address or network');

	let length = bytes.length * 8;

	if (slash >= 0) {
		const digits = text.slice(slash + 1);

		if (!/^\d+$/.test(digits))
			return _('its prefix length is not a number');
		if (+digits > length)
			return _('its prefix length is too large');

		length = +digits;
	}

	for (let bit = length; bit < bytes.length * 8; bit++)
		if (bytes[bit >> 3] & (128 >> (bit & 7)))
			return _('it has bits set behind its prefix length');

	return length < 8 ? _('it is too wide for an exemption; the widest is /8') : true;
}

function unicast(bytes) {
	if (bytes.length == 4) {
		if (bytes.every(b => b == 0) || bytes[0] == 127 || (bytes[0] >= 224 && bytes[0] <= 239))
			return _('it is not the address of another host');
		if (bytes.every(b => b == 255))
			return _('it is the broadcast address');

		return true;
	}

	if (bytes[0] == 255 || (bytes.slice(0, 15).every(b => b == 0) && bytes[15] <= 1))
		return _('it is not the address of another host');
	if (bytes.slice(0, 10).every(b => b == 0) && bytes[10] == 255 && bytes[11] == 255)
		return _('it is an IPv4 address in IPv6 clothes: write it as IPv4');

	return true;
}

function address(text) {
	const bytes = parseAddress(text);

	return bytes ? unicast(bytes) : _('it is not an address');
}

function host(text) {
	const bytes = parseAddress(text);
	const name = text.replace(/\.$/, ''), labels = name.split('.');
	const fits = bytes ? unicast(bytes) === true :
		name.length <= 253 && labels.every(l => (/^[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$/.test(l))) &&
		!/^\d+$/.test(labels[labels.length - 1]);

	return fits || _('allowed is %s').format(_('an address or a host name'));
}

function mac(text) {
	const parts = text.split(/[:-]/);

	if (parts.length != 6 || parts.some(p => !/^[0-9a-f]{1,2}$/i.test(p)))
		return _('it is not an Ethernet address such as 00:11:22:aa:bb:cc');
	if (parseInt(parts[0], 16) & 1 || parts.every(p => parseInt(p, 16) == 0))
		return _('it is a group address or zero: no device sends from it');

	return true;
}

function isPort(text) {
	return (/^\d+$/.test(text)) && +text >= 1 && +text <= 65535;
}

function port(text) {
	return isPort(text) || _('allowed is %s').format(_('a port from 1 to 65535'));
}

function ports(text) {
	const dash = text.indexOf('-');
	const ends = dash < 0 ? [ text, text ] : [ text.slice(0, dash), text.slice(dash + 1) ];

	if (!ends.every(isPort))
		return _('it is not a port (1-65535) or a range of ports such as 8000-8100');

	return +ends[0] <= +ends[1] || _('its first port is above its last');
}

/* The protocol's number, or null. */
function protoNumber(text) {
	if (PROTOS.hasOwnProperty(text))
		return PROTOS[text];

	return (/^\d+$/.test(text)) && +text >= 1 && +text <= 255 ? +text : null;
}

function hasPorts(proto) {
	return proto == 6 || proto == 17;
}

function label(text) {
	/* Control characters, and marks that change the direction of writing. */
	const hidden = c => c < 0x20 || (c >= 0x7f && c <= 0x9f) || (c >= 0x200b && c <= 0x200f) ||
		(c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff;
	const chars = Array.from(text);

	return (text.trim() != '' && chars.length <= 32 && !chars.some(c => hidden(c.codePointAt(0)))) ||
		_('allowed is %s').format(_('a name of at most 32 printable characters'));
}

/* A 32-bit number, decimal or with 0x; null for anything else. */
function number(text) {
	const hex = /^0[xX]([0-9A-Fa-f]+)$/.exec(text);
	const n = hex ? parseInt(hex[1], 16) : (/^\d+$/.test(text) ? +text : NaN);

	return n <= 0xffffffff ? n : null;
}

function mark(text) {
	return number(text) > 0 || _('allowed is %s').format(_('a packet mark other than 0, such as 0xca6c'));
}

function passMark(text) {
	const n = number(text);
	const neighbour = n == 0x80000000 ? 0x40000000 : n * 2;
	const taken = x => (x & 0x00ff3f00) != 0;

	return (n > 0 && Math.log2(n) % 1 == 0 && !taken(n) && !taken(neighbour)) ||
		_('allowed is %s').format(_('one bit that pbr and mwan3 leave alone (0x1 to 0x40, 0x4000, 0x1000000 to 0x80000000)'));
}

function user(text) {
	return (/^[A-Za-z0-9_.$-]{1,32}$/.test(text)) || _('allowed is %s').format(_('a user\'s name or number'));
}

/* UCI's words for yes and no (/lib/functions.sh), as form.Flag writes them. */
function flag(text, otherwise) {
	if ([ '1', 'on', 'true', 'yes', 'enabled' ].indexOf(text) >= 0)
		return '1';
	if ([ '0', 'off', 'false', 'no', 'disabled' ].indexOf(text) >= 0)
		return '0';

	return otherwise;
}

/* Values of a list: the words of an option count as well. */
function words(value) {
	return [].concat.apply([], [].concat(value == null ? [] : value).map(v => String(v).split(/\s+/))).filter(w => w != '');
}

/* What is wrong with an exemption as a whole, all of it { src_mac, src_ip, dest_ip, dest_port, proto }. */
function exemption(e) {
	const named = [ 'src_mac', 'src_ip', 'dest_ip', 'dest_port' ].filter(k => words(e[k]).length);

	if (!named.length)
		return _('it names nothing and would exempt everyone: add src_mac, src_ip, dest_ip or dest_port');

	const list = words(e.dest_port);
	const count = list.reduce((n, range) => {
		const ends = range.split('-');

		return n + (+ends[ends.length - 1]) - (+ends[0]) + 1;
	}, 0);

	if (named.length == 1 && named[0] == 'dest_port' && count > 1000)
		return _('%d ports of everyone: at most 1000 without src_mac, src_ip or dest_ip').format(count);
	if (list.length && e.proto && !hasPorts(protoNumber(e.proto)))
		return _('only tcp and udp have ports: change proto or remove it');

	const of = (nets, v6) => !nets.length || nets.some(n => (n.indexOf(':') >= 0) == v6);
	const [ src, dest ] = [ words(e.src_ip), words(e.dest_ip) ];

	return [ false, true ].some(v6 => of(src, v6) && of(dest, v6)) ||
		_('src_ip and dest_ip are of different families: no packet has both');
}

/* What is wrong with a VPN server as a whole, { proto, port, source_port, mark, user }. */
function server(e) {
	const proto = e.proto || 'udp', ported = hasPorts(protoNumber(proto));

	if (ported && !e.port)
		return _('missing; it names %s').format(_('the VPN server\'s port, from 1 to 65535'));
	if (!ported && (e.port || e.source_port))
		return _('protocol %s has no ports: remove it, or set proto to udp or tcp').format(proto);
	if (ported && DNS_PORTS.indexOf(+e.port) >= 0 && !e.mark && !e.user)
		return _('an endpoint on a DNS port would let the router\'s own DNS questions out: add option mark (WireGuard\'s fwmark) or option user (the VPN\'s own user)');

	return true;
}

/* Whether two patterns of devices may mean one device. */
function overlap(a, b) {
	const stem = p => p.replace(/\*$/, ''), wide = p => (/\*$/.test(p));

	if (wide(a) && wide(b))
		return stem(a).startsWith(stem(b)) || stem(b).startsWith(stem(a));
	if (wide(b))
		return a.startsWith(stem(b));
	if (wide(a))
		return b.startsWith(stem(a));

	return a == b;
}

/* What contradicts itself in the main section. */
function main(m) {
	for (const t of words(m.tunnel_device))
		for (const l of words(m.local_device))
			if (overlap(t, l))
				return _('tunnel_device \'%s\' and local_device \'%s\' name the same device: a tunnel\'s far side is not a local network').format(t, l);
	for (const name of words(m.tunnel_interface))
		if (words(m.local_interface).indexOf(name) >= 0)
			return _('interface \'%s\' is listed as tunnel_interface and as local_interface').format(name);
	if (m.enabled != '1')
		return true;
	if (!words(m.tunnel_device).length && !words(m.tunnel_interface).length && m.ipsec != '1')
		return _('enabled without a tunnel: add list tunnel_interface or list tunnel_device (or option ipsec)');
	if (!words(m.local_device).length && !words(m.local_interface).length)
		return _('enabled without a local network, which would lock you out: add list local_interface or list local_device');

	return true;
}

return baseclass.extend({
	device, interfaceName, exemptNet, address, host, mac, port, ports, protoNumber, label, mark, passMark,
	user, flag, words, exemption, server, main
});
