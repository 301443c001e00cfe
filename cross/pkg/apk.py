"""The .apk format of apk-tools 3: the package that OpenWrt's build has `apk mkpkg` make, unsigned."""

import hashlib
import os
import struct

from . import adb
from .tree import add

PACKAGE, INDEX = b"pckg", b"indx"

# Numbers of slots, from apk-tools' schemas.
PKG_INFO, PKG_PATHS, PKG_SCRIPTS = 1, 2, 3
INFO_NAME, INFO_VERSION, INFO_HASHES, INFO_DESCRIPTION, INFO_ARCH = 1, 2, 3, 4, 5
INFO_LICENSE, INFO_ORIGIN, INFO_MAINTAINER, INFO_URL = 6, 7, 8, 9
INFO_INSTALLED_SIZE, INFO_FILE_SIZE, INFO_DEPENDS = 12, 13, 15
FILE_NAME, FILE_ACL, FILE_SIZE, FILE_MTIME, FILE_HASH, FILE_TARGET = 1, 2, 3, 4, 5, 6
DIR_NAME, DIR_ACL, DIR_FILES = 1, 2, 3
ACL_MODE, ACL_USER, ACL_GROUP = 1, 2, 3
SCRIPTS = {"post-install": 3, "pre-deinstall": 4, "post-upgrade": 7}
INDEX_PACKAGES = 2
S_IFLNK = 0o120000

# What OpenWrt's build puts around a package's own scripts.
POST_INSTALL = """\
#!/bin/sh
[ "${{IPKG_NO_SCRIPT}}" = "1" ] && exit 0
[ -s ${{IPKG_INSTROOT}}/lib/functions.sh ] || exit 0
. ${{IPKG_INSTROOT}}/lib/functions.sh
export root="${{IPKG_INSTROOT}}"
export pkgname="{name}"
add_group_and_user
default_postinst
"""
PRE_DEINSTALL = """\
#!/bin/sh
[ -s ${{IPKG_INSTROOT}}/lib/functions.sh ] || exit 0
. ${{IPKG_INSTROOT}}/lib/functions.sh
export root="${{IPKG_INSTROOT}}"
export pkgname="{name}"
default_prerm
"""
UPGRADE = "#!/bin/sh\nexport PKG_UPGRADE=1\n"


def filename(package):
    """What an index expects the file to be called."""
    return f"{package.name}-{package.version}.apk"


def scripts(package):
    """The scripts by apk's names. An upgrade runs the third only: nothing is stopped before it."""
    install = POST_INSTALL.format(name=package.name) + (package.postinst or "")
    return {
        "post-install": install,
        "pre-deinstall": PRE_DEINSTALL.format(name=package.name) + (package.prerm or ""),
        "post-upgrade": UPGRADE + install,
    }


def files(package):
    """The package's files with the lists that OpenWrt's lib/functions.sh and sysupgrade read."""
    tree = dict(package.files)
    listed = sorted("/" + path for path, entry in tree.items() if not entry.is_folder)
    place = f"lib/apk/packages/{package.name}"
    add(tree, f"{place}.list", "".join(f"{path}\n" for path in listed).encode())
    if package.conffiles:
        add(tree, f"{place}.conffiles", "".join(f"{p}\n" for p in package.conffiles).encode())
        present = [path for path in package.conffiles if path.lstrip("/") in tree]
        sums = [(p, hashlib.sha256(tree[p.lstrip("/")].data).hexdigest()) for p in present]
        if sums:
            lines = "".join(f"{path} {digest}\n" for path, digest in sums)
            add(tree, f"{place}.conffiles_static", lines.encode())
    return tree


def build(package, epoch):
    """The bytes of a package."""
    out = adb.Writer()
    info = {
        INFO_NAME: out.blob(package.name),
        INFO_VERSION: out.blob(package.version),
        INFO_DESCRIPTION: out.blob(" ".join(package.description.split())),
        INFO_ARCH: out.blob("noarch" if package.architecture == "all" else package.architecture),
        INFO_LICENSE: out.blob(package.licence),
        INFO_ORIGIN: out.blob(package.source),
        INFO_MAINTAINER: out.blob(package.maintainer),
        INFO_URL: out.blob(package.url),
        INFO_DEPENDS: _depends(out, package.depends),
    }
    tree = files(package)
    paths, data = _paths(out, tree, epoch)
    # apk takes a package without a single byte for one that is not to be installed.
    size = sum(len(e.data) for e in tree.values() if e.data is not None) or 1
    info[INFO_INSTALLED_SIZE] = out.number(size)
    # Filled in at the end: the package's identity is the digest of the block with zeroes here.
    placeholder = out.blob(bytes(20), once=False)
    info[INFO_HASHES] = placeholder
    root = {PKG_INFO: out.slots(info), PKG_PATHS: out.slots(paths)}
    texts = scripts(package)
    root[PKG_SCRIPTS] = out.slots({SCRIPTS[n]: out.blob(texts[n]) for n in SCRIPTS})
    block = out.finish(out.slots(root))
    at = (placeholder & 0x0FFFFFFF) + 1
    block[at : at + 20] = hashlib.sha256(block).digest()[:20]
    return adb.file(PACKAGE, block, data)


def _depends(out, names):
    """apk keeps each dependency as an object, in the order of their names."""
    tags = {name: out.slots({1: out.blob(name)}) for name in names}
    return out.slots([tags[name] for name in sorted(tags, key=str.encode)])


def _acl(out, mode):
    return {ACL_MODE: out.number(mode), ACL_USER: out.blob("root"), ACL_GROUP: out.blob("root")}


def _paths(out, tree, epoch):
    """The tags of all folders, and the blocks of data that their files need."""
    folders = sorted((p for p, e in tree.items() if e.is_folder), key=str.encode)
    within = {folder: [] for folder in folders}
    for path, entry in tree.items():
        if not entry.is_folder:
            within[os.path.dirname(path)].append(path)
    tags, data = [], []
    for number, folder in enumerate(folders, 1):
        inner = sorted(within[folder], key=str.encode)
        files_tags = []
        for place, path in enumerate(inner, 1):
            files_tags.append(_file(out, path, tree[path], epoch))
            if tree[path].data:
                data.append(struct.pack("<II", number, place) + tree[path].data)
        name, acl = out.blob(folder), _acl(out, tree[folder].mode)
        tags.append(
            out.slots({DIR_NAME: name, DIR_ACL: out.slots(acl), DIR_FILES: out.slots(files_tags)})
        )
    return tags, data


def _file(out, path, entry, epoch):
    slots = {FILE_NAME: out.blob(os.path.basename(path))}
    if entry.target is None:
        slots[FILE_HASH] = out.blob(hashlib.sha256(entry.data).digest())
        size = len(entry.data)
    else:
        slots[FILE_TARGET] = out.blob(struct.pack("<H", S_IFLNK) + entry.target.encode())
        size = len(entry.target.encode())
    slots[FILE_MTIME] = out.number(epoch)
    slots[FILE_SIZE] = out.number(size)
    slots[FILE_ACL] = out.slots(_acl(out, entry.mode))
    return out.slots(slots)


def index(packages):
    """packages.adb, as `apk mkndx` makes it, for packages given as bytes."""
    out = adb.Writer()
    entries = []
    for data in packages:
        block = adb.open_file(data, PACKAGE)
        reader = adb.Reader(block)
        info = reader.slots(reader.slots(reader.root)[PKG_INFO - 1])
        slots = {number: reader.copy(tag, out) for number, tag in enumerate(info, 1)}
        name = _text(block, info[INFO_NAME - 1])
        slots[INFO_FILE_SIZE] = out.number(len(data))
        slots[INFO_HASHES] = out.blob(hashlib.sha256(block).digest())
        entries.append((name, out.slots(slots)))
    tags = [tag for _, tag in sorted(entries)]
    return adb.file(INDEX, out.finish(out.slots({INDEX_PACKAGES: out.slots(tags)})))


def _text(block, tag):
    at = tag & 0x0FFFFFFF
    return bytes(block[at + 1 : at + 1 + block[at]])
