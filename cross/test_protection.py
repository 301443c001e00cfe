"""An upgrade leaves no gap and a removal no rule: the packages with the real program, on this
machine's kernel, in a network namespace. PROGRAM=/path/to/vpn-killswitch names the program.
"""

import os
import select
import subprocess
import time
import unittest

import test_lifecycle
import testlib

# rc.common and procd as far as they matter here: functions that a script may define, and who calls
# whom. The supervised guard is written down, not started.
RC_COMMON = r"""#!/bin/sh
script=$1
action=$2
shift 2
boot() { start "$@"; }
enable() { echo "enable" >>/calls; }
disable() { echo "disable" >>/calls; }
. "$script"
start() { start_service "$@"; }
stop() { echo "guard ends" >>/calls; }
restart() { stop "$@"; start "$@"; }
reload() { reload_service "$@"; }
procd_open_instance() { :; }
procd_close_instance() { :; }
procd_set_param() { [ "$1" != command ] || { shift; echo "guard: $*" >>/calls; }; }
"$action" "$@"
"""
CONFIG = """config killswitch 'main'
	option enabled '0'
	list tunnel_device 'tun0'
	list local_device 'br-lan'
"""


class Namespace:
    """A network namespace that lives as long as a process of ours."""

    def __init__(self):
        self.holder = subprocess.Popen(
            ["unshare", "-r", "-n", "-m", "sh", "-c", "echo ready; exec sleep 600"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout.readline() == "ready\n"
        target = str(self.holder.pid)
        self.enter = ["nsenter", "-t", target, "-U", "-n", "-m", "--preserve-credentials"]
        for device in ("br-lan", "tun0", "wan"):
            self.run("ip", "link", "add", device, "type", "veth", "peer", "name", f"{device}-far")
            self.run("ip", "link", "set", device, "up")
            self.run("ip", "link", "set", f"{device}-far", "up")

    def run(self, *command):
        """Runs a command in the namespace; returns what it printed."""
        run = subprocess.run(
            [*self.enter, *command], capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def close(self):
        """Ends it."""
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()

    def rules(self):
        """What is in the kernel, with the handles by which it tells new rules from old ones."""
        return self.run("nft", "-s", "-a", "list", "ruleset") + self.run("ip", "rule") + self.run(
            "ip", "-6", "rule"
        )


class Monitor:
    """Writes down what changes in the rules of a namespace."""

    MARK = "monitor_mark"

    def __init__(self, namespace):
        self.namespace = namespace
        self.commands = [["nft", "monitor"], ["ip", "monitor", "rule"]]
        self.running = [
            subprocess.Popen(
                [*namespace.enter, *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            for command in self.commands
        ]

    def begin(self):
        """Waits until the monitors see what happens."""
        self._marks()

    def _marks(self):
        """Makes a change that both monitors must see, until they do; returns what came before."""
        namespace, seen = self.namespace, []
        for process, change, undo, mark in (
            (
                self.running[0],
                ["nft", "add", "table", "ip", self.MARK],
                ["nft", "delete", "table", "ip", self.MARK],
                f"delete table ip {self.MARK}".encode(),
            ),
            (
                self.running[1],
                ["ip", "rule", "add", "pref", "77", "lookup", "77"],
                ["ip", "rule", "del", "pref", "77"],
                b"Deleted 77:",
            ),
        ):
            text, deadline = b"", time.monotonic() + 30
            while mark not in text:
                assert time.monotonic() < deadline, "the monitor sees nothing"
                namespace.run(*change)
                namespace.run(*undo)
                while mark not in text and select.select([process.stdout], [], [], 0.2)[0]:
                    text += os.read(process.stdout.fileno(), 65536)
            seen.append(text.decode())
        return seen

    def close(self):
        """Ends the monitors."""
        for process in self.running:
            process.kill()
            process.wait()
            process.stdout.close()

    def end(self):
        """Every change since the beginning, but for our own marks."""
        seen = self._marks()
        lines = "".join(seen).splitlines()
        own = (self.MARK, "77:", "# new generation")
        return [line for line in lines if line and not any(mark in line for mark in own)]


class Protection(test_lifecycle.Stage):
    """The life of the real program."""

    @classmethod
    def setUpClass(cls):
        if "PROGRAM" not in os.environ:
            raise unittest.SkipTest("PROGRAM= names no vpn-killswitch")
        if not (testlib.TOP / "openwrt/files").exists():
            raise unittest.SkipTest("openwrt/files is not there")
        super().setUpClass()

    @classmethod
    def contents(cls, version, folder):
        return testlib.copy(folder, version), os.environ["PROGRAM"]

    def setUp(self):
        self.namespace = Namespace()
        self.addCleanup(self.namespace.close)
        super().setUp()
        (self.root.path / "etc/config/vpn-killswitch").write_text(CONFIG)

    def manager(self, root):
        root.enter = self.namespace.enter
        # It tells whether there is IPv6.
        self.namespace.run("mount", "--rbind", "/proc", root.path / "proc")
        (root.path / "etc/rc.common").write_text(RC_COMMON)
        # The packages have no libraries, and a program for a router needs none.
        root.bring(os.environ["PROGRAM"], "usr/sbin/vpn-killswitch")
        return self.kind(root)

    def test_an_upgrade_leaves_no_gap(self):
        self.root.run("/usr/sbin/vpn-killswitch", "enable")
        before = self.namespace.rules()
        self.assertIn("table inet vpn_killswitch", before)
        self.assertIn("prohibit", before)
        monitor = Monitor(self.namespace)
        self.addCleanup(monitor.close)
        monitor.begin()
        self.install("vpn-killswitch", "1.1.0")
        changes = monitor.end()
        # The new program's guard was the last to be told.
        calls = self.root.calls()
        told = [call for call in calls if call.startswith("guard")]
        self.assertEqual(told[-1], "guard: /usr/sbin/vpn-killswitch guard")
        self.assertIn("guard ends", told)
        self.assertNotIn("disable", calls)
        self.assertEqual(self.namespace.rules(), before)
        self.assertEqual(changes, [])

    def test_a_removal_leaves_no_rule(self):
        empty = self.namespace.rules()
        self.root.run("/usr/sbin/vpn-killswitch", "enable")
        self.assertNotEqual(self.namespace.rules(), empty)
        out = self.with_manager.remove("vpn-killswitch")
        self.assertIn("OPEN", out)
        self.assertEqual(self.namespace.rules(), empty)
        self.assertEqual(self.root.calls()[-1], "guard ends")
        for path in (testlib.TOP / "openwrt/files").rglob("*"):
            place = self.root.path / path.relative_to(testlib.TOP / "openwrt/files")
            self.assertFalse(place.is_file() or place.is_symlink(), place)

    def test_a_removal_opens_without_a_configuration(self):
        empty = self.namespace.rules()
        self.root.run("/usr/sbin/vpn-killswitch", "enable")
        (self.root.path / "etc/config/vpn-killswitch").unlink()
        self.with_manager.remove("vpn-killswitch")
        self.assertEqual(self.namespace.rules(), empty)


class WithToldOpkg(Protection, unittest.TestCase):
    """As opkg's sources tell."""

    suffix, kind = ".ipk", test_lifecycle.ToldOpkg


class WithToldApk(Protection, unittest.TestCase):
    """As apk-tools' sources tell."""

    suffix, kind = ".apk", test_lifecycle.ToldApk


@unittest.skipUnless("OPKG" in os.environ, "OPKG= names no opkg")
class WithRealOpkg(Protection, unittest.TestCase):
    """By opkg itself."""

    suffix, kind = ".ipk", test_lifecycle.RealOpkg


@unittest.skipUnless("APK" in os.environ, "APK= names no apk-tools 3")
class WithRealApk(Protection, unittest.TestCase):
    """By apk itself."""

    suffix, kind = ".apk", test_lifecycle.RealApk


if __name__ == "__main__":
    unittest.main()
