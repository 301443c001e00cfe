# Asuswrt-Merlin. Facts from its sources (release/src/router): `run_custom_script` in shared/scripts.c runs
# /jffs/scripts/NAME if it is executable and nvram's jffs2_scripts is not 0, with the arguments given, and
# waits for it only if it is called with a timeout. All that are used here are called without: they run
# beside the firmware. So what closes a gap is layer 2, which the firmware's firewall does not touch.
# init-start runs as soon as /jffs is mounted, firewall-start behind each start of the firewall (with the
# WAN's device), wan-event and openvpn-event at each change.
#
# shellcheck shell=dash disable=SC2034,SC2154

FIRMWARE=Asuswrt-Merlin
PLATFORM=merlin
PLACES=/jffs
STORAGE_HINT='switch JFFS on under Administration, System'
SCRIPTS=/jffs/scripts
EVENTS='init-start services-start firewall-start wan-event openvpn-event'

there() {
	nvram_of "$PLATFORM"
}

storage() {
	place
	config
}

fits() {
	local event
	for event in $EVENTS; do
		block_fits "$SCRIPTS/$event"
	done
}

hooks() {
	local event
	for event in $EVENTS; do
		block "$SCRIPTS/$event" "[ ! -x $HOME_DIR/hook ] || $HOME_DIR/hook $event \"\$@\""
	done
	nvram_get jffs2_scripts
	[ "$VALUE" != 1 ] || return 0
	record nvram "jffs2_scripts=$VALUE"
	nvram_set jffs2_scripts 1 || die "the scripts in $SCRIPTS do not run"
}

unhook() {
	local event old
	for event in $EVENTS; do
		unblock "$SCRIPTS/$event"
	done
	old=$(sed -n 's/^nvram jffs2_scripts=//p' "$R$HOME_DIR/installed")
	grep -q '^nvram jffs2_scripts=' "$R$HOME_DIR/installed" && nvram_there || return 0
	# Whoever has put scripts there since wants them to run.
	[ -n "$(ls "$R$SCRIPTS")" ] || nvram_set jffs2_scripts "$old"
}

hooked() {
	local event code=0
	for event in $EVENTS; do
		blocked "$SCRIPTS/$event" && continue
		say "Missing: our lines in $SCRIPTS/$event"
		code=1
	done
	nvram_get jffs2_scripts
	[ "$VALUE" = 1 ] || {
		say "nvram's jffs2_scripts is not 1: the scripts in $SCRIPTS do not run"
		code=1
	}
	return "$code"
}
