"""The compiler and the linker for routers' CPUs, in a cache outside of the checkout.

Everything comes from Debian's archive (unpacked, not installed: it conflicts with rustup) and from
the Python package index, at the versions in debian.toml and requirements.txt. Building is not this
module's part.
"""

import fcntl
import fnmatch
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tomllib

EMULATORS = "qemu-user-static"


class Error(Exception):
    """What the user is told before the end."""


def run(command, failure, capture=False, **options):
    """Runs a program; its standard output if `capture`. It must succeed."""
    try:
        result = subprocess.run(command, check=False, text=True,
                                stdout=subprocess.PIPE if capture else None, **options)
    except OSError as error:
        raise Error(f"{failure}: {error}") from error
    if result.returncode:
        raise Error(f"{failure}: {command[0]} ended with {result.returncode}")
    return result.stdout


class Toolchain:
    """What is in the cache; fetched on the first use, and when the pins have changed."""

    def __init__(self, pins, emulators=False):
        """`pins` is the folder with debian.toml and requirements.txt."""
        default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        base = pathlib.Path(os.environ.get("CROSS_CACHE") or default / "vpn-killswitch")
        self.cargo_home = pathlib.Path(os.environ.get("CARGO_HOME") or "~/.cargo").expanduser()
        wanted = [(pins / name).read_bytes() for name in ("debian.toml", "requirements.txt")]
        # Another version of the pins is another folder: nothing old is left in it.
        self.root = base.resolve() / hashlib.sha256(b"".join(wanted)).hexdigest()[:12]
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / "lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._once("python", lambda folder: fetch_wheels(pins / "requirements.txt", folder))
            self._once("debian", lambda folder: fetch_debian(pins / "debian.toml", folder))
            if emulators:
                self._once("qemu", lambda folder: unpack([EMULATORS], folder))

    def _once(self, name, fill):
        """Fills a folder of the cache, or leaves it as it is when it was filled."""
        folder = self.root / name
        if folder.is_dir():
            return
        print(f"fetching into {folder}", flush=True)
        unfinished = self.root / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        fill(unfinished)
        unfinished.rename(folder)

    def environment(self):
        """The environment in which the toolchain's programs run, and only they."""
        usr = self.root / "debian" / "usr"
        python = self.root / "python"
        # A developer's own flags and compiler would make other bytes.
        foreign = re.compile(r"RUST|CARGO_(BUILD_(?!JOBS)|PROFILE|TARGET|ENCODED)|CC|CFLAGS|LD_")
        kept = {k: v for k, v in os.environ.items() if not foreign.match(k)}
        return kept | {
            "PATH": f"{python / 'bin'}:{usr / 'bin'}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": ":".join(map(str, usr.glob("lib/*-linux-gnu"))),
            "RUSTC": str(usr / "bin" / "rustc"),
            "CARGO": str(usr / "bin" / "cargo"),
            # Debian's is a stable compiler; -Zbuild-std asks for this.
            "RUSTC_BOOTSTRAP": "1",
            "CARGO_ZIGBUILD_ZIG_PATH": str(python / "ziglang" / "zig"),
            "CARGO_ZIGBUILD_CACHE_DIR": str(self.root / "zigbuild"),
            "ZIG_GLOBAL_CACHE_DIR": str(self.root / "zig"),
            "SOURCE_DATE_EPOCH": "0",
        }

    def tool(self, name):
        """A binutils program that knows every CPU."""
        found = sorted((self.root / "debian" / "usr" / "bin").glob(f"*-linux-gnu-{name}"))
        if not found:
            raise Error(f"binutils-multiarch has no {name}")
        return str(found[0])

    def emulator(self, name):
        """The emulator of one CPU."""
        return str(self.root / "qemu" / "usr" / "bin" / f"qemu-{name}-static")


def fetch_wheels(requirements, folder):
    """Unpacks the Python packages; pip compares their hashes."""
    run(["python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--root-user-action=ignore", "--no-deps", "--only-binary=:all:", "--require-hashes",
         f"--target={folder}", f"--requirement={requirements}"],
        "cannot fetch the linker from the Python package index (needs python3-pip)")


def fetch_debian(pins, folder):
    """Unpacks the compiler and what it needs; its versions must be the pinned ones."""
    with open(pins, "rb") as file:
        packages = tomllib.load(file)["package"]
    unpack([p["name"] for p in packages], folder, packages)


def unpack(names, folder, pins=()):
    """Unpacks Debian packages, and those that they need and this machine lacks."""
    archives = folder / "archives"
    archives.mkdir()
    wanted = closure(names, archives)
    for pin in pins:
        version = wanted.get(pin["name"])
        if version is None:
            raise Error(f"{pin['name']}: installed, so that apt cannot give its package")
        if not fnmatch.fnmatchcase(version, pin["version"]):
            raise Error(f"Debian's archive has {pin['name']} {version}, and {pin['version']} is pinned: "
                        "cross/debian.toml tells what to do")
        if version != pin["recorded"]:
            print(f"note: {pin['name']} {version} is newer than the recorded {pin['recorded']}; "
                  "bytes may differ (cross/debian.toml)", flush=True)
    run(["apt-get", *apt_options(archives), "--quiet=2", "download",
         *(f"{name}={version}" for name, version in wanted.items())],
        "cannot fetch Debian's packages", cwd=archives)
    for pin in pins:
        if wanted[pin["name"]] == pin["recorded"]:
            check(next(archives.glob(f"{pin['name']}_*.deb")), pin["sha256"])
    for archive in sorted(archives.glob("*.deb")):
        run(["dpkg-deb", "--extract", str(archive), str(folder)], f"{archive}: cannot unpack")
    shutil.rmtree(archives)


def check(archive, wanted):
    """Holds a file to its recorded hash."""
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise Error(f"{archive.name} has SHA-256 {found}, recorded is {wanted}")


def closure(names, archives):
    """Names and versions of these packages and of what they need that is not installed."""
    run(["apt-get", *apt_options(archives), "--quiet=2", "update"],
        "cannot read the lists of Debian's archive")
    text = run(["apt-get", *apt_options(archives), "--simulate", "--no-install-recommends",
                "install", "--reinstall", *names],
               f"this machine's archive has not all of {' '.join(names)} (they are in Debian 12's)",
               env=os.environ | {"LC_ALL": "C"}, capture=True)
    return dict(re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+)", text, re.MULTILINE))


def apt_options(archives):
    """Options by which apt writes nothing outside of the cache, and so needs no root."""
    state = archives / "apt"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}",
            "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="]
