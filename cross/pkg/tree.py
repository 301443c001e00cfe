"""The files of a package: names, modes and contents. Owners are root and times are the package's."""

import dataclasses
import os
import stat


class Error(Exception):
    """What the user has to be told; no traceback."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A folder (no data, no target), a file (data) or a symbolic link (target)."""

    mode: int
    data: bytes | None = None
    target: str | None = None

    @property
    def is_folder(self):
        return self.data is None and self.target is None


Tree = dict[str, Entry]
"""Paths relative to the root, without a leading slash; the root itself is ''."""


def read(root):
    """The tree below a folder."""
    tree = {}
    for folder, folders, files in os.walk(root):
        within = os.path.relpath(folder, root)
        within = "" if within == "." else within
        tree[within] = Entry(stat.S_IMODE(os.lstat(folder).st_mode))
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                entry = Entry(0o777, target=os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    entry = Entry(stat.S_IMODE(status.st_mode), data=file.read())
            else:
                raise Error(f"{path}: neither a file nor a folder nor a symbolic link")
            tree[os.path.join(within, name)] = entry
    return tree


def add(tree, path, data, mode=0o644):
    """Puts a file into the tree, with the folders above it."""
    folder = os.path.dirname(path)
    while folder not in tree:
        tree[folder] = Entry(0o755)
        folder = os.path.dirname(folder)
    tree[path] = Entry(mode, data=data)


def order(path):
    """The order in which `tar --sort=name` meets paths: a folder, then what is in it."""
    return path.encode().split(b"/")
