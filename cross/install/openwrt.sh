# OpenWrt up to 21.02, where the firewall is fw3 (later ones have the packages). The service and the hooks
# are the package's own, from openwrt/files; cross/release puts them in where a line says `#@own`.
#
# shellcheck shell=dash disable=SC2034,SC2154

FIRMWARE='OpenWrt up to 21.02'
PLATFORM=openwrt
PLACES=/usr/lib
STORAGE_HINT='this OpenWrt cannot write to its flash'
INIT=/etc/init.d/vpn-killswitch
LINK=/usr/sbin/vpn-killswitch
FIREWALL=/etc/config/firewall
INCLUDE="
config include 'vpn_killswitch'
	option type 'script'
	option path '/usr/libexec/vpn-killswitch-firewall'
	option reload '1'
"

there() {
	[ -f "$R/etc/openwrt_release" ] || die "this is no OpenWrt"
	[ ! -x "$R/sbin/fw4" ] || die "this OpenWrt is 22.03 or later: install the package"
	[ ! -e "$R/usr/lib/opkg/info/vpn-killswitch.control" ] || die "it is installed as a package: opkg upgrades and removes it"
}

storage() {
	place
	CONFIG=/etc/config/vpn-killswitch
}

fits() {
	[ ! -e "$R$LINK" ] || [ -L "$R$LINK" ] || die "$LINK is there already, and not from here; move it away first"
}

# procd keeps the guard running here.
hook_script() {
	cat <<HOOK
#!/bin/sh
# How the installer speaks to the service.
case "\$1" in
stop) [ ! -x $INIT ] || $INIT stop ;;
guarded) pgrep -f 'vpn-killswitch guard' >/dev/null ;;
*) $INIT enable && $INIT start ;;
esac
HOOK
}

hooks() {
	ln -sf "$HOME_DIR/vpn-killswitch" "$R$LINK" || die "cannot make $LINK"
	record file "$LINK"
	#@own 755 /etc/init.d/vpn-killswitch
	#@own 644 /etc/capabilities/vpn-killswitch.json
	#@own 755 /usr/libexec/vpn-killswitch-firewall
	#@own 644 /etc/hotplug.d/iface/15-vpn-killswitch
	#@own 644 /etc/hotplug.d/net/15-vpn-killswitch
	# A sysupgrade takes all of it along.
	{
		sed -n 's/^file //p' "$R$HOME_DIR/installed"
		say "$HOME_DIR/installed"
		say /etc/rc.d/S15vpn-killswitch
		say /lib/upgrade/keep.d/vpn-killswitch
	} | sort -u | own 644 /lib/upgrade/keep.d/vpn-killswitch || exit 1
	[ -f "$R$FIREWALL" ] || return 0
	slurp "$R$FIREWALL"
	case "$TEXT" in
	*vpn_killswitch*) ;;
	*) put '' "$FIREWALL" "$TEXT$INCLUDE" ;;
	esac
}

unhook() {
	[ -n "$R" ] || [ ! -x "$INIT" ] || "$INIT" disable
	[ -f "$R$FIREWALL" ] || return 0
	slurp "$R$FIREWALL"
	case "$TEXT" in
	*"$INCLUDE"*) put '' "$FIREWALL" "${TEXT%%"$INCLUDE"*}${TEXT#*"$INCLUDE"}" ;;
	*vpn_killswitch*) [ -n "$R" ] || { uci -q delete firewall.vpn_killswitch && uci commit firewall; } ;;
	esac
}

hooked() {
	local file code=0
	for file in "$INIT" /usr/libexec/vpn-killswitch-firewall /etc/hotplug.d/iface/15-vpn-killswitch \
		/etc/hotplug.d/net/15-vpn-killswitch; do
		[ ! -e "$R$file" ] || continue
		say "Missing: $file"
		code=1
	done
	[ ! -f "$R$FIREWALL" ] || grep -q vpn_killswitch "$R$FIREWALL" || {
		say "Missing: the include in $FIREWALL"
		code=1
	}
	return "$code"
}
