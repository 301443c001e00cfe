"""Reads packages from the feed's Makefiles, by GNU make and with cross/feed in place of the SDK."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from . import tree
from .tree import Error, Tree

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
STAND_IN = TOP / "cross" / "feed"


@dataclasses.dataclass
class Package:
    """One package as its Makefile describes it, with the files that it installs."""

    name: str
    version: str
    depends: list[str]
    architecture: str
    section: str
    licence: str
    maintainer: str
    url: str
    source: str
    source_name: str
    description: str
    conffiles: list[str]
    postinst: str | None
    prerm: str | None
    files: Tree


def read(folder, architecture, program=None):
    """The packages of the Makefile in `folder`; `program` is the binary for `architecture`."""
    folder = pathlib.Path(folder).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        out, built = scratch / "out", scratch / "built"
        out.mkdir()
        if program is not None:
            (built / "bin").mkdir(parents=True)
            shutil.copyfile(program, built / "bin" / "vpn-killswitch")
        _make(folder, out, built)
        return [_package(path, folder.name, architecture) for path in sorted(out.iterdir())]


def _make(folder, out, built):
    command = ["make", "--no-print-directory", "--silent", "-C", folder, "stage"]
    variables = {
        "TOPDIR": STAND_IN,
        "OUT": out,
        "PKG_INSTALL_DIR": built,
        "PO2LMO": f"{sys.executable} {TOP / 'cross' / 'po2lmo'}",
    }
    command += [f"{name}={value}" for name, value in variables.items()]
    # An outer make's flags are not meant for this one.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
    environment["LC_ALL"] = "C.UTF-8"
    run = subprocess.run(
        command, env=environment, umask=0o022, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise Error(f"{folder}/Makefile could not be read:\n{run.stderr.strip()}")


def _package(out, source, architecture):
    def text(name):
        path = out / name
        return path.read_text() if path.exists() else None

    def field(name):
        return (text(name) or "").strip()

    depends = []
    for word in field("DEPENDS").split():
        if word.startswith("@"):
            continue  # a condition for the SDK's menu
        word = word.removeprefix("+")
        if ":" in word:
            raise Error(f"{out.name}: a dependency with a condition: {word}")
        depends.append(word)
    version = field("VERSION")
    if not version or version.startswith("-"):
        raise Error(f"{out.name} has no version")
    package = Package(
        name=out.name,
        version=version,
        depends=depends,
        architecture=field("PKGARCH") or architecture,
        section=field("SECTION"),
        licence=field("LICENSE"),
        maintainer=field("MAINTAINER"),
        url=field("URL"),
        source=f"feeds/vpn-killswitch/{source}",
        source_name=field("SOURCENAME"),
        description=text("description") or "",
        conffiles=(text("conffiles") or "").split(),
        postinst=text("postinst"),
        prerm=text("prerm"),
        files=tree.read(out / "root"),
    )
    _keep(package)
    return package


def _keep(package):
    """Configuration that only comes to be on the router is kept over a system upgrade by name, in
    the file where a package may have such names already: the SDK does the same."""
    later = [path for path in package.conffiles if path.lstrip("/") not in package.files]
    if later:
        place = f"lib/upgrade/keep.d/{package.name}"
        there = package.files[place].data if place in package.files else b""
        lines = "".join(f"{path}\n" for path in later if path.encode() not in there.split())
        tree.add(package.files, place, there + lines.encode())
