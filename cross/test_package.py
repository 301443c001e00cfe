"""The packages' formats: what is in them, for whom, and that the same input gives the same bytes.

APK=/path/to/apk also compares with what apk-tools 3 itself makes of the same files.
"""

import gzip
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
import unittest

import testlib
from pkg import apk, feed, ipk, lmo
from testlib import ARCH, EPOCH, FILES, LINK, TOP

NAMES = ["luci-app-vpn-killswitch", "luci-i18n-vpn-killswitch-de", "vpn-killswitch"]
# 300 kB of something that compresses like a program, always the same.
BINARY = b"\x7fELF" + b"".join(hashlib.sha256(bytes([n % 251])).digest() for n in range(9000))


class Packages(unittest.TestCase):
    """Everything that one project gives, built once."""

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.scratch = pathlib.Path(scratch.name)
        cls.binary = cls.scratch / "program"
        cls.binary.write_bytes(BINARY)
        cls.source = testlib.project(cls.scratch / "project")
        cls.out = testlib.package(cls.source, cls.binary, cls.scratch / "out")

    def ipk(self, name):
        """The .ipk of a package."""
        arch = ARCH if name == "vpn-killswitch" else "all"
        return self.out / f"{name}_1.2.3-r1_{arch}.ipk"

    def apk(self, name):
        """The .apk of a package."""
        return self.out / f"{name}-1.2.3-r1.apk"

    def unpack(self, name):
        """(members of data, members of control, texts of control), by the system's tar."""
        inner = self.scratch / f"unpacked-{name}"
        for part in ("data", "control"):
            (inner / part).mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-xzf", self.ipk(name), "-C", inner], check=True)
        for part in ("data", "control"):
            archive = inner / f"{part}.tar.gz"
            subprocess.run(["tar", "-xpzf", archive, "-C", inner / part], check=True)
        lists = []
        for part in ("data", "control"):
            with tarfile.open(inner / f"{part}.tar.gz") as archive:
                lists.append(archive.getmembers())
        texts = {p.name: p.read_text() for p in (inner / "control").iterdir()}
        return *lists, texts, inner

    def expected(self, name):
        """{path: mode} of the files that belong into a package, from the project's folder."""
        if name == NAMES[1]:
            return {
                "etc/uci-defaults/luci-i18n-vpn-killswitch-de": 0o644,
                "usr/lib/lua/luci/i18n/page.de.lmo": 0o644,
            }
        places = {"openwrt/files/": ""}
        if name == NAMES[0]:
            places = {"luci-app/htdocs/": "www/", "luci-app/root/": ""}
        modes = {}
        for path, (mode, _) in FILES.items():
            for place, root in places.items():
                if path.startswith(place):
                    modes[root + path.removeprefix(place)] = mode
        if name == NAMES[2]:
            modes["etc/config/vpn-killswitch"] = 0o600
            modes["usr/sbin/vpn-killswitch"] = 0o755
            modes[LINK[0].removeprefix("openwrt/files/")] = 0o777
        return modes

    def test_the_folder_has_every_package_once(self):
        there = {path.name for path in self.out.iterdir()}
        wanted = {self.ipk(n).name for n in NAMES} | {self.apk(n).name for n in NAMES}
        self.assertEqual(there, wanted | {"Packages", "Packages.gz", "packages.adb"})

    def test_the_same_bytes_from_another_place(self):
        # Another checkout's modes and times must not show either.
        old = os.umask(0o077)
        self.addCleanup(os.umask, old)
        source = testlib.project(self.scratch / "elsewhere" / "with spaces")
        os.umask(old)
        for path in source.rglob("*"):
            if not path.is_symlink():
                mode = 0o775 if path.stat().st_mode & 0o100 else 0o664
                path.chmod(mode)
                os.utime(path, (1, 1))
        binary = self.scratch / "another-program"
        binary.write_bytes(BINARY)
        out = testlib.package(source, binary, self.scratch / "again")
        for path in self.out.iterdir():
            self.assertEqual(path.read_bytes(), (out / path.name).read_bytes(), path.name)

    def test_an_ipk_is_what_openwrt_says(self):
        for name in NAMES:
            with tarfile.open(self.ipk(name)) as outer:
                members = [m.name for m in outer.getmembers()]
                version = outer.extractfile("./debian-binary").read()
            self.assertEqual(members, ["./debian-binary", "./data.tar.gz", "./control.tar.gz"])
            self.assertEqual(version, b"2.0\n")
            data, control, texts, _ = self.unpack(name)
            for member in data + control:
                owner = (member.uid, member.gid, member.uname, member.gname, member.mtime)
                self.assertEqual(owner, (0, 0, "", "", EPOCH), member.name)
                if member.isdir():
                    self.assertEqual(member.mode, 0o755, member.name)
            there = {m.name.removeprefix("./"): m.mode for m in data if not m.isdir()}
            self.assertEqual(there, self.expected(name))
            scripts = {m.name for m in control if m.mode == 0o755 and m.isfile()}
            wanted = {"./postinst", "./prerm"} | {f"./{s}" for s in texts if s.endswith("-pkg")}
            self.assertEqual(scripts, wanted)

    def test_the_archives_are_those_of_gnu_tar(self):
        for name in NAMES:
            *_, inner = self.unpack(name)
            for part in ("data", "control"):
                command = ["tar", "--format=gnu", "--sort=name", "--owner=0", "--group=0"]
                command += ["--numeric-owner", f"--mtime=@{EPOCH}", "-cf", "-", "."]
                run = subprocess.run(command, cwd=inner / part, capture_output=True, check=True)
                ours = gzip.decompress((inner / f"{part}.tar.gz").read_bytes())
                self.assertTrue(ours == run.stdout, f"{name}: {part}")

    def test_control_fields_are_complete(self):
        data, _, texts, inner = self.unpack("vpn-killswitch")
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", texts["control"], re.M))
        makefile = (TOP / "openwrt" / "Makefile").read_text()
        depends = re.search(r"^  DEPENDS:=(.*)$", makefile, re.M)[1].split()
        depends = [word[1:] for word in depends if word[0] == "+"]
        self.assertTrue(depends)
        told = fields.pop("Description")
        size = len(gzip.decompress((inner / "data.tar.gz").read_bytes()))
        self.assertEqual(
            fields,
            {
                "Package": "vpn-killswitch",
                "Version": "1.2.3-r1",
                "Depends": ", ".join(depends),
                "Source": "feeds/vpn-killswitch/openwrt",
                "SourceName": "vpn-killswitch",
                "License": "GPL-2.0-or-later",
                "Section": "net",
                "SourceDateEpoch": str(EPOCH),
                "Maintainer": "vpn-killswitch project",
                "Architecture": ARCH,
                "Installed-Size": str(size),
            },
        )
        self.assertGreater(size, len(BINARY))
        self.assertTrue(told.strip())
        self.assertEqual(texts["conffiles"], "/etc/config/vpn-killswitch\n")
        page = self.unpack("luci-app-vpn-killswitch")[2]
        self.assertIn("\nDepends: luci-base, vpn-killswitch\n", page["control"])
        self.assertIn("\nArchitecture: all\n", page["control"])
        self.assertNotIn("conffiles", page)

    def test_an_apk_has_the_same_files_and_fields(self):
        for name in NAMES:
            info, tree, scripts = testlib.read_apk(self.apk(name).read_bytes())
            data, _, texts, inner = self.unpack(name)
            own = {p: v for p, v in tree.items() if not p.startswith("lib/apk") and p != "lib"}
            modes = {m.name.removeprefix(".").removeprefix("/"): m.mode for m in data}
            self.assertEqual({path: mode for path, (mode, _, _) in own.items()}, modes)
            for path, (_, content, link) in own.items():
                if content is not None:
                    self.assertEqual(content, (inner / "data" / path).read_bytes())
                if link is not None:
                    self.assertEqual(link, os.readlink(inner / "data" / path))
            place = f"lib/apk/packages/{name}."
            listed = tree[place + "list"][1].decode().splitlines()
            self.assertEqual(listed, sorted("/" + path for path in self.expected(name)))
            fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", texts["control"], re.M))
            architecture = fields["Architecture"].replace("all", "noarch")
            self.assertEqual(info["arch"], architecture)
            for ours, theirs in [("name", "Package"), ("version", "Version")]:
                self.assertEqual(info[ours], fields[theirs])
            depends = sorted(dep[0].decode() for dep in info["depends"])
            self.assertEqual(depends, sorted(fields["Depends"].split(", ")))
            sizes = sum(len(content) for _, content, _ in tree.values() if content)
            self.assertEqual(info["installed-size"], sizes)
            self.assertEqual(set(scripts), {"post-install", "pre-deinstall", "post-upgrade"})
            for script, inside in [("post-install", "postinst"), ("pre-deinstall", "prerm")]:
                own_text = texts.get(f"{inside}-pkg", "")
                self.assertTrue(scripts[script].endswith(own_text), script)
            self.assertTrue(scripts["post-upgrade"].endswith(scripts["post-install"]))

    def test_the_scripts_are_fit_for_busybox(self):
        checked = 0
        for name in NAMES:
            *_, texts, inner = self.unpack(name)
            scripts = [inner / "control" / text for text in texts if text.endswith("-pkg")]
            for path in scripts:
                # dash is what is closest to ash among shellcheck's dialects.
                command = ["shellcheck", "-s", "dash", path]
                run = subprocess.run(command, capture_output=True, text=True, check=False)
                self.assertEqual(run.returncode, 0, run.stdout)
                checked += 1
        self.assertEqual(checked, 3)

    def test_an_apk_names_its_configuration(self):
        _, tree, _ = testlib.read_apk(self.apk("vpn-killswitch").read_bytes())
        place = "lib/apk/packages/vpn-killswitch."
        self.assertEqual(tree[place + "conffiles"][1], b"/etc/config/vpn-killswitch\n")
        digest = hashlib.sha256(tree["etc/config/vpn-killswitch"][1]).hexdigest()
        line = f"/etc/config/vpn-killswitch {digest}\n"
        self.assertEqual(tree[place + "conffiles_static"][1].decode(), line)

    def test_the_indexes_describe_every_file(self):
        text = (self.out / "Packages").read_text()
        self.assertEqual(gzip.decompress((self.out / "Packages.gz").read_bytes()).decode(), text)
        entries = [e for e in text.split("\n\n") if e]
        self.assertEqual(len(entries), len(NAMES))
        for name, entry in zip(NAMES, entries):
            fields = dict(re.findall(r"^([A-Z]\w*): (.*)$", entry, re.M))
            data = self.ipk(name).read_bytes()
            self.assertEqual(fields["Package"], name)
            self.assertEqual(fields["Filename"], self.ipk(name).name)
            self.assertEqual(fields["Size"], str(len(data)))
            self.assertEqual(fields["SHA256sum"], hashlib.sha256(data).hexdigest())
        index = testlib.Adb((self.out / "packages.adb").read_bytes())
        self.assertEqual(index.schema, b"indx")
        packages = index.value(index.root)[1]
        self.assertEqual([info[0].decode() for info in packages], NAMES)
        for info in packages:
            info = testlib.named(info, testlib.PKGINFO)
            data = self.apk(info["name"]).read_bytes()
            self.assertEqual(info["file-size"], len(data))
            self.assertEqual(info["hashes"], hashlib.sha256(testlib.Adb(data).adb).digest())

    def test_configuration_that_comes_later_is_kept_by_name(self):
        files = {p: f for p, f in FILES.items() if "etc/config" not in p}
        source = testlib.project(self.scratch / "without", files=files)
        package = feed.read(source / "openwrt", ARCH, self.binary)[0]
        kept = package.files["lib/upgrade/keep.d/vpn-killswitch"]
        self.assertEqual(kept.data, b"/etc/config/vpn-killswitch\n")
        self.assertNotIn("conffiles", self.control_of(ipk.build(package, EPOCH)))
        # What the package itself wants to be kept stays in the list.
        own = source / "openwrt/files/lib/upgrade/keep.d/vpn-killswitch"
        own.parent.mkdir(parents=True)
        own.write_text("/etc/other\n")
        package = feed.read(source / "openwrt", ARCH, self.binary)[0]
        kept = package.files["lib/upgrade/keep.d/vpn-killswitch"]
        self.assertEqual(kept.data, b"/etc/other\n/etc/config/vpn-killswitch\n")

    def control_of(self, data):
        """Names in the control archive."""
        path = self.scratch / "some.ipk"
        path.write_bytes(data)
        with tarfile.open(path) as outer, tarfile.open(
            fileobj=outer.extractfile("./control.tar.gz")
        ) as control:
            return [name.removeprefix("./") for name in control.getnames()]

    def test_what_is_missing_is_told(self):
        command = [TOP / "cross" / "package", "--source", self.source, "--arch", ARCH]
        command += ["--binary", self.scratch / "nothing", "--out", self.scratch / "none"]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 1)
        self.assertIn("nothing: there is no program", run.stderr)
        self.assertNotIn("Traceback", run.stderr)

    @unittest.skipUnless("APK" in os.environ, "APK= names no apk-tools 3")
    def test_apk_tools_make_the_same_bytes(self):
        program = os.environ["APK"]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)}
        packages = feed.read(self.source / "openwrt", ARCH, self.binary)
        packages += feed.read(self.source / "luci-app", ARCH)
        for package in packages:
            ours = self.apk(package.name)
            root, theirs = self.scratch / "root", self.scratch / "theirs.apk"
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            extract = [program, "extract", "--allow-untrusted", "--destination", root, ours]
            subprocess.run(extract, check=True, capture_output=True)
            arch = package.architecture.replace("all", "noarch")
            command = [program, "mkpkg", "--files", root, "--output", theirs]
            for field in (
                *(f"name:{package.name}", f"version:{package.version}", f"arch:{arch}"),
                f"description:{' '.join(package.description.split())}",
                *(f"license:{package.licence}", f"origin:{package.source}", "url:", "provides:"),
                *(f"maintainer:{package.maintainer}", f"depends:{' '.join(package.depends)}"),
            ):
                command += ["--info", field]
            for kind, text in apk.scripts(package).items():
                path = self.scratch / kind
                path.write_text(text)
                command += ["--script", f"{kind}:{path}"]
            subprocess.run(command, env=environment, check=True)
            self.assertTrue(theirs.read_bytes() == ours.read_bytes(), package.name)
        theirs = self.scratch / "theirs.adb"
        command = [program, "mkndx", "--allow-untrusted", "--output", theirs]
        command += sorted(self.out.glob("*.apk"))
        subprocess.run(command, env=environment, check=True, capture_output=True)
        self.assertTrue(theirs.read_bytes() == (self.out / "packages.adb").read_bytes())


class Project(unittest.TestCase):
    """The real Makefiles and the real crate agree."""

    def test_version_and_licence_are_the_crate_s(self):
        crate = tomllib.loads((TOP / "Cargo.toml").read_text())["package"]
        for name in ("openwrt", "luci-app"):
            text = (TOP / name / "Makefile").read_text()
            self.assertIn(f"PKG_LICENSE:={crate['license']}\n", text)
            shell = re.search(r"^PKG_VERSION:=\$\(shell (.*)\)$", text, re.M)[1]
            command = shell.replace("$$", "$")
            run = subprocess.run(
                ["sh", "-c", command], cwd=TOP / name, capture_output=True, text=True, check=True
            )
            self.assertEqual(run.stdout.strip(), crate["version"])


    def test_every_architecture_has_one_program(self):
        targets = tomllib.loads((TOP / "cross" / "targets.toml").read_text())["target"]
        names = [name for target in targets for name in target["openwrt"]]
        self.assertEqual(len(names), len(set(names)))
        for target in targets:
            self.assertIn(target["name"], target["openwrt"])


class Catalogues(unittest.TestCase):
    """LuCI's compiled translations. The numbers are those of LuCI's own po2lmo."""

    def test_the_hash_is_luci_s(self):
        for text, value in HASHES.items():
            self.assertEqual(lmo.hash32(text.encode()), value, text)

    def test_a_catalogue_is_luci_s(self):
        self.assertEqual(lmo.catalogue(PO.encode()).hex(), CATALOGUE)

    def test_nothing_translated_is_no_catalogue(self):
        self.assertEqual(lmo.catalogue(b'msgid "a"\nmsgstr ""\n'), b"")


PO = r"""# a comment
msgid ""
msgstr ""
"Language: de\n"
"Plural-Forms: nplurals=2; plural=n != 1;\n"

#: somewhere
msgid "Blocked"
msgstr "Gesperrt"

msgid "Not translated"
msgstr ""

msgid "%d client"
msgid_plural "%d clients"
msgstr[0] "%d Gerät"
msgstr[1] "%d Geräte"

msgctxt "state"
msgid "Open \"now\""
msgstr ""
"Offen, "
"\"jetzt\"\n"
"und \\ weiter"

msgid "same"
msgstr "same"
"""
HASHES = {
    "": 0x00000000,
    "a": 0x115EA782,
    "ab": 0x516B8B44,
    "abc": 0xD2BE198A,
    "abcd": 0xDAD8B8DB,
    "é": 0xC4FBA554,
    "Gerät": 0xB0E36854,
    "Blocked": 0xCE822866,
    "nothing leaves outside the tunnel": 0xFEBA03AA,
}
CATALOGUE = (
    "6e706c7572616c733d323b20706c7572616c3d6e20213d20313b0000476573706572727425642047"
    "6572c3a474000000256420476572c3a4746500004f6666656e2c20226a65747a74225c6e756e6420"
    "5c207765697465720000000000000000000000000000001a0ac16d0700000002000000300000000a"
    "0d93f5b3000000020000002400000009ce822866000000010000001c00000008d024deff00000001"
    "0000003c0000001c00000058"
)


if __name__ == "__main__":
    unittest.main()
