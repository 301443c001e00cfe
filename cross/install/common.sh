# What the installers have in common. cross/release puts this, one firmware's part and a last line that
# calls main into one file: a copy that was cut short does nothing.
#
# For BusyBox's ash with few applets. A step that fails leaves in force what was in force: nothing here
# opens a router but `uninstall`, and that says so.
#
# The firmware's part has:
#   FIRMWARE, PLATFORM   its name for people, and for the program's --platform
#   there                ends if this router runs something else
#   storage              sets HOME_DIR, the folder of our own, and CONFIG, the settings
#   fits                 ends if the hooks cannot be put in place; changes nothing
#   hooks                puts the hooks in place
#   unhook               takes out what is not a file of our own
#   hooked               names what is missing
#
# shellcheck shell=dash disable=SC2034,SC2153,SC2154,SC2317

say() { printf '%s\n' "$*"; }
warn() { printf 'vpn-killswitch: %s\n' "$*" >&2; }
die() {
	warn "$*"
	exit 1
}
# `command` is not in every ash.
has() { type "$1" >/dev/null 2>&1; }

NL='
'

# --- Which program -------------------------------------------------------------------------------

# How bytes are read here: some BusyBoxes have neither hexdump nor an od that can do this.
reader() {
	if [ "$(printf A | hexdump -v -e '1/1 "%02x"' 2>/dev/null)" = 41 ]; then
		READER='hexdump'
	elif [ "$(printf A | od -An -tx1 2>/dev/null | tr -d ' ')" = 41 ]; then
		READER='od'
	else
		READER=
	fi
}

# The byte at an offset of a file, as two hexadecimal digits.
byte() { # FILE OFFSET
	case "$READER" in
	hexdump) dd if="$1" bs=1 skip="$2" count=1 2>/dev/null | hexdump -v -e '1/1 "%02x"' ;;
	od) dd if="$1" bs=1 skip="$2" count=1 2>/dev/null | od -An -tx1 | tr -d ' \n' ;;
	*)
		# A shell's variable has no NUL, and a substitution loses newlines at its end.
		local raw value=1
		raw=$(dd if="$1" bs=1 skip="$2" count=1 2>/dev/null && echo x)
		if [ "$raw" = x ]; then
			printf 00
			return
		fi
		while [ "$value" -lt 256 ]; do
			# shellcheck disable=SC2059 # the byte is the format
			if [ "$raw" = "$(printf "\\$((value >> 6))$((value >> 3 & 7))$((value & 7))x")" ]; then
				printf '%02x' "$value"
				return
			fi
			value=$((value + 1))
		done
		;;
	esac
}

# Sets TARGET: which of the programs this CPU runs. The firmware's own shell tells the byte order and the
# family (ELF's header, elf(5)), the kernel the rest.
cpu() {
	local file class order machine flags
	for file in "$R/bin/busybox" "$R/bin/sh" ''; do
		[ -n "$file" ] || die "found no program of this firmware to learn the CPU from"
		[ ! -f "$file" ] || break
	done
	reader
	[ "$(byte "$file" 0)$(byte "$file" 1)$(byte "$file" 2)$(byte "$file" 3)" = 7f454c46 ] ||
		die "$file is no ELF program: cannot tell the CPU"
	class=$(byte "$file" 4) order=$(byte "$file" 5)
	case "$order" in
	01)
		machine=$(byte "$file" 19)$(byte "$file" 18)
		flags=$(byte "$file" 39)$(byte "$file" 38)$(byte "$file" 37)$(byte "$file" 36)
		;;
	02)
		machine=$(byte "$file" 18)$(byte "$file" 19)
		flags=$(byte "$file" 36)$(byte "$file" 37)$(byte "$file" 38)$(byte "$file" 39)
		;;
	*) die "$file: unknown byte order $order" ;;
	esac
	case "$class-$order-$machine" in
	02-01-003e) TARGET=x86_64 ;;
	01-01-0003) TARGET=i386_pentium4 ;;
	02-01-00b7) TARGET=aarch64_generic ;;
	02-01-00f3) TARGET=riscv64_generic ;;
	01-01-0028) arm "$flags" ;;
	01-01-0008) mips "$flags" mipsel_24kc ;;
	01-02-0008) mips "$flags" mips_24kc ;;
	02-*-0008) die "this is a 64-bit MIPS; there is no program for it" ;;
	*-02-0028 | *-02-00b7) die "this is a big-endian ARM; there is no program for it" ;;
	*) die "there is no program for this CPU (ELF machine 0x$machine, class $class)" ;;
	esac
}

# The programs are static, so it is the CPU and the kernel that count, not the firmware's own float ABI.
arm() { # FLAGS
	local features
	case "$1" in
	05*) ;;
	*) die "this firmware has ARM's old ABI (ELF flags 0x$1); there is no program for it" ;;
	esac
	# The kernel names the FPU only if it saves its registers for programs.
	features=" $(sed -n 's/^Features[^:]*://p' "$R/proc/cpuinfo" | head -n 1) "
	case "$(uname -m)" in
	aarch64 | armv8*) TARGET=arm_cortex-a7_neon-vfpv4 ;;
	armv7*)
		case "$features" in
		*' vfpv3'* | *' vfpv4'* | *' neon '*) TARGET=arm_cortex-a7_neon-vfpv4 ;;
		*) TARGET=arm_cortex-a9 ;;
		esac
		;;
	armv6*)
		case "$features" in
		*' vfp '*) TARGET=arm_arm1176jzf-s_vfp ;;
		*) TARGET=arm_xscale ;;
		esac
		;;
	armv5te*) TARGET=arm_xscale ;;
	*) die "there is no program for this ARM ($(uname -m))" ;;
	esac
}

mips() { # FLAGS TARGET
	case "$1" in
	????1???) ;;
	*) die "this firmware is no O32 MIPS (ELF flags 0x$1); there is no program for 64-bit ABIs" ;;
	esac
	# Kernels that do not tell have CPUs that can, or the trial below finds out.
	if grep -q '^isa' "$R/proc/cpuinfo" && ! grep -q '^isa.*mips32r2' "$R/proc/cpuinfo"; then
		die "this MIPS is older than release 2 of MIPS32; there is no program for it"
	fi
	TARGET=$2
}

# --- From the release folder to the router ---------------------------------------------------------

# The SHA-256 sum of a file; nothing if this firmware cannot tell.
sha256() { # FILE
	local sum
	if has sha256sum; then
		sum=$(sha256sum "$1") && printf '%s' "${sum%% *}"
	elif has openssl; then
		sum=$(openssl dgst -sha256 "$1") && printf '%s' "${sum##* }"
	fi
}

# Ends unless a file is what SHA256SUMS says of NAME.
verify() { # FILE NAME
	[ -n "$VERIFY" ] || return 0
	local wanted found
	[ -f "$FROM/SHA256SUMS" ] || die "$FROM/SHA256SUMS is not there; copy it too, or use --no-verify"
	wanted=$(sed -n "s/^\([0-9a-f]*\) [ *]$2\$/\1/p" "$FROM/SHA256SUMS")
	[ -n "$wanted" ] || die "$FROM/SHA256SUMS does not name $2"
	found=$(sha256 "$1")
	[ -n "$found" ] ||
		die "this firmware has neither sha256sum nor openssl: compare by hand and use --no-verify"
	[ "$found" = "$wanted" ] || die "$1 is damaged: its SHA-256 sum is not the one in SHA256SUMS"
}

# The free room below a folder in KiB. df may break a line behind a long device name.
room() { # FOLDER
	local word last=
	# shellcheck disable=SC2046 # words are wanted
	set -- $(df -k "$1" 2>/dev/null | sed 1d)
	for word; do
		case "$word" in
		*%)
			printf '%s' "$last"
			return
			;;
		esac
		last=$word
	done
}

# Whether a folder is on storage that is there after a reboot, and can be written.
persistent() { # FOLDER
	local real device point kind rest best=/ type=
	real=$(cd "$R$1" 2>/dev/null && pwd -P) || return 1
	real=${real#"$R"}/
	while read -r device point kind rest; do
		case "$real" in
		"${point%/}"/*)
			# Of several mounts in one place the last one counts.
			if [ "${#point}" -ge "${#best}" ]; then best=$point type=$kind; fi
			# OpenWrt's, before its flash is there.
			case "$device" in overlayfs:/tmp/*) type=tmpfs ;; esac
			;;
		esac
	done <"$R/proc/mounts"
	case "$type" in
	'' | rootfs | tmpfs | ramfs | squashfs | cramfs | romfs) return 1 ;;
	esac
	(: >"$R$1/.vpn-killswitch.new") 2>/dev/null && rm -f "$R$1/.vpn-killswitch.new"
}

# --- Files of our own --------------------------------------------------------------------------------

# What was made here, one a line: what the removal takes away again.
listed() { # WORDS
	[ -f "$R$HOME_DIR/installed" ] && grep -qxF "$*" "$R$HOME_DIR/installed"
}
record() { # WORDS
	listed "$@" || printf '%s\n' "$*" >>"$R$HOME_DIR/installed" || die "cannot write in $HOME_DIR"
}

# Makes a folder, and writes down which ones are new.
folder() { # FOLDER
	[ ! -d "$R$1" ] || return 0
	[ -z "${1%/*}" ] || folder "${1%/*}"
	record folder "$1"
	mkdir "$R$1" || die "cannot make $1"
}

# Puts a text into a file: whole, or not at all.
put() { # MODE FILE TEXT
	local new="$R${2%/*}/.vks-new"
	rm -f "$new"
	# A file that is there keeps its owner and mode.
	if { [ ! -e "$R$2" ] || cp -p "$R$2" "$new"; } && printf '%s' "$3" >"$new" &&
		[ "$(cat "$new" && echo x)" = "${3}x" ] &&
		{ [ -z "$1" ] || chmod "$1" "$new"; } && mv -f "$new" "$R$2"; then
		return
	fi 2>/dev/null
	rm -f "$new"
	die "cannot write $2: is ${2%/*} full?"
}

# Puts standard input into a file of our own.
own() { # MODE FILE
	local text
	text=$(cat && echo x)
	folder "${2%/*}"
	if [ -e "$R$2" ] && ! listed file "$2"; then
		die "$2 is there already, and not from here; move it away first"
	fi
	record file "$2"
	put "$1" "$2" "${text%x}"
}

# The text of a file with its newlines, in TEXT.
slurp() { # FILE
	TEXT=
	[ ! -e "$1" ] || TEXT=$(cat "$1" && echo x) || die "cannot read $1"
	TEXT=${TEXT%x}
}

# --- Blocks in other people's scripts ------------------------------------------------------------------

BEGIN='# >>> vpn-killswitch'
END='# <<< vpn-killswitch'

# The file behind a link, or the file itself.
real() { # FILE
	local file="$R$1" to
	[ -e "$file" ] || [ ! -L "$file" ] || die "$1 is a link that leads nowhere"
	while [ -L "$file" ]; do
		to=$(readlink "$file") || die "cannot follow $1"
		case "$to" in
		/*) file=$R$to ;;
		*) file=${file%/*}/$to ;;
		esac
	done
	printf '%s' "${file#"$R"}"
}

# Puts a block into a script, first of all: behind an `exit` in the script it would never run. What is
# there is left byte for byte; a script that is not there is made.
block() { # FILE LINE
	local file first rest mark
	file=$(real "$1") || exit 1
	folder "${file%/*}"
	slurp "$R$file"
	cut_block
	if [ ! -e "$R$file" ]; then
		record script "$file"
		put 755 "$file" "#!/bin/sh$NL$BEGIN$NL$2$NL$END$NL"
		return
	fi
	first=${TEXT%%"$NL"*} mark=
	case "$first" in
	'#!'*)
		rest=${TEXT#"$first"}
		# A lone first line may have no newline at its end.
		[ -n "$rest" ] || mark=' lone'
		;;
	*) rest=$NL$TEXT first= ;;
	esac
	put '' "$file" "${first:+$first$NL}$BEGIN$mark$NL$2$NL$END$NL${rest#"$NL"}"
}

# Ends unless a block can be put into this script so that it runs.
block_fits() { # FILE
	local file
	file=$(real "$1") || exit 1
	[ -e "$R$file" ] || return 0
	slurp "$R$file"
	case "${TEXT%%"$NL"*}" in
	'#!'*sh | '#!'*sh' '* | '') ;;
	'#!'*) die "$1 is no shell script (${TEXT%%"$NL"*}); call $HOME_DIR/hook from it yourself, or move it away" ;;
	esac
	# What is not executable the firmware leaves out, and what is in it nobody wants to run.
	[ -x "$R$file" ] || die "$1 is there but not executable, so it does not run; make it so, or move it away"
}

# Takes the block out of TEXT.
cut_block() {
	local before after mark
	case "$NL$TEXT" in
	*"$NL$BEGIN"*"$END$NL"*) ;;
	*) return 0 ;;
	esac
	before=${TEXT%%"$BEGIN"*}
	after=${TEXT#*"$BEGIN"}
	mark=${after%%"$NL"*}
	after=${after#*"$END$NL"}
	case "$mark" in
	*lone*) before=${before%"$NL"} ;;
	esac
	TEXT=$before$after
}

# Takes the block out of a script again, and the script with it if it was made for the block alone.
unblock() { # FILE
	local file
	file=$(real "$1") || exit 1
	[ -e "$R$file" ] || return 0
	slurp "$R$file"
	cut_block
	if listed script "$file" && [ "$TEXT" = "#!/bin/sh$NL" ]; then
		rm -f "$R$file"
	else
		put '' "$file" "$TEXT"
	fi
}

blocked() { # FILE
	local file
	file=$(real "$1") || exit 1
	[ -x "$R$file" ] && grep -qF "$BEGIN" "$R$file"
}

# --- nvram -----------------------------------------------------------------------------------------------

nvram_there() {
	for NVRAM in "$R/usr/sbin/nvram" "$R/bin/nvram" "$R/sbin/nvram" "$R/usr/bin/nvram" ''; do
		[ -n "$NVRAM" ] || return 1
		[ ! -x "$NVRAM" ] || return 0
	done
}

# Ends unless this looks like the firmware with nvram that this script is for. The program tells them by the
# same marks.
nvram_of() { # PLATFORM
	local looks
	nvram_there || die "there is no nvram here: this is no $FIRMWARE"
	if [ -e "$R/usr/sbin/helper.sh" ]; then
		looks=merlin
	elif [ -e "$R/usr/sbin/nvram" ]; then
		looks=ddwrt
	else
		looks=tomato
	fi
	[ "$looks" = "$1" ] || [ -n "$FORCE" ] ||
		die "this looks like the firmware for install-$looks.sh; --force installs for $FIRMWARE all the same"
}

# A setting with its newlines, in VALUE.
nvram_get() { # NAME
	VALUE=$("$NVRAM" get "$1" 2>/dev/null; echo x)
	VALUE=${VALUE%x}
	VALUE=${VALUE%"$NL"}
}

# Writes a setting, and looks whether it is there: nvram can be full.
nvram_set() { # NAME VALUE
	local wanted=$2 old
	nvram_get "$1"
	old=$VALUE
	[ "$old" != "$wanted" ] || return 0
	if [ -z "$wanted" ]; then
		"$NVRAM" unset "$1"
	else
		"$NVRAM" set "$1=$wanted"
	fi >/dev/null 2>&1
	nvram_get "$1"
	if [ "$VALUE" = "$wanted" ] && "$NVRAM" commit >/dev/null 2>&1; then
		return
	fi
	if [ -z "$old" ]; then "$NVRAM" unset "$1"; else "$NVRAM" set "$1=$old"; fi >/dev/null 2>&1
	warn "nvram does not take $1: is it full?"
	return 1
}

# --- What the firmware calls -------------------------------------------------------------------------------

# Written once as $HOME_DIR/hook; every hook of the firmware is one line that calls it.
hook_script() {
	sed -e "s|@HOME@|$HOME_DIR|g" -e "s|@PLATFORM@|$PLATFORM|g" <<'HOOK'
#!/bin/sh
# What the firmware calls at its start and around its firewall: `hook EVENT`. Closes first, if nothing did
# since the router started; then puts back what others changed, and sees to it that the guard runs.
# Nothing here opens, and no failure is the firmware's: it is in the log.
PATH="$PATH:/sbin:/bin:/usr/sbin:/usr/bin"
program=@HOME@/vpn-killswitch
state=/var/run/vpn-killswitch.hook

log() { logger -t vpn-killswitch "$*" 2>/dev/null; }

# Whether the process in a file is one of ours.
runs() { # FILE
	read -r pid 2>/dev/null <"$1" && kill -0 "$pid" 2>/dev/null &&
		grep -q vpn-killswitch "/proc/$pid/cmdline" 2>/dev/null
}

arm() { # EVENT
	boot=
	[ -e "$state/armed" ] || boot=--boot
	if said=$("$program" --platform @PLATFORM@ apply $boot 2>&1); then
		: >"$state/armed"
	else
		log "$1: $said"
	fi
}

# Starts what keeps the guard running, unless it is there. Of two hooks at once one does it.
guard() {
	runs "$state/pid" && return
	if ! (set -C && echo $$ >"$state/starting") 2>/dev/null; then
		runs "$state/starting" && return
		echo $$ >"$state/starting"
	fi
	if ! runs "$state/pid"; then
		"$0" supervise </dev/null >/dev/null 2>&1 &
		echo $! >"$state/pid"
	fi
	rm -f "$state/starting"
}

# Before Linux 3.12 there is no second layer, and the firmware is about to wipe the first. DD-WRT calls this
# before, puts our rules back through its next hook, and switches forwarding on at the end of its start; so
# until then it rests, unless protection is off.
rest() {
	case "$(uname -r)" in
	2.* | 3.[0-9] | 3.[0-9][!0-9]* | 3.1[01]*) ;;
	*) return ;;
	esac
	"$program" --platform @PLATFORM@ status >/dev/null 2>&1
	[ "$?" != 3 ] || return
	for family in ipv4/ip_forward ipv6/conf/all/forwarding; do
		[ ! -e "/proc/sys/net/$family" ] || echo 0 >"/proc/sys/net/$family"
	done
}

mkdir -p "$state"
case "$1" in
supervise)
	trap '' HUP
	# One that lost its supervisor.
	if runs "$state/guard"; then kill "$pid"; fi
	child=
	trap 'kill "$child" 2>/dev/null; exit 0' TERM
	while [ -x "$program" ]; do
		"$program" --platform @PLATFORM@ guard &
		child=$!
		echo "$child" >"$state/guard"
		wait "$child"
		sleep 2
	done
	;;
stop)
	runs "$state/pid" || exit 0
	kill "$pid"
	tries=50
	while kill -0 "$pid" 2>/dev/null && [ "$tries" -gt 0 ]; do
		sleep 1
		tries=$((tries - 10))
	done
	rm -f "$state/pid" "$state/guard"
	;;
guarded) runs "$state/pid" ;;
*)
	arm "$1"
	[ "$1" != prewall ] || rest
	guard
	;;
esac
HOOK
}

# --- Commands ------------------------------------------------------------------------------------------------

program() { # ARGUMENTS: runs the installed program
	if [ -n "$R" ]; then
		"$R$HOME_DIR/vpn-killswitch" --root "$R" --platform "$PLATFORM" "$@"
	else
		"$HOME_DIR/vpn-killswitch" --platform "$PLATFORM" "$@"
	fi
}

# Sets HOME_DIR where it is installed already.
found() { # FOLDER...
	local place
	for place; do
		HOME_DIR=$place/vpn-killswitch
		[ ! -f "$R$HOME_DIR/installed" ] || return 0
	done
	return 1
}

# Sets HOME_DIR: where it is installed already, or on the first storage that has room. PLACES and NEED.
place() {
	local place free why=
	# shellcheck disable=SC2086 # words are wanted
	found $PLACES && return
	for place in $PLACES; do
		persistent "$place" || continue
		free=$(room "$R$place")
		HOME_DIR=$place/vpn-killswitch
		[ "${free:-0}" -lt "$NEED" ] || return 0
		why="$why; $place has ${free:-no} KiB left, and $NEED are needed"
	done
	[ -z "$why" ] || die "no room: ${why#; }"
	die "neither of $PLACES is storage that can be written and outlives a reboot; $STORAGE_HINT"
}

# Sets CONFIG: where the program looks, which is where the file is, or else where its folder is.
config() {
	local place
	for place in $PLACES; do
		CONFIG=$place/etc/config/vpn-killswitch
		[ ! -e "$R$CONFIG" ] || return 0
	done
	for place in $PLACES; do
		CONFIG=$place/etc/config/vpn-killswitch
		[ ! -d "$R${CONFIG%/*}" ] || return 0
	done
	CONFIG=${HOME_DIR%/*}/etc/config/vpn-killswitch
}

# The program for this CPU in the release folder.
choose() {
	SOURCE=$FROM/vpn-killswitch-$TARGET
	[ -f "$SOURCE" ] || die "$SOURCE is not there: that is the program for this CPU"
	verify "$SOURCE" "vpn-killswitch-$TARGET"
	# Beside the old one, and some room for the rest.
	NEED=$(($(wc -c <"$SOURCE") / 1024 + 64))
}

# Whether two files are the same, as well as this firmware can tell.
same() { # FILE FILE
	if has cmp; then
		cmp -s "$1" "$2"
	else
		[ "$(sha256 "$1")" = "$(sha256 "$2")" ] && [ "$(wc -c <"$1")" = "$(wc -c <"$2")" ]
	fi
}

# Copies it beside the old one, and tries it there.
fetch() {
	local free said
	free=$(room "$R${HOME_DIR%/*}")
	[ -n "$free" ] || die "cannot tell how much room there is in ${HOME_DIR%/*}"
	[ "$free" -ge "$NEED" ] || die "no room: ${HOME_DIR%/*} has $free KiB left, and $NEED are needed"
	NEW=$R$HOME_DIR/.vpn-killswitch.new
	trap 'rm -f "$NEW"; [ -s "$R$HOME_DIR/installed" ] || rmdir "$R$HOME_DIR" 2>/dev/null' EXIT
	trap 'exit 1' INT TERM HUP
	[ -d "$R$HOME_DIR" ] || mkdir "$R$HOME_DIR" || die "cannot make $HOME_DIR"
	{ cp "$SOURCE" "$NEW" 2>/dev/null && same "$SOURCE" "$NEW" && chmod 755 "$NEW"; } ||
		die "could not copy the program: is ${HOME_DIR%/*} full?"
	said=$("$NEW" --version 2>&1) || die "the program does not run on this router: $said"
	case "$said" in
	'vpn-killswitch '*) VERSION=$said ;;
	*) die "the program does not run on this router: $said" ;;
	esac
}

# A first configuration, switched off.
settings() {
	[ ! -e "$R$CONFIG" ] || return 0
	folder "${CONFIG%/*}"
	record file "$CONFIG"
	# On a firmware that it does not know, it has nothing to propose.
	[ "$PLATFORM" = generic ] || program setup >/dev/null 2>&1
	[ ! -e "$R$CONFIG" ] || return 0
	put 600 "$CONFIG" "# Look through this, then switch it on: $HOME_DIR/vpn-killswitch --platform $PLATFORM enable

config killswitch 'main'
	# 1 closes every way out but the tunnels, now and after each boot. Until then, all is open.
	option enabled '0'

	# The VPN's devices; 'tun*' is every tun device.
	#list tunnel_device 'tun*'

	# The bridges of your own networks. Never list an uplink here.
	#list local_device 'br0'

# A VPN server that is not in the VPN's own configuration; the router may reach it beside the tunnel.
#config endpoint
#	option host 'vpn.example.net'
#	option port '51820'
#	option proto 'udp'
"
}

# Brings the new program into force, and has it say what is.
prove() {
	local code call="$HOME_DIR/vpn-killswitch --platform $PLATFORM"
	if [ -z "$R" ]; then
		"$HOME_DIR/hook" stop
		# At a start a broken configuration closes; an installation is to change nothing.
		mkdir -p /var/run/vpn-killswitch.hook && : >/var/run/vpn-killswitch.hook/armed
		"$HOME_DIR/hook" install
	fi
	hooked || die "not everything is in place; install again, or remove it with 'uninstall'"
	program status
	code=$?
	say ''
	case "$code" in
	0 | 4 | 5) say "Protection is in force." ;;
	6) warn "installed, but protection is not complete on this router: see above, and '$call check'" ;;
	3)
		say "Protection is off, and the router open. Look through the settings, then close it:"
		say "  vi $CONFIG"
		say "  $call enable"
		;;
	*) die "installed, but not in order: see above, and then '$call check'" ;;
	esac
}

do_install() {
	there
	cpu
	choose
	storage
	fits
	fetch
	hook_script | own 755 "$HOME_DIR/hook" || exit 1
	record file "$HOME_DIR/vpn-killswitch"
	mv -f "$NEW" "$R$HOME_DIR/vpn-killswitch" || die "cannot put the program in place"
	settings
	hooks
	say "$VERSION ($TARGET) is in $HOME_DIR, its settings are in $CONFIG."
	prove
}

do_uninstall() {
	local kind path folders='' end="This router is now OPEN: clients reach the Internet without the VPN."
	# shellcheck disable=SC2086 # words are wanted
	if ! found $PLACES; then
		for path in $PLACES; do
			rm -f "$R$path/vpn-killswitch/.vpn-killswitch.new"
			rmdir "$R$path/vpn-killswitch" 2>/dev/null
		done
		say "vpn-killswitch is not installed."
		return
	fi
	storage
	[ -n "$R" ] || [ ! -x "$HOME_DIR/hook" ] || "$HOME_DIR/hook" stop
	if [ ! -e "$R$CONFIG" ]; then
		# Without a configuration it would not open.
		folder "${CONFIG%/*}"
		record file "$CONFIG"
		put 600 "$CONFIG" "config killswitch 'main'$NL"
	fi
	if [ ! -e "$R$HOME_DIR/vpn-killswitch" ]; then
		end="The program itself was not there: its rules, if there are any, stay until the next boot."
	elif program disable; then
		:
	elif [ -n "$FORCE" ]; then
		end="It could not be switched off: its rules stay until the next boot."
	else
		[ -n "$R" ] || [ ! -x "$HOME_DIR/hook" ] || "$HOME_DIR/hook" install
		warn "could not be switched off, so nothing was removed: what is in force stays in force."
		die "mend $CONFIG and try again; with --force all is removed, but rules stay until the next boot"
	fi
	unhook
	while read -r kind path; do
		case "$kind" in
		file)
			[ "$path" = "$CONFIG" ] && [ -n "$KEEP" ] || rm -f "$R$path" || die "cannot remove $path"
			;;
		folder) folders="$path $folders" ;;
		esac
	done <"$R$HOME_DIR/installed"
	rm -f "$R$HOME_DIR/installed" "$R$HOME_DIR/.vks-new" "$R$HOME_DIR/.vpn-killswitch.new"
	rmdir "$R$HOME_DIR" || warn "$HOME_DIR has files that are not from here; they were left"
	for path in $folders; do
		# Others may have put something into it.
		rmdir "$R$path" 2>/dev/null
	done
	rm -rf "$R"/var/run/vpn-killswitch.*
	say "vpn-killswitch is removed. $end"
}

do_check() {
	local code=0
	# shellcheck disable=SC2086 # words are wanted
	if ! found $PLACES; then
		say "vpn-killswitch is not installed."
		return 1
	fi
	there
	cpu
	storage
	say "$(program --version 2>&1) ($TARGET) in $HOME_DIR, settings in $CONFIG"
	if [ -f "$FROM/vpn-killswitch-$TARGET" ] &&
		! same "$FROM/vpn-killswitch-$TARGET" "$R$HOME_DIR/vpn-killswitch"; then
		say "The program in $FROM is another one; 'install' would put it in place."
	fi
	hooked || code=1
	if [ -z "$R" ] && ! "$HOME_DIR/hook" guarded; then
		say "The guard does not run; the next hook starts it."
		code=1
	fi
	program check || code=$?
	return "$code"
}

usage() {
	say "Usage: sh ${0##*/} [install | uninstall | check] [OPTIONS]

Installs vpn-killswitch on $FIRMWARE, brings it up to date, or removes it. An installation
switches nothing on, and an upgrade opens nothing.

  --from DIR     where the programs and SHA256SUMS are; default: beside this script
  --no-verify    install without comparing checksums
  --keep-config  uninstall: leave the settings
  --force        install though it looks like another firmware; uninstall though protection
                 cannot be switched off
  --root DIR     work below DIR instead of /"
}

main() {
	local verb=install
	FROM='' R=${VKS_ROOT-} VERIFY=1 KEEP='' FORCE=''
	while [ $# -gt 0 ]; do
		case "$1" in
		install | uninstall | check) verb=$1 ;;
		--no-verify) VERIFY= ;;
		--keep-config) KEEP=1 ;;
		--force) FORCE=1 ;;
		--from | --root)
			[ $# -gt 1 ] || die "$1 needs a folder"
			if [ "$1" = --from ]; then FROM=$2; else R=$2; fi
			shift
			;;
		-h | --help)
			usage
			return
			;;
		*)
			usage >&2
			return 2
			;;
		esac
		shift
	done
	if [ -z "$FROM" ]; then
		FROM=${0%/*}
		[ "$FROM" != "$0" ] || FROM=.
	fi
	R=${R%/}
	umask 022
	"do_$verb"
}
