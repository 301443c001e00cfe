# DD-WRT. Facts from its sources (src/router): `internal_runStartup` and `runStartup` in
# sysinit/sysinit.c run what ends in .startup, .prewall, .firewall or .wanup, in alphabetical order, and
# wait for each; the file must be executable. The folders are /etc/config, /jffs/etc/config,
# /mmc/etc/config, /tmp/etc/config, /usr/local/etc/config, /sd/etc/config and /opt/etc/init.d.
# `start_firewall` in services/networking/firewall.c runs *.prewall before it wipes the tables,
# *.firewall, then nvram's rc_firewall, then *.wanup behind it, and turns forwarding on last of all.
# nvram's rc_startup and rc_firewall are not touched.
#
# shellcheck shell=dash disable=SC2034,SC2154

FIRMWARE=DD-WRT
PLATFORM=ddwrt
PLACES='/jffs /opt'
STORAGE_HINT='switch JFFS2 on under Administration, Management, or mount a USB drive on /opt'
EVENTS='startup prewall firewall wanup'

there() {
	nvram_of "$PLATFORM"
}

storage() {
	place
	config
	case "$HOME_DIR" in
	/opt/*) HOOKS=/opt/etc/init.d ;;
	*) HOOKS=${HOME_DIR%/*}/etc/config ;;
	esac
	PAGE=$HOME_DIR/mypage
}

fits() { :; }

hooks() {
	local event
	for event in $EVENTS; do
		own 755 "$HOOKS/vpn-killswitch.$event" <<TEXT
#!/bin/sh
[ ! -x $HOME_DIR/hook ] || $HOME_DIR/hook $event
TEXT
	done
	page | own 755 "$PAGE" || exit 1
	nvram_get mypage_scripts
	case " $VALUE " in
	*" $PAGE "*) ;;
	*) nvram_set mypage_scripts "${VALUE:+$VALUE }$PAGE" || warn "so My Page does not show the status" ;;
	esac
}

unhook() {
	nvram_there || return 0
	nvram_get mypage_scripts
	case "$VALUE" in
	"$PAGE") VALUE= ;;
	*" $PAGE") VALUE=${VALUE% "$PAGE"} ;;
	"$PAGE "*) VALUE=${VALUE#"$PAGE "} ;;
	*" $PAGE "*) VALUE="${VALUE%% "$PAGE" *} ${VALUE#* "$PAGE" }" ;;
	esac
	nvram_set mypage_scripts "$VALUE"
}

hooked() {
	local event code=0
	for event in $EVENTS; do
		[ ! -x "$R$HOOKS/vpn-killswitch.$event" ] || continue
		say "Missing: $HOOKS/vpn-killswitch.$event"
		code=1
	done
	nvram_get mypage_scripts
	case " $VALUE " in
	*" $PAGE "*) ;;
	*) say "My Page does not show the status: nvram's mypage_scripts does not name $PAGE" ;;
	esac
	return "$code"
}

# `do_mypage` in httpd runs the programs that mypage_scripts names, without arguments, and sends what they
# print as the page.
page() {
	sed "s|@HOME@|$HOME_DIR|g" <<'PAGE'
#!/bin/sh
# DD-WRT's My Page: what is in force, read back from the kernel. Changes nothing.
said=$(@HOME@/vpn-killswitch --platform ddwrt status 2>&1)
case "$?" in
0) colour=#1a7f37 what='Protecting' ;;
3) colour=#cf222e what='Off: the router is open' ;;
4) colour=#9a6700 what='Blocking: no tunnel is up' ;;
5) colour=#9a6700 what='Paused' ;;
*) colour=#cf222e what='Not in order' ;;
esac
cat <<HTML
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="15">
<meta name="viewport" content="width=device-width">
<title>VPN kill switch</title>
<style>
body { font: 14px sans-serif; margin: 2em; }
h1 { font-size: 1.4em; border-left: .5em solid $colour; padding-left: .5em; }
pre { overflow: auto; padding: 1em; border: 1px solid #8888; }
</style>
</head>
<body>
<h1>VPN kill switch: $what</h1>
<pre>$(printf '%s\n' "$said" | sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g' -e 's/"/\&quot;/g')</pre>
<p><a href="/">Back to the router</a></p>
</body>
</html>
HTML
PAGE
}
