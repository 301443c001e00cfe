# Entware on any firmware: what is in /opt is started when /opt is mounted, so late, and nothing calls us
# behind the firmware's firewall: the guard alone puts rules back. Entware's rc.unslung runs
# /opt/etc/init.d/S* with `start` in alphabetical order, and with `stop` in the reverse.
#
# shellcheck shell=dash disable=SC2034,SC2154

FIRMWARE='a router with Entware'
PLATFORM=generic
PLACES=/opt
STORAGE_HINT='install Entware first'
INIT=/opt/etc/init.d/S05vpn-killswitch

there() {
	[ -d "$R/opt/etc/init.d" ] || die "there is no /opt/etc/init.d here: $STORAGE_HINT"
}

storage() {
	place
	config
}

# There the program would look first.
fits() {
	[ ! -e "$R/etc/config/vpn-killswitch" ] ||
		die "/etc/config/vpn-killswitch is there already, and not from here; move it away first"
}

hooks() {
	own 755 "$INIT" <<TEXT
#!/bin/sh
# Nothing here opens: stop ends the guard, and what is in force stays in force.
[ -x $HOME_DIR/hook ] || exit 0
case "\$1" in
start | restart | '') [ "\$1" != restart ] || $HOME_DIR/hook stop; $HOME_DIR/hook start ;;
stop | kill) $HOME_DIR/hook stop ;;
check) $HOME_DIR/hook guarded ;;
esac
TEXT
}

unhook() { :; }

hooked() {
	[ ! -x "$R$INIT" ] || return 0
	say "Missing: $INIT"
	return 1
}
