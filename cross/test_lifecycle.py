"""Install, upgrade and removal in a root of its own, by BusyBox's ash: what the packages' scripts
call, in which order, and what stays.

The package managers are told here in a few lines each, from opkg's and apk-tools' sources; and
lib/functions.sh likewise. OPKG=/path/to/opkg, APK=/path/to/apk and FUNCTIONS=/path/to/functions.sh
put the real ones in their place.
"""

import io
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import unittest

import testlib
from testlib import ARCH, FILES

FUNCTIONS = r"""
default_postinst() {
	[ -n "$pkgname" ] || local pkgname="$(basename ${1%.*})"
	local list="$IPKG_INSTROOT/usr/lib/opkg/info/$pkgname.list" i ret=0
	[ ! -f "$IPKG_INSTROOT/lib/apk/packages/$pkgname.list" ] ||
		list="$IPKG_INSTROOT/lib/apk/packages/$pkgname.list"
	[ -n "$IPKG_INSTROOT" ] || for i in $(grep "^/etc/uci-defaults/" "$list"); do
		( [ -f "$i" ] && cd /etc/uci-defaults && . "$i" ) && rm -f "$i"
	done
	if [ -f "$IPKG_INSTROOT/usr/lib/opkg/info/$pkgname.postinst-pkg" ]; then
		( . "$IPKG_INSTROOT/usr/lib/opkg/info/$pkgname.postinst-pkg" )
		ret=$?
	fi
	for i in $(grep "^/etc/init.d/" "$list"); do
		if [ -n "$IPKG_INSTROOT" ]; then
			echo "enable in the image" >>"$IPKG_INSTROOT/calls"
		else
			[ "$PKG_UPGRADE" = 1 ] || "$i" enable
			"$i" start
		fi
	done
	return $ret
}
default_prerm() {
	[ -n "$pkgname" ] || local pkgname="$(basename ${1%.*})"
	local list="$IPKG_INSTROOT/usr/lib/opkg/info/$pkgname.list" i ret=0
	[ ! -f "$IPKG_INSTROOT/lib/apk/packages/$pkgname.list" ] ||
		list="$IPKG_INSTROOT/lib/apk/packages/$pkgname.list"
	if [ -f "$IPKG_INSTROOT/usr/lib/opkg/info/$pkgname.prerm-pkg" ]; then
		( . "$IPKG_INSTROOT/usr/lib/opkg/info/$pkgname.prerm-pkg" )
		ret=$?
	fi
	for i in $(grep "^/etc/init.d/" "$list"); do
		[ -n "$IPKG_INSTROOT" ] || {
			[ "$PKG_UPGRADE" = 1 ] || "$i" disable
			"$i" stop
		}
	done
	return $ret
}
add_group_and_user() { :; }
"""

# Writes down how it was called and by which files; `disable` does what it must do.
PROGRAM = """#!/bin/sh
echo "program {version} $*" >>/calls
[ "$1" = disable ] || exit 0
[ ! -e /broken ] || exit 1
sed -i "s/enabled '1'/enabled '0'/" /etc/config/vpn-killswitch
"""
CONFIG = "config killswitch 'main'\n\toption enabled '{}'\n"
BASE = {  # what the packages depend on
    "kmod-nft-core": ARCH,
    "kmod-nft-fib": ARCH,
    "kmod-nf-conntrack-netlink": ARCH,
    "luci-base": ARCH,
}


class Root:
    """A root with BusyBox's tools, and what packages meet on a router."""

    def __init__(self, path):
        self.path = path
        self.enter = ["unshare", "-r"]
        for folder in (
            *("bin", "sbin", "etc/init.d", "etc/config", "tmp", "usr/lib/opkg/info", "usr/sbin"),
            *("lib/apk/packages", "var/lock", "dev", "proc", "usr/bin"),
        ):
            (path / folder).mkdir(parents=True)
        self.bring(shutil.which("busybox"), "bin/busybox")
        applets = subprocess.run(
            ["busybox", "--list"], capture_output=True, text=True, check=True
        ).stdout.split()
        for applet in applets:
            if not (path / "bin" / applet).exists():
                (path / "bin" / applet).symlink_to("busybox")
        given = os.environ.get("FUNCTIONS")
        text = pathlib.Path(given).read_text() if given else FUNCTIONS
        (path / "lib/functions.sh").write_text(text)
        for name in ("etc/init.d/rpcd", "sbin/uci", "bin/lock"):
            tool = path / name
            tool.unlink(missing_ok=True)
            tool.write_text(f'#!/bin/sh\necho "{tool.name} $*" >>/calls\n')
            tool.chmod(0o755)

    def bring(self, program, place):
        """Puts a program of this machine into the root, with its libraries."""
        shutil.copy(program, self.path / place)
        run = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
        for library in re.findall(r"(/\S+)", run.stdout):
            copy = self.path / library.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)

    def run(self, *command, check=True, **variables):
        """Runs a command in the root; returns what it printed and its status."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | variables
        command = [*self.enter, "chroot", self.path, *command]
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check:
            assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout + run.stderr, run.returncode

    def calls(self, quiet=("lock ", "uci ")):
        """What was called since the last time, but for what begins like `quiet`."""
        path = self.path / "calls"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return [line for line in text.splitlines() if not line.startswith(quiet)]

    def text(self, path):
        """The text of a file, or None."""
        path = self.path / path
        return path.read_text() if path.exists() else None


class Told:
    """opkg or apk as their sources tell: what runs, what is written and what is removed, when."""

    def __init__(self, root):
        self.root = root
        self.files = {}

    def extract(self, name, data):
        """Writes the files; the user's configuration stays as it is."""
        for path, (mode, content, link) in data.items():
            place = self.root.path / path
            if mode is None:
                place.mkdir(parents=True, exist_ok=True)
            elif not (path.startswith("etc/config/") and place.exists()):
                place.unlink(missing_ok=True)
                if link is not None:
                    place.symlink_to(link)
                else:
                    place.write_bytes(content)
                    place.chmod(mode)
        self.files[name] = [path for path, (mode, _, _) in data.items() if mode is not None]

    def erase(self, name):
        """Removes the files of a package, but not the configuration."""
        for path in self.files.pop(name):
            if not path.startswith("etc/config/"):
                (self.root.path / path).unlink(missing_ok=True)


class ToldOpkg(Told):
    """opkg: the old package's prerm runs for an upgrade too, and its files go before the new come."""

    INFO = "usr/lib/opkg/info"

    def install(self, package):
        """Installs or upgrades."""
        name = package.name.split("_")[0]
        upgrade = "1" if name in self.files else "0"
        if upgrade == "1":
            self.root.run(f"/{self.INFO}/{name}.prerm", "upgrade", "new", PKG_UPGRADE="1")
            self.erase(name)
        with tarfile.open(package) as outer:
            parts = {p: outer.extractfile(f"./{p}.tar.gz").read() for p in ("control", "data")}
        with tarfile.open(fileobj=io.BytesIO(parts["control"])) as control:
            for member in control.getmembers():
                if member.isfile():
                    place = self.root.path / self.INFO / f"{name}.{member.name[2:]}"
                    place.write_bytes(control.extractfile(member).read())
                    place.chmod(member.mode)
        tree = {}
        with tarfile.open(fileobj=io.BytesIO(parts["data"])) as data:
            for member in data.getmembers():
                path = member.name.removeprefix(".").removeprefix("/")
                content = data.extractfile(member).read() if member.isfile() else None
                mode = None if member.isdir() else member.mode
                tree[path] = (mode, content, member.linkname or None)
        self.extract(name, tree)
        listed = "".join(f"/{path}\n" for path in self.files[name])
        (self.root.path / self.INFO / f"{name}.list").write_text(listed)
        return self.root.run(f"/{self.INFO}/{name}.postinst", "configure", PKG_UPGRADE=upgrade)[0]

    def remove(self, name):
        """Removes; a failed prerm keeps the package."""
        script = f"/{self.INFO}/{name}.prerm"
        out, status = self.root.run(script, "remove", check=False, PKG_UPGRADE="0")
        if status == 0:
            self.erase(name)
            for path in (self.root.path / self.INFO).glob(f"{name}.*"):
                path.unlink()
        return out


class ToldApk(Told):
    """apk: an upgrade replaces file by file and runs post-upgrade only."""

    def __init__(self, root):
        super().__init__(root)
        self.scripts = {}

    def _run(self, name, kind, check=True):
        place = self.root.path / "tmp/script"
        place.write_text(self.scripts[name][kind])
        place.chmod(0o755)
        return self.root.run("/tmp/script", "version", check=check)[0]

    def install(self, package):
        """Installs or upgrades."""
        info, tree, scripts = testlib.read_apk(package.read_bytes())
        name = info["name"]
        kind = "post-upgrade" if name in self.files else "post-install"
        data = {}
        for path, (mode, content, link) in tree.items():
            folder = content is None and link is None
            data[path] = (None if folder else mode, content, link)
        gone = set(self.files.get(name, [])) - set(data)
        self.extract(name, data)
        for path in gone:
            (self.root.path / path).unlink(missing_ok=True)
        self.scripts[name] = scripts
        return self._run(name, kind)

    def remove(self, name):
        """Removes, whatever pre-deinstall says."""
        out = self._run(name, "pre-deinstall", check=False)
        self.erase(name)
        return out


class RealOpkg:
    """The opkg that OPKG names."""

    def __init__(self, root):
        self.root = root
        root.bring(os.environ["OPKG"], "bin/opkg")
        conf = f"dest root /\nlists_dir ext /tmp/lists\narch all 1\narch {ARCH} 10\n"
        (root.path / "etc/opkg.conf").write_text(conf)
        status = "".join(
            f"Package: {name}\nVersion: 1\nStatus: install user installed\nArchitecture: {arch}\n\n"
            for name, arch in BASE.items()
        )
        (root.path / "usr/lib/opkg/status").write_text(status)

    def install(self, package):
        """Installs or upgrades."""
        shutil.copy(package, self.root.path / "tmp" / package.name)
        return self.root.run("/bin/opkg", "install", f"/tmp/{package.name}")[0]

    def remove(self, name):
        """Removes."""
        return self.root.run("/bin/opkg", "remove", name, check=False)[0]


class RealApk:
    """The apk that APK names."""

    def __init__(self, root):
        self.root = root
        scratch = root.path.parent
        self.command = [*root.enter, os.environ["APK"], "--root", root.path, "--arch", ARCH]
        self.command += ["--allow-untrusted", "--no-network", "--no-cache", "--repositories-file"]
        self.command += ["/dev/null"]
        base = []
        for name, arch in BASE.items():
            out = scratch / f"{name}-1.apk"
            make = [os.environ["APK"], "mkpkg", "-I", f"name:{name}", "-I", "version:1"]
            subprocess.run([*make, "-I", f"arch:{arch}", "-o", out], check=True)
            base.append(out)
        self.apk("add", "--initdb", *base)

    def apk(self, *arguments, check=True):
        """Runs apk on the root; returns what it printed."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        run = subprocess.run(
            [*self.command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0 or not check, run.stdout + run.stderr
        return run.stdout + run.stderr

    def install(self, package):
        """Installs or upgrades."""
        return self.apk("add", package)

    def remove(self, name):
        """Removes."""
        return self.apk("del", name, check=False)


class Stage:
    """Two versions of the packages, and a root where the first is installed."""

    suffix = None

    def manager(self, root):
        """The package manager, in a root."""
        raise NotImplementedError

    @classmethod
    def contents(cls, version, folder):
        """Makes a project of a version; returns its folder and its program."""
        raise NotImplementedError

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.scratch = pathlib.Path(scratch.name)
        cls.feeds = {}
        for version in ("1.0.0", "1.1.0"):
            source, program = cls.contents(version, cls.scratch / f"project-{version}")
            out = testlib.package(source, program, cls.scratch / f"out-{version}")
            cls.feeds[version] = out

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(dir=self.scratch)
        self.addCleanup(scratch.cleanup)
        self.root = Root(pathlib.Path(scratch.name) / "root")
        self.with_manager = self.manager(self.root)
        self.install("vpn-killswitch", "1.0.0")
        self.installing = self.root.calls()

    def install(self, name, version):
        """Installs a package of one of the two versions; returns what was printed."""
        matching = self.feeds[version].glob(f"{name}[-_]{version}*{self.suffix}")
        return self.with_manager.install(next(matching))


class Life(Stage):
    """The same life with every package manager."""

    @classmethod
    def contents(cls, version, folder):
        files = dict(FILES)
        files["openwrt/files/etc/config/vpn-killswitch"] = (0o644, CONFIG.format(0))
        init = f'#!/bin/sh\necho "init {version} $1" >>/calls\n'
        files["openwrt/files/etc/init.d/vpn-killswitch"] = (0o755, init)
        if version == "1.0.0":
            files["openwrt/files/usr/share/old"] = (0o644, "not in the next version\n")
        program = cls.scratch / f"program-{version}"
        program.write_text(PROGRAM.format(version=version))
        return testlib.project(folder, version, files), program

    def switch_on(self):
        """What the user does."""
        (self.root.path / "etc/config/vpn-killswitch").write_text(CONFIG.format(1))

    def test_an_installation_starts_the_service_and_opens_nothing(self):
        wanted = ["uci-defaults", "rpcd reload", "init 1.0.0 enable", "init 1.0.0 start"]
        self.assertEqual(sorted(self.installing), sorted(wanted))
        self.assertLess(
            self.installing.index("uci-defaults"), self.installing.index("init 1.0.0 start")
        )
        config = self.root.path / "etc/config/vpn-killswitch"
        self.assertEqual(config.stat().st_mode & 0o777, 0o600)
        self.assertIsNone(self.root.text("etc/uci-defaults/vpn-killswitch"))
        self.assertTrue((self.root.path / "usr/libexec/rpcd/vpn-killswitch").is_symlink())

    def test_an_upgrade_keeps_the_configuration_and_opens_nothing(self):
        self.switch_on()
        self.install("vpn-killswitch", "1.1.0")
        calls = self.root.calls()
        for call in calls:
            self.assertNotIn("program", call)
            self.assertFalse(call.endswith(("disable", "enable")), call)
        # The new guard runs at the end, and no old one.
        service = [call for call in calls if call.startswith("init")]
        self.assertIn(service[-1], ("init 1.1.0 start", "init 1.1.0 restart"))
        self.assertIn("init 1.1.0 restart", service)
        self.assertEqual(self.root.text("etc/config/vpn-killswitch"), CONFIG.format(1))
        self.assertIn("1.1.0", self.root.text("usr/sbin/vpn-killswitch"))
        self.assertIsNone(self.root.text("usr/share/old"))

    def test_a_removal_opens_first_and_says_so(self):
        self.switch_on()
        out = self.with_manager.remove("vpn-killswitch")
        self.assertIn("OPEN", out)
        calls = self.root.calls(quiet=())
        self.assertIn("uci commit firewall", calls)
        opened = calls.index("program 1.0.0 disable")
        self.assertIn("init 1.0.0 stop", calls[:opened])
        self.assertNotIn("init 1.0.0 start", calls)
        for path in self.expected_files():
            self.assertIsNone(self.root.text(path), path)
        kept = self.root.text("etc/config/vpn-killswitch")
        self.assertIn(kept, (None, CONFIG.format(0)))

    def test_a_removal_that_cannot_open_does_not_say_that_it_did(self):
        self.switch_on()
        (self.root.path / "broken").touch()
        out = self.with_manager.remove("vpn-killswitch")
        self.assertNotIn("OPEN", out)
        self.assertIn("could not be switched off", out)
        self.assertEqual(self.root.text("etc/config/vpn-killswitch"), CONFIG.format(1))
        still_there = self.root.text("usr/sbin/vpn-killswitch") is not None
        # opkg keeps a package whose prerm failed; apk does not ask.
        self.assertEqual(still_there, self.suffix == ".ipk")

    def test_it_can_come_back(self):
        self.with_manager.remove("vpn-killswitch")
        self.root.calls()
        self.install("vpn-killswitch", "1.1.0")
        self.assertIn("init 1.1.0 start", self.root.calls())

    def test_the_page_tells_luci_and_rpcd(self):
        (self.root.path / "tmp/luci-modulecache").mkdir()
        (self.root.path / "tmp/luci-indexcache.x.json").touch()
        self.install("luci-app-vpn-killswitch", "1.0.0")
        self.install("luci-i18n-vpn-killswitch-de", "1.0.0")
        self.assertIn("rpcd reload", self.root.calls())
        self.assertFalse((self.root.path / "tmp/luci-modulecache").exists())
        self.assertFalse((self.root.path / "tmp/luci-indexcache.x.json").exists())
        self.assertTrue((self.root.path / "usr/lib/lua/luci/i18n/page.de.lmo").exists())

    def expected_files(self):
        """What the first version installs, but its configuration."""
        names = [path.removeprefix("openwrt/files/") for path in FILES]
        names = [p for p in names if not p.startswith(("luci-app/", "etc/config"))]
        return [*names, "usr/sbin/vpn-killswitch", "usr/share/old"]


class WithToldOpkg(Life, unittest.TestCase):
    """As opkg's sources tell."""

    suffix, manager = ".ipk", staticmethod(ToldOpkg)

    def test_in_an_image_nothing_runs(self):
        # The image builder runs the scripts outside of the root.
        environment = os.environ | {"IPKG_INSTROOT": str(self.root.path), "PKG_UPGRADE": "0"}
        for script in ("postinst", "prerm"):
            path = self.root.path / "usr/lib/opkg/info" / f"vpn-killswitch.{script}"
            subprocess.run([path, "x"], env=environment, check=True, timeout=60)
        calls = set(self.root.calls())
        if "FUNCTIONS" not in os.environ:
            self.assertEqual(calls, {"enable in the image"})
        self.assertFalse([call for call in calls if "program" in call or "start" in call])


class WithToldApk(Life, unittest.TestCase):
    """As apk-tools' sources tell."""

    suffix, manager = ".apk", staticmethod(ToldApk)


@unittest.skipUnless("OPKG" in os.environ, "OPKG= names no opkg")
class WithRealOpkg(Life, unittest.TestCase):
    """By opkg itself."""

    suffix, manager = ".ipk", staticmethod(RealOpkg)

    def test_the_folder_is_a_feed(self):
        shutil.copytree(self.feeds["1.1.0"], self.root.path / "tmp/feed")
        with open(self.root.path / "etc/opkg.conf", "a", encoding="utf-8") as conf:
            conf.write("src/gz killswitch file:///tmp/feed\n")
        self.root.run("/bin/opkg", "update")
        self.root.run("/bin/opkg", "upgrade", "vpn-killswitch")
        self.root.run("/bin/opkg", "install", "luci-app-vpn-killswitch")
        self.assertIn("1.1.0", self.root.text("usr/sbin/vpn-killswitch"))
        self.assertIsNotNone(self.root.text("usr/share/rpcd/acl.d/page.json"))


@unittest.skipUnless("APK" in os.environ, "APK= names no apk-tools 3")
class WithRealApk(Life, unittest.TestCase):
    """By apk itself."""

    suffix, manager = ".apk", staticmethod(RealApk)

    def test_the_folder_is_a_repository(self):
        index = self.feeds["1.1.0"] / "packages.adb"
        command = self.with_manager.command
        command[command.index("/dev/null")] = self.scratch / "repositories"
        (self.scratch / "repositories").write_text(f"{index}\n")
        # By name: whoever installed a file asked for that very file.
        self.with_manager.apk("add", "--upgrade", "vpn-killswitch", "luci-app-vpn-killswitch")
        self.assertIn("1.1.0", self.root.text("usr/sbin/vpn-killswitch"))
        self.assertIsNotNone(self.root.text("usr/share/rpcd/acl.d/page.json"))


if __name__ == "__main__":
    unittest.main()
