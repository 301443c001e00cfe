"""What the tests of the packages share: a small project of their own, and a reader of .apk files
that has nothing in common with the writer but the documentation, apk-v3(5)."""

import hashlib
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import zlib

TOP = pathlib.Path(__file__).resolve().parent.parent
EPOCH = 1700000000
ARCH = "mipsel_24kc"

FILES = {
    "openwrt/files/etc/config/vpn-killswitch": (0o644, "config killswitch 'main'\n"),
    "openwrt/files/etc/init.d/vpn-killswitch": (0o755, "#!/bin/sh\necho init $1 >>/calls\n"),
    "openwrt/files/etc/hotplug.d/iface/15-vpn-killswitch": (0o644, ": hotplug\n"),
    "openwrt/files/etc/uci-defaults/vpn-killswitch": (0o644, "echo uci-defaults >>/calls\n"),
    "luci-app/htdocs/luci-static/resources/view/page.js": (0o644, "'use strict';\n"),
    "luci-app/root/usr/share/rpcd/acl.d/page.json": (0o644, "{}\n"),
    "luci-app/po/templates/page.pot": (0o644, 'msgid "Blocked"\nmsgstr ""\n'),
    "luci-app/po/de/page.po": (0o644, 'msgid "Blocked"\nmsgstr "Gesperrt"\n'),
}
LINK = ("openwrt/files/usr/libexec/rpcd/vpn-killswitch", "/usr/sbin/vpn-killswitch")


def project(folder, version="1.2.3", files=None):
    """A project with the real Makefiles and files of its own; returns its folder."""
    folder.mkdir(parents=True)
    for name in ("openwrt", "luci-app"):
        (folder / name).mkdir()
        shutil.copyfile(TOP / name / "Makefile", folder / name / "Makefile")
    (folder / "Cargo.toml").write_text(f'[package]\nversion = "{version}"\n')
    for path, (mode, text) in (FILES if files is None else files).items():
        path = folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    link = folder / LINK[0]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(LINK[1])
    return folder


def copy(folder, version):
    """The real project's packages, as another version; returns their folder."""
    for name in ("openwrt", "luci-app"):
        ignored = shutil.ignore_patterns("node_modules")
        shutil.copytree(TOP / name, folder / name, symlinks=True, ignore=ignored)
    text = (TOP / "Cargo.toml").read_text()
    text = re.sub(r'^version = ".*"$', f'version = "{version}"', text, count=1, flags=re.M)
    (folder / "Cargo.toml").write_text(text)
    return folder


def package(source, binary, out, epoch=EPOCH):
    """Runs the tool; returns the folder with the packages."""
    command = [sys.executable, TOP / "cross" / "package", "--source", source, "--out", out]
    command += ["--binary", binary, "--arch", ARCH]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return out / ARCH


class Adb:
    """An .apk or packages.adb file, taken apart and checked."""

    def __init__(self, data):
        assert data[:4] == b"ADBd", "compressed by deflate"
        raw = zlib.decompressobj(-15).decompress(data[4:])
        assert raw[:4] == b"ADB."
        self.schema = raw[4:8]
        self.blocks = []
        at = 8
        while at < len(raw):
            assert at % 8 == 0, "a block is aligned"
            (head,) = struct.unpack_from("<I", raw, at)
            kind, size = head >> 30, head & 0x3FFFFFFF
            assert kind in (0, 2) and size >= 4
            self.blocks.append((kind, raw[at + 4 : at + size]))
            padding = raw[at + size : at + size + -size % 8]
            assert not any(padding) and len(padding) == -size % 8
            at += size + len(padding)
        assert [kind for kind, _ in self.blocks] == [0] + [2] * (len(self.blocks) - 1)
        self.adb = self.blocks[0][1]
        compatible, version, reserved, self.root = struct.unpack_from("<BBHI", self.adb)
        assert (compatible, version, reserved) == (0, 0, 0)

    def value(self, tag):
        """None, a number, bytes, or a list of slots (from number 1 on)."""
        kind, value = tag >> 28, tag & 0x0FFFFFFF
        if kind == 0:
            assert value == 0
            return None
        if kind == 1:
            return value
        if kind in (2, 3):
            assert value % 4 == 0
            return struct.unpack_from("<I" if kind == 2 else "<Q", self.adb, value)[0]
        if kind in (8, 9, 10):
            width = {8: 1, 9: 2, 10: 4}[kind]
            assert value % width == 0
            size = int.from_bytes(self.adb[value : value + width], "little")
            assert value + width + size <= len(self.adb)
            return self.adb[value + width : value + width + size]
        assert kind in (13, 14) and value % 4 == 0
        (count,) = struct.unpack_from("<I", self.adb, value)
        tags = struct.unpack_from(f"<{count - 1}I", self.adb, value + 4)
        return [self.value(tag) for tag in tags]

    def identity(self):
        """The digest of the block as it was before its first 20 bytes were written into it."""
        info = self.value(self.root)[0]
        at = self.adb.index(b"\x14" + info[2]) + 1
        blank = self.adb[:at] + bytes(20) + self.adb[at + 20 :]
        return hashlib.sha256(blank).digest()[:20]


PKGINFO = [
    *("name", "version", "hashes", "description", "arch", "license", "origin", "maintainer"),
    *("url", "repo-commit", "build-time", "installed-size", "file-size", "provider-priority"),
    "depends",
]


def named(slots, names):
    """Slots by their schema's names, strings as text."""
    out = {}
    for name, value in zip(names, slots):
        if value is None:
            continue
        text = isinstance(value, bytes) and name not in ("hashes", "hash", "target")
        out[name] = value.decode() if text else value
    assert len(slots) <= len(names)
    return out


def read_apk(data):
    """(info, {path: (mode, content, link)}, scripts) of a package, with every digest checked."""
    adb = Adb(data)
    assert adb.schema == b"pckg"
    info, paths, scripts = (adb.value(adb.root) + [None])[:3]
    tree, contents = {}, iter(adb.blocks[1:])
    for number, folder in enumerate(paths, 1):
        folder = named(folder, ["name", "acl", "files"])
        mode, user, group = folder["acl"]
        assert (user, group) == (b"root", b"root")
        above = folder.get("name", "")
        tree[above] = (mode, None, None)
        for place, file in enumerate(folder.get("files", []), 1):
            file = named(file, ["name", "acl", "size", "mtime", "hash", "target"])
            mode, user, group = file["acl"]
            assert (user, group, file["mtime"]) == (b"root", b"root", EPOCH)
            path = f"{above}/{file['name']}".lstrip("/")
            if "target" in file:
                assert file["target"][:2] == struct.pack("<H", 0o120000)
                tree[path] = (mode, None, file["target"][2:].decode())
                continue
            content = b""
            if file.get("size"):
                block = next(contents)[1]
                assert struct.unpack_from("<II", block) == (number, place)
                content = block[8:]
            assert len(content) == file.get("size", 0)
            assert hashlib.sha256(content).digest() == file["hash"]
            tree[path] = (mode, content, None)
    assert next(contents, None) is None
    info = named(info, PKGINFO)
    assert info["hashes"] == adb.identity()
    kinds = ["trigger", "pre-install", "post-install", "pre-deinstall", "post-deinstall"]
    kinds += ["pre-upgrade", "post-upgrade"]
    return info, tree, named(scripts, kinds)
