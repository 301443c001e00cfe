"""The .ipk format: a compressed GNU tar of a version, a data and a control archive."""

import gzip
import io
import tarfile

from .tree import Entry, add, order

# What OpenWrt's build puts into every package: lib/functions.sh does the work, and calls what a
# package says itself (postinst-pkg, prerm-pkg).
POSTINST = """\
#!/bin/sh
[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_postinst $0 $@
"""
PRERM = """\
#!/bin/sh
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_prerm $0 $@
"""


def filename(package):
    """What OpenWrt would call the file."""
    return f"{package.name}_{package.version}_{package.architecture}.ipk"


def build(package, epoch):
    """The bytes of a package."""
    data = tar(package.files, epoch)
    control = {"": Entry(0o755)}
    conffiles = sorted(path for path in package.conffiles if path.lstrip("/") in package.files)
    if conffiles:
        add(control, "conffiles", "".join(f"{path}\n" for path in conffiles).encode())
    # OpenWrt's measure: the data archive before compression.
    add(control, "control", fields(package, epoch, len(data)).encode())
    for name, text in [("postinst", POSTINST), ("prerm", PRERM)]:
        add(control, name, text.encode(), 0o755)
    for name, text in [("postinst-pkg", package.postinst), ("prerm-pkg", package.prerm)]:
        if text is not None:
            add(control, name, text.encode(), 0o755)
    outer = {
        "debian-binary": b"2.0\n",
        "data.tar.gz": compress(data),
        "control.tar.gz": compress(tar(control, epoch)),
    }
    return compress(tar({name: Entry(0o644, data=data) for name, data in outer.items()}, epoch, list))


def fields(package, epoch, installed_size):
    """The control file."""
    known = [
        ("Package", package.name),
        ("Version", package.version),
        ("Depends", ", ".join(package.depends)),
        ("Source", package.source),
        ("SourceName", package.source_name),
        ("License", package.licence),
        ("Section", package.section),
        ("SourceDateEpoch", str(epoch)),
        ("URL", package.url),
        ("Maintainer", package.maintainer),
        ("Architecture", package.architecture),
        ("Installed-Size", str(installed_size)),
    ]
    lines = [f"{name}: {value}\n" for name, value in known if value]
    told = [f" {line.strip()}\n" for line in package.description.strip().splitlines()]
    return "".join(lines) + "Description: " + "".join(told)


def tar(tree, epoch, sort=lambda paths: sorted(paths, key=order)):
    """What `tar --format=gnu --sort=name --owner=0 --group=0 --numeric-owner` writes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sort(tree):
            entry = tree[path]
            member = tarfile.TarInfo(f"./{path}" if path else ".")
            member.mode, member.mtime = entry.mode, epoch
            if entry.is_folder:
                member.type = tarfile.DIRTYPE
            elif entry.target is not None:
                member.type, member.linkname = tarfile.SYMTYPE, entry.target
            else:
                member.size = len(entry.data)
            archive.addfile(member, io.BytesIO(entry.data or b""))
    return out.getvalue()


def compress(data):
    """gzip without a name or a time."""
    return gzip.compress(data, 9, mtime=0)


def control_of(data):
    """The control file of a package."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as outer:
        inner = outer.extractfile("./control.tar.gz").read()
    with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as control:
        return control.extractfile("./control").read().decode()
