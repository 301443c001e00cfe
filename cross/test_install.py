"""The installers for DD-WRT, FreshTomato, Asuswrt-Merlin, Entware and old OpenWrt: in a root of their own,
by BusyBox's ash, with stand-ins for nvram and the program that write down what they are called for.
"""

import hashlib
import os
import pathlib
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest

import test_lifecycle
import test_protection
from testlib import TOP

# In real ones a value is text too; `get` ends it with a newline, `commit` is what survives a reboot.
NVRAM = r"""#!/bin/sh
case "$1" in
get) [ ! -f "/nvram/$2" ] || { cat "/nvram/$2"; echo; } ;;
set) [ ! -e /nvram-full ] && printf '%s' "${2#*=}" >"/nvram/${2%%=*}" ;;
unset) rm -f "/nvram/$2" ;;
commit) echo "nvram commit" >>/calls ;;
esac
"""
# The program: what it does to the kernel is a file here.
PROGRAM = r"""#!/bin/sh
# {version} {padding}
for word; do
	case "$last$word" in
	--version) echo "vpn-killswitch {version}"; exit ;;
	--platform) last=platform; continue ;;
	platform*) platform=$word last=; continue ;;
	esac
	words="$words $word"
done
case "$platform" in
ddwrt | tomato | merlin) places="/jffs /opt" ;;
generic) places="/opt" ;;
*) places="/." ;;
esac
for what in /vpn-killswitch ""; do
	for place in $places; do
		[ -n "$config" ] || [ ! -e "$place/etc/config$what" ] || config=$place/etc/config/vpn-killswitch
	done
done
echo "program {version}$words" >>/calls
set -- $words
enabled() { grep -q "enabled '1'" "$config"; }
case "$1" in
setup) [ ! -e /no-setup ] || exit 2
	[ -e "$config" ] || echo "	option enabled '0'" >"$config" ;;
apply) [ ! -e /broken ] || exit 1
	if enabled; then echo closed >/kernel; fi ;;
disable) [ ! -e /broken ] || exit 1
	text=$(sed "s/enabled '1'/enabled '0'/" "$config"); echo "$text" >"$config"; rm -f /kernel ;;
status) echo "status <of> \"$platform\" & $(cat /kernel 2>/dev/null)"
	enabled || exit 3
	exit "$(cat /posture 2>/dev/null || echo 0)" ;;
check) enabled || exit 3
	exit "$(cat /posture 2>/dev/null || echo 0)" ;;
guard) while sleep 1; do :; done ;;
esac
"""
MOUNTS = "rootfs / rootfs rw 0 0\n/dev/root / squashfs ro 0 0\ntmpfs /tmp tmpfs rw 0 0\n"
JFFS = "/dev/mtdblock/4 /jffs jffs2 rw 0 0\n"
OPT = "/dev/sda1 /opt ext4 rw 0 0\n"
DF = """#!/bin/sh
# A long name of a device, as BusyBox breaks it.
echo "Filesystem           1K-blocks      Used Available Use% Mounted on"
echo "/dev/mapper/a-very-long-name-of-a-device"
echo "                          {size}      {used}      {free} 50% $2"
"""
QUIET = ("program 1.0.0 status", "program 1.1.0 status")


def release(folder, version, padding=""):
    """A release whose only program is the stand-in, for this machine's CPU; returns its folder."""
    binaries = folder / f"bin-{version}"
    name = cpu_name()
    (binaries / name).mkdir(parents=True)
    program = PROGRAM.replace("{version}", version).replace("{padding}", padding)
    (binaries / name / "vpn-killswitch").write_text(program)
    return make_release(binaries, folder / f"release-{version}", [name])


def make_release(binaries, out, names):
    """Runs cross/release; returns its folder."""
    command = [sys.executable, TOP / "cross" / "release", "--binaries", binaries, "--out", out]
    for name in names:
        command += ["--target", name]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return out


def cpu_name():
    """What the project calls this machine's CPU."""
    return {"x86_64": "x86_64", "aarch64": "aarch64_generic", "riscv64": "riscv64_generic"}[
        os.uname().machine
    ]


def elf(bits=1, order=1, machine=8, flags=0x70001007):
    """The header of an ELF program."""
    end = "<" if order == 1 else ">"
    head = b"\x7fELF" + bytes([bits, order, 1]) + bytes(9)
    head += struct.pack(end + "HHI", 2, machine, 1)
    if bits == 1:
        return head + struct.pack(end + "IIII", 0, 0, 0, flags) + bytes(12)
    return head + struct.pack(end + "QQQI", 0, 0, 0, flags) + bytes(12)


class Router(test_lifecycle.Root):
    """A router: a root with BusyBox, nvram and storage. What is started in it ends with its command."""

    def __init__(self, path, mounts=JFFS):
        super().__init__(path)
        self.enter = ["unshare", "-r", "-p", "-f", "--kill-child"]
        for folder in ("jffs", "opt", "release", "var/run", "nvram"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        self.like("ddwrt")
        self.tool("bin/logger", '#!/bin/sh\necho "log $*" >>/calls\n')
        self.df(free=9000)
        self.mounts(mounts)
        (path / "proc/cpuinfo").write_text("processor : 0\n")
        (path / "dev/null").touch()
        (path / "dev/null").chmod(0o666)

    def tool(self, name, text):
        """A program of the firmware, in place of BusyBox's."""
        tool = self.path / name
        tool.unlink(missing_ok=True)
        tool.write_text(text)
        tool.chmod(0o755)

    def like(self, firmware):
        """Has what one of the firmwares with nvram is known by."""
        for name in ("usr/sbin/nvram", "bin/nvram", "usr/sbin/helper.sh"):
            (self.path / name).unlink(missing_ok=True)
        self.tool("usr/sbin/nvram" if firmware == "ddwrt" else "bin/nvram", NVRAM)
        if firmware == "merlin":
            self.tool("usr/sbin/helper.sh", "")

    def df(self, free):
        """What df says is free, in KiB."""
        self.tool("bin/df", DF.format(size=20000, used=20000 - free, free=free))

    def mounts(self, text):
        """What is mounted."""
        (self.path / "proc/mounts").write_text(MOUNTS + text)

    def bring_release(self, folder):
        """Copies a release to the router."""
        shutil.rmtree(self.path / "release")
        shutil.copytree(folder, self.path / "release")

    def installer(self, firmware, *arguments, check=True, **variables):
        """Runs a firmware's installer; returns what it printed and its status."""
        script = f"/release/install-{firmware}.sh"
        return self.run("/bin/sh", script, *arguments, check=check, **variables)

    def write(self, name, text, mode=0o755):
        """A file of the user's."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        path.chmod(mode)

    def nvram(self, name):
        """A setting, or None."""
        return self.text(f"nvram/{name}")

    def tree(self):
        """Everything but what tests write down: paths with mode, and content or target."""
        out = {}
        for folder, folders, files in os.walk(self.path):
            for name in folders + files:
                path = pathlib.Path(folder, name)
                within = str(path.relative_to(self.path))
                if within.startswith(("calls", "release/", "proc", "dev")):
                    continue
                # Processes, which end with each command here.
                if within.startswith("var/run/vpn-killswitch.hook/") and name != "armed":
                    continue
                mode = path.lstat().st_mode
                content = None
                if path.is_symlink():
                    content = os.readlink(path)
                elif stat.S_ISREG(mode):
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                out[within] = (mode, content)
        return out


class Case(unittest.TestCase):
    """Two releases, and a router."""

    firmware = None
    mounts = JFFS

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.scratch = pathlib.Path(scratch.name)
        cls.releases = {v: release(cls.scratch, v) for v in ("1.0.0", "1.1.0")}

    def setUp(self):
        self.maxDiff = None
        folder = tempfile.TemporaryDirectory(dir=self.scratch)
        self.addCleanup(folder.cleanup)
        self.router = Router(pathlib.Path(folder.name) / "root", self.mounts)
        if self.firmware in ("ddwrt", "tomato", "merlin"):
            self.router.like(self.firmware)
        self.prepare()
        self.router.bring_release(self.releases["1.0.0"])

    def prepare(self):
        """What the firmware has."""

    def install(self, *arguments, version="1.0.0", **more):
        """Installs a version."""
        self.router.bring_release(self.releases[version])
        return self.router.installer(self.firmware, "install", *arguments, **more)

    def same(self, found, wanted, why=""):
        """Whether two trees are the same; tells the differences alone."""
        paths = sorted(set(found) | set(wanted))
        different = {p: (found.get(p), wanted.get(p)) for p in paths if found.get(p) != wanted.get(p)}
        self.assertEqual(different, {}, why)

    def refused(self, *words, arguments=(), **variables):
        """An installation that must say all of `words`, and leave everything as it is."""
        before = self.router.tree()
        out, status = self.router.installer(
            self.firmware, "install", *arguments, check=False, **variables
        )
        self.assertNotEqual(status, 0, out)
        for word in words:
            self.assertIn(word, out)
        self.same(self.router.tree(), before)


class Common:
    """What holds on each firmware."""

    home = "jffs/vpn-killswitch"
    config = "jffs/etc/config/vpn-killswitch"
    # Between the steps at which an installation is killed: all of them where this is 1.
    stride = 5

    def user_files(self):
        """Puts what users have on such routers."""

    def switch_on(self):
        """What the user does."""
        self.router.write(self.config, "\toption enabled '1'\n", 0o600)
        self.router.write("kernel", "closed\n", 0o644)

    def test_an_installation_switches_nothing_on_and_names_the_next_step(self):
        out, _ = self.install()
        self.assertIn("vpn-killswitch 1.0.0", out)
        self.assertIn("enable", out)
        self.assertIn("enabled '0'", self.router.text(self.config))
        self.assertIsNone(self.router.text("kernel"))
        self.assertNotIn("program 1.0.0 enable", self.router.calls())
        mode = (self.router.path / self.home / "vpn-killswitch").stat().st_mode
        self.assertEqual(mode & 0o777, 0o755)

    def test_a_second_time_changes_nothing(self):
        self.user_files()
        self.install()
        once = self.router.tree()
        self.install()
        self.same(self.router.tree(), once)

    def test_a_removal_leaves_the_router_as_it_was(self):
        self.user_files()
        before = self.router.tree()
        self.install()
        self.assertNotEqual(self.router.tree(), before)
        self.switch_on()
        out, _ = self.router.installer(self.firmware, "uninstall")
        self.assertIn("OPEN", out)
        self.same(self.router.tree(), before)
        out, _ = self.router.installer(self.firmware, "uninstall")
        self.assertIn("not installed", out)
        self.same(self.router.tree(), before)

    def test_a_removal_opens_first(self):
        self.install()
        self.switch_on()
        self.router.calls()
        self.router.installer(self.firmware, "uninstall")
        self.assertEqual([c for c in self.router.calls() if "disable" in c], ["program 1.0.0 disable"])

    def test_a_removal_that_cannot_open_removes_nothing_and_does_not_say_that_it_did(self):
        self.install()
        self.switch_on()
        (self.router.path / "broken").touch()
        before = self.router.tree()
        out, status = self.router.installer(self.firmware, "uninstall", check=False)
        self.assertEqual(status, 1)
        self.assertNotIn("OPEN", out)
        self.same(self.router.tree(), before)
        out, _ = self.router.installer(self.firmware, "uninstall", "--force")
        self.assertIsNone(self.router.text(f"{self.home}/vpn-killswitch"))

    def test_settings_can_stay(self):
        self.install()
        self.switch_on()
        self.router.installer(self.firmware, "uninstall", "--keep-config")
        self.assertEqual(self.router.text(self.config), "\toption enabled '0'\n")

    def test_an_upgrade_keeps_settings_and_protection(self):
        self.user_files()
        self.install()
        self.switch_on()
        hooks = self.router.tree()
        self.router.calls()
        out, _ = self.install(version="1.1.0")
        self.assertIn("vpn-killswitch 1.1.0", out)
        calls = self.router.calls()
        self.assertFalse([c for c in calls if "disable" in c or "enable" in c or "pause" in c])
        self.assertEqual(self.router.text(self.config), "\toption enabled '1'\n")
        self.assertEqual(self.router.text("kernel"), "closed\n")
        program = f"{self.home}/vpn-killswitch"
        self.assertIn("1.1.0", self.router.text(program))
        after = self.router.tree()
        changed = {path for path in after | hooks if after.get(path) != hooks.get(path)}
        self.assertEqual(changed, {program})

    def test_an_upgrade_without_a_tunnel_or_a_second_layer_is_one_too(self):
        self.install()
        self.switch_on()
        for posture, words in ((0, ""), (4, ""), (5, ""), (6, "not complete")):
            self.router.write("posture", f"{posture}\n", 0o644)
            out, status = self.router.installer(self.firmware, "install", check=False)
            self.assertEqual(status, 0, out)
            self.assertIn(words, out)
        self.router.write("posture", "2\n", 0o644)
        out, status = self.router.installer(self.firmware, "install", check=False)
        self.assertEqual(status, 1)
        self.assertIn("not in order", out)

    def test_what_does_not_fit_leaves_the_old_in_force(self):
        self.install()
        self.switch_on()
        self.router.bring_release(self.releases["1.1.0"])
        self.router.df(free=10)
        self.refused("no room", "10 KiB")
        self.assertIn("1.0.0", self.router.text(f"{self.home}/vpn-killswitch"))

    def test_a_full_disk_that_df_does_not_know_of_leaves_the_old_in_force(self):
        # A storage of 40 KiB for a program of 60, and df says that there is room.
        large = self.scratch / f"large-{self.firmware}"
        large.mkdir()
        self.router.bring_release(release(large, "1.1.0", "x" * 60000))
        place = self.home.rsplit("/", 1)[0]
        script = (
            f"mount -t tmpfs -o size=40k none {self.router.path}/{place} && "
            f"cp -a {self.router.path}/tmp/kept/. {self.router.path}/{place}/ && "
            f"chroot {self.router.path} /bin/sh /release/install-{self.firmware}.sh; "
            f"echo status $?; find {self.router.path}/{place} | sort; "
            f"cat {self.router.path}/{self.home}/vpn-killswitch 2>/dev/null | sed -n 2p"
        )
        kept = self.router.path / "tmp/kept"
        shutil.copytree(self.router.path / place, kept, symlinks=True)
        run = subprocess.run(
            ["unshare", "-r", "-m", "-p", "-f", "--kill-child", "sh", "-c", script],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        out = run.stdout + run.stderr
        self.assertIn("status 1", out)
        self.assertIn("full?", out)
        self.assertNotIn("/vpn-killswitch\n", out.split("status 1")[1])

    def test_a_damaged_program_is_refused(self):
        program = self.router.path / "release" / f"vpn-killswitch-{cpu_name()}"
        program.write_text(program.read_text() + "#")
        self.refused("damaged")
        (self.router.path / "release/SHA256SUMS").unlink()
        self.refused("SHA256SUMS", "--no-verify")

    def test_who_cannot_compare_is_told(self):
        for tool in ("sha256sum", "openssl"):
            (self.router.path / "bin" / tool).unlink(missing_ok=True)
        self.refused("neither sha256sum nor openssl", "--no-verify")
        self.install("--no-verify")

    def test_a_program_that_does_not_run_here_is_refused(self):
        self.install()
        self.switch_on()
        binaries = self.scratch / f"foreign-{self.firmware}"
        (binaries / cpu_name()).mkdir(parents=True)
        (binaries / cpu_name() / "vpn-killswitch").write_bytes(elf(machine=0x28) + bytes(100))
        folder = make_release(binaries, self.scratch / f"out-{self.firmware}", [cpu_name()])
        self.router.bring_release(folder)
        self.refused("does not run on this router")

    def test_interrupted_at_any_step_it_can_be_repeated(self):
        self.user_files()
        before = self.router.tree()
        self.router.installer(self.firmware, "install")
        complete = {p: c for p, c in self.router.tree().items() if not p.startswith("var/run/")}
        self.router.installer(self.firmware, "uninstall")
        self.same(self.router.tree(), before)
        # Each step that changes anything goes through one of these; it dies at the n-th.
        for step in range(1, 400, self.stride):
            self.router.calls()
            self.mine(step)
            _, status = self.router.installer(self.firmware, "install", check=False)
            self.sweep()
            if status == 0:
                break
            config = self.router.text(self.config)
            self.assertIn("enabled '0'", config or "enabled '0'")
            if step % 2:
                self.router.installer(self.firmware, "install")
                after = {p: c for p, c in self.router.tree().items() if not p.startswith("var/run/")}
                self.same(after, complete, f"step {step}")
            self.router.installer(self.firmware, "uninstall")
            self.same(self.router.tree(), before, f"step {step}")
        self.assertGreater(step, 5)

    def mine(self, step):
        """Has the installer killed at the step-th call of a program that changes something."""
        for tool in ("mv", "mkdir", "chmod", "cp", "rm"):
            link = self.router.path / "bin" / tool
            link.unlink()
            self.router.tool(
                f"bin/{tool}",
                '#!/bin/sh\necho x >>/tmp/steps\n[ "$(grep -c x /tmp/steps)" -lt '
                f"{step} ] || {{ [ -e /tmp/dead ] || {{ : >/tmp/dead; kill -9 $PPID; exit 1; }}; }}\n"
                f'exec /bin/busybox {tool} "$@"\n',
            )

    def sweep(self):
        """Undoes `mine`."""
        for tool in ("mv", "mkdir", "chmod", "cp", "rm"):
            (self.router.path / "bin" / tool).unlink()
            (self.router.path / "bin" / tool).symlink_to("busybox")
        for name in ("steps", "dead"):
            (self.router.path / "tmp" / name).unlink(missing_ok=True)

    def test_check_tells_what_is_there(self):
        out, status = self.router.installer(self.firmware, "check", check=False)
        self.assertEqual((status, out), (1, "vpn-killswitch is not installed.\n"))
        self.install()
        out, _ = self.router.installer(self.firmware, "check", check=False)
        self.assertIn("vpn-killswitch 1.0.0", out)
        self.assertNotIn("Missing", out)
        self.router.bring_release(self.releases["1.1.0"])
        out, _ = self.router.installer(self.firmware, "check", check=False)
        self.assertIn("another one", out)


class DdWrt(Common, Case):
    """DD-WRT."""

    firmware = "ddwrt"
    stride = 1

    def user_files(self):
        self.router.write("jffs/etc/config/mine.firewall", "iptables -L\n")
        self.router.write("nvram/mypage_scripts", "/jffs/a /jffs/b", 0o644)
        self.router.write("nvram/rc_firewall", "iptables -I FORWARD -j ACCEPT\n\n", 0o644)

    def test_the_hooks_and_the_page(self):
        self.user_files()
        self.install()
        for event in ("startup", "prewall", "firewall", "wanup"):
            path = self.router.path / f"{self.config}.{event}"
            self.assertEqual(path.stat().st_mode & 0o777, 0o755)
            self.assertIn(f"/jffs/vpn-killswitch/hook {event}\n", path.read_text())
        page = "/jffs/vpn-killswitch/mypage"
        self.assertEqual(self.router.nvram("mypage_scripts"), f"/jffs/a /jffs/b {page}")
        html, _ = self.router.run(page)
        self.assertIn("status &lt;of&gt; &quot;ddwrt&quot; &amp;", html)
        self.assertIn("Off: the router is open", html)
        # Another one that came later stays, and so does the order.
        self.router.write("nvram/mypage_scripts", f"/jffs/a {page} /jffs/b", 0o644)
        self.router.installer(self.firmware, "uninstall")
        self.assertEqual(self.router.nvram("mypage_scripts"), "/jffs/a /jffs/b")

    def test_without_jffs_it_is_opt(self):
        self.router.mounts(OPT)
        self.install()
        self.assertIsNotNone(self.router.text("opt/vpn-killswitch/vpn-killswitch"))
        self.assertIsNotNone(self.router.text("opt/etc/config/vpn-killswitch"))
        self.assertIsNotNone(self.router.text("opt/etc/init.d/vpn-killswitch.firewall"))

    def test_without_storage_it_says_so(self):
        self.router.mounts("tmpfs /jffs tmpfs rw 0 0\n")
        self.refused("outlives a reboot")

    def test_the_first_storage_with_room_is_taken(self):
        self.router.mounts(JFFS + OPT)
        self.router.tool(
            "bin/df",
            "#!/bin/sh\necho head\ncase $2 in /jffs*) f=20 ;; *) f=9000 ;; esac\n"
            'echo "dev 1 1 $f 1% $2"\n',
        )
        self.install()
        self.assertIsNotNone(self.router.text("opt/vpn-killswitch/vpn-killswitch"))
        self.assertIsNotNone(self.router.text("opt/etc/config/vpn-killswitch"))
        # Settings that are there already are the ones that the program takes.
        self.router.installer(self.firmware, "uninstall")
        self.router.write("jffs/etc/config/vpn-killswitch", "\toption enabled '0'\n", 0o600)
        out, _ = self.install()
        self.assertIn("settings are in /jffs/etc/config/vpn-killswitch", out)
        self.assertIsNone(self.router.text("opt/etc/config/vpn-killswitch"))

    def test_without_nvram_it_is_another_router(self):
        (self.router.path / "usr/sbin/nvram").unlink()
        self.refused("no DD-WRT")

    def test_another_firmware_is_named(self):
        for other in ("tomato", "merlin"):
            self.router.like(other)
            self.refused(f"install-{other}.sh")
        self.install("--force")

    def test_without_cmp_the_sums_do(self):
        (self.router.path / "bin/cmp").unlink()
        self.install()
        out, _ = self.router.installer(self.firmware, "check", check=False)
        self.assertNotIn("another one", out)
        self.router.bring_release(self.releases["1.1.0"])
        out, _ = self.router.installer(self.firmware, "check", check=False)
        self.assertIn("another one", out)

    def test_a_full_nvram_costs_the_page_only(self):
        (self.router.path / "nvram-full").touch()
        out, _ = self.install()
        self.assertIn("is it full?", out)
        self.assertIsNotNone(self.router.text("jffs/etc/config/vpn-killswitch.firewall"))

    def test_a_program_without_setup_leaves_an_example(self):
        (self.router.path / "no-setup").touch()
        self.install()
        self.assertIn("option enabled '0'", self.router.text(self.config))
        mode = (self.router.path / self.config).stat().st_mode
        self.assertEqual(mode & 0o777, 0o600)

    def test_files_of_others_with_our_names_are_left(self):
        self.router.write("jffs/etc/config/vpn-killswitch.firewall", "mine\n")
        _, status = self.router.installer(self.firmware, "install", check=False)
        self.assertEqual(status, 1)
        self.assertEqual(self.router.text("jffs/etc/config/vpn-killswitch.firewall"), "mine\n")

    def test_the_installer_cut_short_does_nothing(self):
        script = self.router.path / "release/install-ddwrt.sh"
        text = script.read_text()
        before = self.router.tree()
        for size in range(0, len(text) - len('main "$@"\n'), 997):
            script.write_text(text[:size])
            self.router.run("/bin/sh", "/release/install-ddwrt.sh", check=False)
            self.same(self.router.tree(), before, size)


class Tomato(Common, Case):
    """FreshTomato, whose firmware looks into folders."""

    firmware = "tomato"

    def user_files(self):
        self.router.write("jffs/etc/config/mine.fire", "iptables -L\n")
        self.router.write("nvram/script_fire", "iptables -L\nexit 0", 0o644)

    def test_the_hooks(self):
        self.user_files()
        self.install()
        for event in ("init", "fire", "wanup"):
            self.assertIn(f"hook {event}", self.router.text(f"{self.config}.{event}"))
        self.assertEqual(self.router.nvram("script_fire"), "iptables -L\nexit 0")


class OldTomato(Common, Case):
    """Tomato, or a user who has switched the folders off."""

    firmware = "tomato"

    def prepare(self):
        self.router.write("sbin/rc", "script_%s", 0o755)

    def user_files(self):
        self.router.write("nvram/script_fire", "iptables -L\nexit 0\n\n", 0o644)
        self.router.write("nvram/script_init", "", 0o644)
        (self.router.path / "nvram/script_init").unlink()

    def test_one_line_in_front_of_each_script(self):
        self.user_files()
        self.install()
        lines = self.router.nvram("script_fire").splitlines()
        self.assertIn("/jffs/vpn-killswitch/hook fire", lines[0])
        self.assertEqual(lines[1:], ["iptables -L", "exit 0", ""])
        self.assertEqual(len(self.router.nvram("script_init").splitlines()), 1)
        self.assertIsNone(self.router.text(f"{self.config}.fire"))
        # What the user writes around it stays.
        self.router.write("nvram/script_fire", f"first\n{lines[0]}\nlast", 0o644)
        self.router.installer(self.firmware, "uninstall")
        self.assertEqual(self.router.nvram("script_fire"), "first\nlast")
        self.assertIsNone(self.router.nvram("script_init"))

    def test_a_full_nvram_is_an_error(self):
        (self.router.path / "nvram-full").touch()
        out, status = self.router.installer(self.firmware, "install", check=False)
        self.assertEqual(status, 1)
        self.assertIn("is it full?", out)


class SwitchedOffTomato(Case):
    """FreshTomato with userfiles_disable."""

    firmware = "tomato"

    def test_then_too_nvram_calls(self):
        self.router.write("sbin/rc", "/jffs/etc/config", 0o755)
        before = self.router.tree()
        self.install()
        self.assertIsNone(self.router.nvram("script_fire"))
        self.router.write("nvram/userfiles_disable", "1", 0o644)
        self.install()
        self.assertIn("hook fire", self.router.nvram("script_fire"))
        (self.router.path / "nvram/userfiles_disable").unlink()
        self.install()
        self.assertIsNone(self.router.nvram("script_fire"))
        self.router.installer(self.firmware, "uninstall")
        self.same(self.router.tree(), before)


class Merlin(Common, Case):
    """Asuswrt-Merlin."""

    firmware = "merlin"
    events = ("init-start", "services-start", "firewall-start", "wan-event", "openvpn-event")

    def prepare(self):
        self.router.write("nvram/jffs2_scripts", "1", 0o644)

    def user_files(self):
        self.router.write("jffs/scripts/firewall-start", "#!/bin/sh\niptables -L\nexit 0")
        self.router.write("jffs/scripts/wan-event", "echo $2\n", 0o700)
        self.router.write("jffs/scripts/init-start", "#!/bin/sh")
        self.router.write("jffs/scripts/openvpn-event", "")
        self.router.write("jffs/mine", "#!/bin/sh -e\n\n\n")
        os.symlink("../mine", self.router.path / "jffs/scripts/services-start")

    def test_our_lines_come_first_and_the_rest_runs(self):
        self.user_files()
        self.install()
        lines = self.router.text("jffs/scripts/firewall-start").splitlines()
        self.assertEqual(lines[0], "#!/bin/sh")
        self.assertIn("hook firewall-start", lines[2])
        self.assertEqual(lines[4:], ["iptables -L", "exit 0"])
        self.assertTrue((self.router.path / "jffs/scripts/services-start").is_symlink())
        for event in self.events:
            self.router.calls()
            self.router.run("/bin/sh", f"/jffs/scripts/{event}", "0", "connected", check=False)
            calls = [call for call in self.router.calls() if "apply" in call]
            self.assertEqual(calls, ["program 1.0.0 apply"], event)
        out, _ = self.router.run("/bin/sh", "/jffs/scripts/wan-event", "0", "connected")
        self.assertEqual(out, "connected\n")

    def test_scripts_are_switched_on_and_off_again(self):
        self.router.write("nvram/jffs2_scripts", "0", 0o644)
        self.install()
        self.assertEqual(self.router.nvram("jffs2_scripts"), "1")
        self.router.installer(self.firmware, "uninstall")
        self.assertEqual(self.router.nvram("jffs2_scripts"), "0")
        self.install()
        self.router.write("jffs/scripts/nat-start", "#!/bin/sh\n")
        self.router.installer(self.firmware, "uninstall")
        self.assertEqual(self.router.nvram("jffs2_scripts"), "1")

    def test_scripts_that_do_not_run_are_not_made_to(self):
        self.router.write("jffs/scripts/firewall-start", "#!/bin/sh\n", 0o644)
        self.refused("not executable")
        self.router.write("jffs/scripts/firewall-start", "#!/usr/bin/python\n")
        self.refused("no shell script")

    def test_what_the_user_added_to_our_script_stays(self):
        self.install()
        path = "jffs/scripts/firewall-start"
        self.router.write(path, self.router.text(path) + "echo mine\n")
        self.router.installer(self.firmware, "uninstall")
        self.assertEqual(self.router.text(path), "#!/bin/sh\necho mine\n")


class Entware(Common, Case):
    """Entware."""

    firmware = "entware"
    mounts = OPT
    home = "opt/vpn-killswitch"
    config = "opt/etc/config/vpn-killswitch"

    def prepare(self):
        (self.router.path / "opt/etc/init.d").mkdir(parents=True)

    def test_it_starts_with_opt(self):
        self.install()
        self.router.calls()
        self.router.run("/opt/etc/init.d/S05vpn-killswitch", "start")
        self.assertIn("program 1.0.0 apply", self.router.calls())

    def test_settings_of_others_are_left(self):
        self.router.write("etc/config/vpn-killswitch", "x", 0o644)
        self.refused("move it away")


RC_COMMON = """#!/bin/sh
script=$1 action=$2
. "$script"
start() { start_service; }
stop() { echo "service stop" >>/calls; }
enable() { ln -sf ../init.d/vpn-killswitch /etc/rc.d/S15vpn-killswitch; }
disable() { rm -f /etc/rc.d/S15vpn-killswitch; }
for name in open_instance set_param close_instance add_jail; do
	eval "procd_$name() { :; }"
done
"$action"
"""


class OldOpenWrt(Common, Case):
    """OpenWrt up to 21.02."""

    firmware = "openwrt"
    mounts = "/dev/mtdblock6 /overlay jffs2 rw 0 0\noverlayfs:/overlay / overlay rw 0 0\n"
    home = "usr/lib/vpn-killswitch"
    config = "etc/config/vpn-killswitch"

    def prepare(self):
        (self.router.path / "usr/sbin/nvram").unlink()
        for folder in ("etc/rc.d", "usr/libexec", "lib/upgrade/keep.d", "etc/hotplug.d/iface"):
            (self.router.path / folder).mkdir(parents=True)
        self.router.write("etc/openwrt_release", "DISTRIB_RELEASE='21.02.7'\n", 0o644)
        self.router.write("etc/config/firewall", "config defaults # mine\n", 0o644)
        self.router.tool("etc/rc.common", RC_COMMON)
        self.router.write("etc/hotplug.d/iface/20-firewall", ":\n", 0o644)

    def test_it_is_the_packages_service(self):
        self.install()
        for name in ("etc/init.d/vpn-killswitch", "usr/libexec/vpn-killswitch-firewall"):
            self.assertEqual(
                self.router.text(name), (TOP / "openwrt/files" / name).read_text(), name
            )
        self.assertTrue((self.router.path / "etc/rc.d/S15vpn-killswitch").is_symlink())
        self.assertIn("option reload '1'", self.router.text("etc/config/firewall"))
        kept = self.router.text("lib/upgrade/keep.d/vpn-killswitch").split()
        self.assertIn("/usr/lib/vpn-killswitch/vpn-killswitch", kept)
        self.assertIn("/etc/rc.d/S15vpn-killswitch", kept)
        for path in kept:
            self.assertTrue(os.path.lexists(f"{self.router.path}{path}"), path)

    def test_later_ones_and_packages_are_left_alone(self):
        self.router.tool("sbin/fw4", "")
        self.refused("install the package")
        (self.router.path / "sbin/fw4").unlink()
        self.router.write("usr/lib/opkg/info/vpn-killswitch.control", "", 0o644)
        self.refused("opkg")

    def test_before_the_flash_is_there_it_waits(self):
        self.router.mounts("overlayfs:/tmp/root / overlay rw 0 0\n")
        self.refused("cannot write to its flash")


class Hooks(Case):
    """What happens when the firmware calls; here processes live on from one call to the next."""

    firmware = "ddwrt"
    hook = "/jffs/vpn-killswitch/hook"

    def setUp(self):
        super().setUp()
        self.install()
        # The router starts: /var/run is empty, nothing runs.
        shutil.rmtree(self.router.path / "var/run")
        (self.router.path / "var/run").mkdir()
        self.router.write("jffs/etc/config/vpn-killswitch", "\toption enabled '1'\n", 0o600)
        self.router.calls()
        script = f"mount -t proc proc {self.router.path}/proc && echo ready && while sleep 1; do :; done"
        holder = subprocess.Popen(
            ["unshare", "-r", "-n", "-m", "-p", "-f", "--kill-child", "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(holder.stdout.close)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        self.assertEqual(holder.stdout.readline(), "ready\n")
        first = pathlib.Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0]
        self.router.enter = ["nsenter", "-t", first, "-U", "-n", "-m", "-p", "--preserve-credentials"]

    def event(self, name):
        """The firmware calls; returns what was called in turn."""
        _, status = self.router.run(f"/jffs/etc/config/vpn-killswitch.{name}", check=False)
        self.assertEqual(status, 0)
        self.wait_for(lambda: len(self.guards()) >= 1)
        return [c for c in self.router.calls() if not c.endswith(("guard", "status"))]

    def guards(self):
        """The processes of the guard, by their numbers."""
        script = "cd /proc; for p in [0-9]*; do echo $p $(tr '\\0' ' ' <$p/cmdline); done"
        out, _ = self.router.run("/bin/sh", "-c", script, check=False)
        wanted = "/bin/sh /jffs/vpn-killswitch/vpn-killswitch --platform ddwrt guard"
        return sorted(line.split()[0] for line in out.splitlines() if line.endswith(wanted))

    def wait_for(self, condition):
        """Until it holds."""
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_the_first_call_closes_and_the_others_follow(self):
        self.assertEqual(self.event("prewall"), ["program 1.0.0 apply --boot"])
        self.assertEqual(self.router.text("kernel"), "closed\n")
        for event in ("firewall", "wanup", "startup"):
            self.assertEqual(self.event(event), ["program 1.0.0 apply"])
        self.assertEqual(len(self.guards()), 1)

    def test_what_failed_at_the_start_is_tried_again_as_at_the_start(self):
        (self.router.path / "broken").touch()
        calls = self.event("startup")
        self.assertEqual(calls[0], "program 1.0.0 apply --boot")
        self.assertIn("log -t vpn-killswitch startup:", calls[1])
        (self.router.path / "broken").unlink()
        self.assertEqual(self.event("firewall"), ["program 1.0.0 apply --boot"])
        self.assertEqual(self.event("firewall"), ["program 1.0.0 apply"])

    def test_a_guard_that_dies_comes_back(self):
        self.event("startup")
        old = self.guards()
        self.router.run("/bin/kill", "-9", *old)
        self.wait_for(lambda: self.guards() not in ([], old))
        # Without who looks after it, the next hook sees to it that there is one, and no second.
        pid = self.router.text("var/run/vpn-killswitch.hook/pid").strip()
        self.router.run("/bin/kill", "-9", pid)
        old = self.guards()
        self.event("firewall")
        self.wait_for(lambda: len(self.guards()) == 1 and self.guards() != old)
        pid = self.router.text("var/run/vpn-killswitch.hook/pid").strip()
        self.router.run("/bin/kill", "-9", pid, *self.guards())
        self.event("firewall")
        self.assertEqual(len(self.guards()), 1)

    def test_many_calls_at_once_start_one_guard(self):
        path = "/jffs/etc/config/vpn-killswitch.firewall"
        script = f"for n in 1 2 3 4 5 6 7 8; do {path} & done; wait"
        self.router.run("/bin/sh", "-c", script)
        self.wait_for(lambda: len(self.guards()) >= 1)
        self.router.run("/bin/sh", "-c", script)
        self.assertEqual(len(self.guards()), 1)

    def test_who_died_while_starting_the_guard_is_no_hindrance(self):
        state = self.router.path / "var/run/vpn-killswitch.hook"
        state.mkdir()
        (state / "starting").write_text("4711\n")
        (state / "pid").write_text("1\n")
        self.event("startup")
        self.assertEqual(len(self.guards()), 1)
        self.assertFalse((state / "starting").exists())

    def test_an_end_ends_it(self):
        self.event("startup")
        self.router.run(self.hook, "guarded")
        self.router.run(self.hook, "stop")
        self.assertEqual(self.guards(), [])
        self.assertEqual(self.router.run(self.hook, "guarded", check=False)[1], 1)
        self.assertEqual(self.router.text("kernel"), "closed\n")

    def test_without_a_second_layer_nothing_is_forwarded_while_the_firewall_starts(self):
        files = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")

        def forwarding(kernel, event):
            self.router.tool("bin/uname", f"#!/bin/sh\necho {kernel}\n")
            self.router.run("/bin/sh", "-c", "".join(f"echo 1 >{file};" for file in files))
            self.event(event)
            return self.router.run("/bin/cat", *files)[0].split()

        for kernel in ("3.10.108", "2.6.36.4brcmarm", "3.2", "3.11"):
            self.assertEqual(forwarding(kernel, "prewall"), ["0", "0"], kernel)
        for kernel in ("3.12.1", "3.18.140", "4.4.302", "4.14", "6.6.1", "30.1", "20.1"):
            self.assertEqual(forwarding(kernel, "prewall"), ["1", "1"], kernel)
        for event in ("firewall", "wanup", "startup"):
            self.assertEqual(forwarding("3.10.108", event), ["1", "1"])
        self.router.write("jffs/etc/config/vpn-killswitch", "\toption enabled '0'\n", 0o600)
        self.assertEqual(forwarding("3.10.108", "prewall"), ["1", "1"])

    def test_without_the_program_it_is_quiet(self):
        shutil.rmtree(self.router.path / "jffs/vpn-killswitch")
        for event in ("startup", "prewall", "firewall", "wanup"):
            out = self.router.run(f"/jffs/etc/config/vpn-killswitch.{event}")
            self.assertEqual(out, ("", 0))


class World(test_protection.Namespace):
    """A network, processes and flash of a router's own, as long as a process of ours lives."""

    def __init__(self, root):
        # Flash is no memory; an overlay in memory is what comes nearest.
        flash = root / "tmp/flash"
        flash.mkdir()
        layers = [f"{name}dir={flash}/{name}" for name in ("lower", "upper", "work")]
        script = (
            f"mount -t proc proc {root}/proc && mount -t tmpfs none {flash} && "
            f"mkdir {flash}/lower {flash}/upper {flash}/work && "
            f"mount -t overlay flash -o {','.join(layers)} {root}/jffs && "
            "echo ready && while sleep 1; do :; done"
        )
        self.holder = subprocess.Popen(
            ["unshare", "-r", "-n", "-m", "-p", "-f", "--kill-child", "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout.readline() == "ready\n"
        children = f"/proc/{self.holder.pid}/task/{self.holder.pid}/children"
        target = pathlib.Path(children).read_text().split()[0]
        self.enter = ["nsenter", "-t", target, "-U", "-n", "-m", "-p", "--preserve-credentials"]
        for device in ("br0", "tun0", "vlan2"):
            self.run("ip", "link", "add", device, "type", "veth", "peer", "name", f"{device}-far")
            self.run("ip", "link", "set", device, "up")
            self.run("ip", "link", "set", f"{device}-far", "up")


class Real(unittest.TestCase):
    """With the real program, on this machine's kernel. PROGRAM=/path/to/vpn-killswitch names it."""

    CONFIG = """config killswitch 'main'
	option enabled '0'
	list tunnel_device 'tun0'
	list local_device 'br0'
"""
    FIRMWARES = {
        "ddwrt": ("/jffs/etc/config/vpn-killswitch.firewall", "/jffs/etc/config/vpn-killswitch"),
        "tomato": ("/jffs/etc/config/vpn-killswitch.fire", "/jffs/etc/config/vpn-killswitch"),
        "merlin": ("/jffs/scripts/firewall-start", "/jffs/etc/config/vpn-killswitch"),
    }

    @classmethod
    def setUpClass(cls):
        if "PROGRAM" not in os.environ:
            raise unittest.SkipTest("PROGRAM= names no vpn-killswitch")
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.scratch = pathlib.Path(scratch.name)
        binaries = cls.scratch / "bin"
        (binaries / cpu_name()).mkdir(parents=True)
        shutil.copy(os.environ["PROGRAM"], binaries / cpu_name() / "vpn-killswitch")
        cls.release = make_release(binaries, cls.scratch / "release", [cpu_name()])

    def start(self, firmware):
        """A router and its world; and its kernel's rules."""
        router = Router(self.scratch / firmware)
        router.like(firmware)
        for name in ("mounts", "cpuinfo"):
            (router.path / "proc" / name).unlink()
        router.bring(os.environ["PROGRAM"], "tmp/program")
        router.bring_release(self.release)
        for name, value in (("lan_ifname", "br0"), ("wan_ifname", "vlan2"), ("wan_iface", "vlan2")):
            router.write(f"nvram/{name}", value, 0o644)
        world = World(router.path)
        self.addCleanup(world.close)
        router.enter = world.enter
        return router, world

    def test_an_upgrade_leaves_no_gap_and_a_removal_no_rule(self):
        for firmware, (hook, config) in self.FIRMWARES.items():
            with self.subTest(firmware):
                self.life(firmware, hook, config)

    def life(self, firmware, hook, config):
        """Installation, protection, a firewall that wipes, upgrade, removal."""
        router, world = self.start(firmware)
        empty = world.rules()
        before, _ = router.run("/bin/find", "/jffs", "/nvram", "/var")
        out, _ = router.installer(firmware)
        self.assertIn(config, out)
        self.assertEqual(world.rules(), empty)
        router.run("/bin/sh", "-c", f"cat >{config} <<'X'\n{self.CONFIG}X")
        program = ["/jffs/vpn-killswitch/vpn-killswitch", "--platform", firmware]
        router.run(*program, "enable")
        closed = world.rules()
        self.assertIn("table inet vpn_killswitch", closed)
        monitor = test_protection.Monitor(world)
        self.addCleanup(monitor.close)
        monitor.begin()
        out, _ = router.installer(firmware)
        self.assertEqual(monitor.end(), [])
        self.assertEqual(world.rules(), closed)
        # The guard out of the way, the hook alone puts back what was wiped.
        router.run("/jffs/vpn-killswitch/hook", "stop")
        world.run("nft", "flush", "ruleset")
        router.run(hook, "vlan2")
        self.assertIn("table inet vpn_killswitch", world.rules())
        router.run("/jffs/vpn-killswitch/hook", "guarded")
        out, _ = router.installer(firmware, "uninstall")
        self.assertIn("OPEN", out)
        self.assertEqual(world.rules(), empty)
        self.assertEqual(router.run("/bin/find", "/jffs", "/nvram", "/var")[0], before)


class Cpu(Case):
    """Which program a CPU gets."""

    firmware = "ddwrt"
    ARM = {"machine": 0x28, "flags": 0x05000402}
    VFP = "Features : swp half thumb fastmult vfp edsp neon vfpv3 tls vfpv4\n"
    D16 = "Features : half thumb fastmult vfp edsp vfpv3 vfpv3d16\n"
    NONE = "Features : swp half thumb fastmult edsp\n"
    TABLE = [
        ({"bits": 2, "machine": 0x3E}, "", "x86_64", "x86_64"),
        ({"machine": 3, "flags": 0}, "", "i686", "i386_pentium4"),
        ({"bits": 2, "machine": 0xB7}, "", "aarch64", "aarch64_generic"),
        ({"bits": 2, "machine": 0xF3}, "", "riscv64", "riscv64_generic"),
        ({}, "", "mips", "mipsel_24kc"),
        ({}, "isa : mips1 mips2 mips32r1 mips32r2\n", "mips", "mipsel_24kc"),
        ({"order": 2, "flags": 0x50001007}, "", "mips", "mips_24kc"),
        ({**ARM}, VFP, "armv7l", "arm_cortex-a7_neon-vfpv4"),
        ({**ARM, "flags": 0x05000202}, D16, "armv7l", "arm_cortex-a7_neon-vfpv4"),
        ({**ARM}, NONE, "armv7l", "arm_cortex-a9"),
        ({**ARM}, "Features : fp asimd evtstrm\n", "aarch64", "arm_cortex-a7_neon-vfpv4"),
        ({**ARM}, "Features : swp half fastmult vfp edsp java\n", "armv6l", "arm_arm1176jzf-s_vfp"),
        ({**ARM}, NONE, "armv6l", "arm_xscale"),
        ({**ARM}, NONE, "armv5tel", "arm_xscale"),
    ]
    REFUSED = [
        ({"bits": 2, "machine": 8}, "", "mips64", "64-bit MIPS"),
        ({"bits": 2, "order": 2, "machine": 8}, "", "mips64", "64-bit MIPS"),
        ({"flags": 0x80000027}, "", "mips64", "O32"),
        ({}, "isa : mips1 mips2 mips32r1\n", "mips", "release 2"),
        ({**ARM, "order": 2}, VFP, "armv7b", "big-endian ARM"),
        ({**ARM, "flags": 0x02}, VFP, "armv7l", "old ABI"),
        ({**ARM}, NONE, "armv4tl", "armv4tl"),
        ({"machine": 0x14}, "", "ppc", "0x0014"),
    ]

    def found(self, head, info, kernel):
        """What the installer says of a CPU, when the release has no program at all."""
        root = self.router.path / "other"
        for folder in ("bin", "proc", "usr/sbin"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "bin/busybox").write_bytes(elf(**head))
        (root / "proc/cpuinfo").write_text("processor : 0\n" + info)
        shutil.copy(self.router.path / "usr/sbin/nvram", root / "usr/sbin/nvram")
        self.router.tool("bin/uname", f"#!/bin/sh\necho {kernel}\n")
        (self.router.path / "empty").mkdir(exist_ok=True)
        out, status = self.router.installer(
            "ddwrt", "--root", "/other", "--from", "/empty", check=False
        )
        self.assertEqual(status, 1)
        return out

    def test_each_cpu_gets_its_program(self):
        for head, info, kernel, name in self.TABLE:
            out = self.found(head, info, kernel)
            self.assertIn(f"/empty/vpn-killswitch-{name} is not there", out)

    def test_every_program_is_for_somebody(self):
        with open(TOP / "cross/targets.toml", "rb") as file:
            known = {target["name"] for target in tomllib.load(file)["target"]}
        self.assertEqual({row[3] for row in self.TABLE}, known)

    def test_the_others_are_refused_by_name(self):
        for head, info, kernel, word in self.REFUSED:
            out = self.found(head, info, kernel)
            self.assertIn(word, out)
            self.assertNotIn("is not there", out)

    def test_with_any_tool_that_reads_bytes(self):
        for broken in (["hexdump"], ["hexdump", "od"]):
            for tool in broken:
                self.router.tool(f"bin/{tool}", "#!/bin/sh\nexit 1\n")
            for head, info, kernel, name in (self.TABLE[2], self.TABLE[6], self.TABLE[7]):
                out = self.found(head, info, kernel)
                self.assertIn(f"vpn-killswitch-{name} is not there", out)


class Release(unittest.TestCase):
    """What cross/release makes."""

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.scratch = pathlib.Path(scratch.name)
        cls.folder = release(cls.scratch, "1.0.0")

    def test_the_same_files_again(self):
        again = self.scratch / "again"
        again.mkdir()
        for path in release(again, "1.0.0").iterdir():
            self.assertEqual(path.read_bytes(), (self.folder / path.name).read_bytes())

    def test_sums_of_everything(self):
        names = {path.name for path in self.folder.iterdir()} - {"SHA256SUMS"}
        told = {}
        for line in (self.folder / "SHA256SUMS").read_text().splitlines():
            digest, name = line.split("  ")
            told[name] = digest
        self.assertEqual(set(told), names)
        for name, digest in told.items():
            data = (self.folder / name).read_bytes()
            self.assertEqual(hashlib.sha256(data).hexdigest(), digest)

    def test_a_missing_program_leaves_the_old_release(self):
        out = self.scratch / "old"
        out.mkdir()
        (out / "kept").touch()
        command = [sys.executable, TOP / "cross/release", "--binaries", self.scratch, "--out", out]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 1)
        self.assertIn("there is no program for", run.stderr)
        self.assertTrue((out / "kept").exists())

    def test_the_scripts_are_clean(self):
        scripts = sorted(self.folder.glob("install-*.sh"))
        self.assertEqual(len(scripts), 5)
        subprocess.run(["shellcheck", "-s", "dash", *scripts], check=True)
        for script in scripts:
            subprocess.run(["busybox", "ash", "-n", script], check=True)


if __name__ == "__main__":
    unittest.main()
