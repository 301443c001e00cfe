# FreshTomato. Facts from its sources (release/src-rt-6.x.4708/router): `run_nvscript` in
# rc/misc.c runs nvram's script_NAME, then what ends in .NAME in /etc/config, /jffs/etc/config,
# /opt/etc/config, /mmc/etc/config and /tmp/config, in alphabetical order and with execve, unless nvram's
# userfiles_disable is 1. `init` runs before LAN and WAN are started, and is waited for 2 s at most;
# `fire` at the end of start_firewall (rc/firewall.c), behind enable_ip_forward, and is waited for 1 s;
# `wanup` (rc/wan.c) is not waited for. Original Tomatoes have no such folders: there, and if the user
# has switched them off, one line in nvram's scripts does it.
#
# shellcheck shell=dash disable=SC2034,SC2154

FIRMWARE=FreshTomato
PLATFORM=tomato
PLACES='/jffs /opt'
STORAGE_HINT='switch JFFS on under Administration, or mount a USB drive on /opt'
EVENTS='init fire wanup'

there() {
	nvram_of "$PLATFORM"
}

storage() {
	place
	config
	HOOKS=${HOME_DIR%/*}/etc/config
}

fits() { :; }

# Whether the firmware looks into the folders.
folders_run() {
	local file
	nvram_get userfiles_disable
	[ "$VALUE" != 1 ] || return 1
	[ -f "$R/sbin/rc" ] || return 0
	for file in "$R/sbin/rc" "$R/usr/lib/libshared.so"; do
		[ ! -f "$file" ] || ! grep -q /jffs/etc/config "$file" || return 0
	done
	return 1
}

line() { # EVENT
	printf '%s' "[ ! -x $HOME_DIR/hook ] || $HOME_DIR/hook $1 # vpn-killswitch"
}

# The line comes first of all: behind an `exit` in the script it would never run.
hooks() {
	local event
	for event in $EVENTS; do
		if folders_run; then
			own 755 "$HOOKS/vpn-killswitch.$event" <<TEXT
#!/bin/sh
[ ! -x $HOME_DIR/hook ] || $HOME_DIR/hook $event
TEXT
			cut_line "$event"
		else
			nvram_get "script_$event"
			case "$NL$VALUE$NL" in
			*"$NL$(line "$event")$NL"*) continue ;;
			esac
			nvram_set "script_$event" "$(line "$event")${VALUE:+$NL}$VALUE" ||
				die "could not write script_$event: the hooks are not complete"
		fi
	done
}

cut_line() { # EVENT
	local ours
	ours=$(line "$1")
	nvram_get "script_$1"
	case "$VALUE" in
	"$ours") VALUE= ;;
	"$ours$NL"*) VALUE=${VALUE#"$ours$NL"} ;;
	*"$NL$ours") VALUE=${VALUE%"$NL$ours"} ;;
	*"$NL$ours$NL"*) VALUE=${VALUE%%"$NL$ours$NL"*}$NL${VALUE#*"$NL$ours$NL"} ;;
	*) return 0 ;;
	esac
	nvram_set "script_$1" "$VALUE"
}

unhook() {
	local event
	nvram_there || return 0
	for event in $EVENTS; do
		cut_line "$event"
	done
}

hooked() {
	local event code=0
	for event in $EVENTS; do
		if folders_run; then
			[ ! -x "$R$HOOKS/vpn-killswitch.$event" ] || continue
			say "Missing: $HOOKS/vpn-killswitch.$event"
		else
			nvram_get "script_$event"
			case "$NL$VALUE$NL" in
			*"$NL$(line "$event")$NL"*) continue ;;
			esac
			say "Missing: our line in nvram's script_$event"
		fi
		code=1
	done
	return "$code"
}
