"""apk-tools' ADB: a block of numbered values behind 32-bit tags, and the file around it.

Documented in apk-v3(5). Equal values are stored once and written in the order in which apk's own
`mkpkg` writes them, so that its output and ours can be compared byte for byte.
"""

import struct
import zlib

INT, INT32, INT64 = 0x1, 0x2, 0x3
BLOB8, BLOB16, BLOB32 = 0x8, 0x9, 0xA
ARRAY, OBJECT = 0xD, 0xE
BLOCK_ADB, BLOCK_DATA = 0, 2
HEADER = 8


class Writer:
    """Builds an ADB block; every method returns the tag of what was stored (0: nothing)."""

    def __init__(self):
        self.data = bytearray(HEADER)
        self.stored = {}

    def _store(self, raw, alignment, once=True):
        found = self.stored.get(raw) if once else None
        if found is not None and found % alignment == 0:
            return found
        self.data += b"\0" * (-len(self.data) % alignment)
        at = len(self.data)
        self.data += raw
        if once:
            self.stored[raw] = at
        return at

    def number(self, value):
        """An unsigned number; a small one lives in its tag."""
        if value < 1 << 28:
            return INT << 28 | value
        if value < 1 << 32:
            return INT32 << 28 | self._store(struct.pack("<I", value), 4)
        return INT64 << 28 | self._store(struct.pack("<Q", value), 4)

    def blob(self, value, once=True):
        """Bytes or a string; none at all for an empty one."""
        value = value.encode() if isinstance(value, str) else value
        if not value:
            return 0
        if len(value) <= 0xFF:
            kind, length, alignment = BLOB8, "<B", 1
        elif len(value) <= 0xFFFF:
            kind, length, alignment = BLOB16, "<H", 2
        else:
            kind, length, alignment = BLOB32, "<I", 4
        raw = struct.pack(length, len(value)) + value
        return kind << 28 | self._store(raw, alignment, once)

    def slots(self, values):
        """An object by {number: tag}, or an array by a list of tags."""
        if not isinstance(values, dict):
            values = dict(enumerate(values, 1))
        values = {number: tag for number, tag in values.items() if tag}
        if not values:
            return 0
        count = max(values) + 1
        raw = struct.pack(f"<{count}I", count, *(values.get(n, 0) for n in range(1, count)))
        return OBJECT << 28 | self._store(raw, 4)

    def finish(self, root):
        """The block, with its root object."""
        self.data[:HEADER] = struct.pack("<BBHI", 0, 0, 0, root)
        return self.data


def block(kind, payload):
    """A typed block, padded to eight bytes."""
    size = 4 + len(payload)
    assert size < 1 << 30
    return struct.pack("<I", kind << 30 | size) + payload + b"\0" * (-size % 8)


def file(schema, adb, data=()):
    """A compressed ADB file: the block, unsigned, and what belongs to it."""
    blocks = [block(BLOCK_ADB, bytes(adb))] + [block(BLOCK_DATA, part) for part in data]
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 8)
    raw = b"ADB." + schema + b"".join(blocks)
    return b"ADBd" + deflate.compress(raw) + deflate.flush()


def open_file(data, schema):
    """The ADB block of a file that this tool wrote."""
    if data[:4] != b"ADBd":
        raise ValueError("not a file of apk-tools 3")
    raw = zlib.decompress(data[4:], -15)
    if raw[:8] != b"ADB." + schema:
        raise ValueError("a file of apk-tools 3, but of another kind")
    (tag,) = struct.unpack_from("<I", raw, 8)
    if tag >> 30 != BLOCK_ADB:
        raise ValueError("no ADB block first")
    return raw[12 : 8 + tag]


class Reader:
    """Values of an ADB block by their tags."""

    def __init__(self, data):
        self.data = data
        (self.root,) = struct.unpack_from("<I", data, 4)

    def slots(self, tag):
        """The tags of an object or array, from number 1 on."""
        at = tag & 0x0FFFFFFF
        (count,) = struct.unpack_from("<I", self.data, at)
        return list(struct.unpack_from(f"<{count - 1}I", self.data, at + 4))

    def copy(self, tag, to):
        """Stores what a tag means into a `Writer`."""
        kind, at = tag >> 28, tag & 0x0FFFFFFF
        if kind in (0, INT):
            return tag
        if kind in (ARRAY, OBJECT):
            return to.slots({n: self.copy(t, to) for n, t in enumerate(self.slots(tag), 1)})
        if kind == INT32:
            return to.number(struct.unpack_from("<I", self.data, at)[0])
        if kind == INT64:
            return to.number(struct.unpack_from("<Q", self.data, at)[0])
        length = {BLOB8: "<B", BLOB16: "<H", BLOB32: "<I"}[kind]
        (size,) = struct.unpack_from(length, self.data, at)
        start = at + struct.calcsize(length)
        return to.blob(bytes(self.data[start : start + size]))
