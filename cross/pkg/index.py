"""Makes a folder of packages a feed: Packages and Packages.gz for opkg, packages.adb for apk."""

import hashlib

from . import apk, ipk


def write(folder):
    """Writes the indexes of all packages in the folder."""
    found = sorted(folder.glob("*.ipk"), key=lambda path: path.name.encode())
    if found:
        text = "".join(_entry(path.name, path.read_bytes()) for path in found)
        (folder / "Packages").write_text(text)
        (folder / "Packages.gz").write_bytes(ipk.compress(text.encode()))
    found = sorted(folder.glob("*.apk"), key=lambda path: path.name.encode())
    if found:
        (folder / "packages.adb").write_bytes(apk.index([path.read_bytes() for path in found]))


def _entry(name, data):
    added = f"Filename: {name}\nSize: {len(data)}\nSHA256sum: {hashlib.sha256(data).hexdigest()}\n"
    return ipk.control_of(data).replace("Description:", added + "Description:", 1) + "\n"
