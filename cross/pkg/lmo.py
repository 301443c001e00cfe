"""LuCI's catalogues of translations: what its po2lmo makes from a .po file, byte for byte."""

import struct

SEPARATOR_CONTEXT, SEPARATOR_PLURAL = b"\x01", b"\x02"
MASK = 0xFFFFFFFF


def hash32(data):
    """Paul Hsieh's SuperFastHash, started with the length, as LuCI uses it to find a message."""
    if not data:
        return 0
    value = len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        low, high = struct.unpack_from("<HH", data, at)
        value = value + low & MASK
        value = (value << 16 ^ high << 11 ^ value) & MASK
        value = value + (value >> 11) & MASK
    rest = data[whole:]
    # The last byte counts as signed, as `char` is in C.
    last = struct.unpack("b", rest[-1:])[0] if rest else 0
    if len(rest) == 3:
        value = value + struct.unpack("<H", rest[:2])[0] & MASK
        value = (value ^ value << 16 ^ last << 18) & MASK
        value = value + (value >> 11) & MASK
    elif len(rest) == 2:
        value = value + struct.unpack("<H", rest)[0] & MASK
        value = (value ^ value << 11) & MASK
        value = value + (value >> 17) & MASK
    elif len(rest) == 1:
        value = value + last & MASK
        value = (value ^ value << 10) & MASK
        value = value + (value >> 1) & MASK
    for left, right in [(3, 5), (4, 17), (25, 6)]:
        value = (value ^ value << left) & MASK
        value = value + (value >> right) & MASK
    return value


def _quoted(line):
    """What stands between the quotes; of the escapes only those of quote and backslash are undone."""
    text = line.partition(b'"')[2]
    out = bytearray()
    at = 0
    while at < len(text) and text[at : at + 1] != b'"':
        if text[at : at + 1] == b"\\" and at + 1 < len(text):
            following = text[at + 1 : at + 2]
            out += following if following in (b'"', b"\\") else b"\\" + following
            at += 2
        else:
            out += text[at : at + 1]
            at += 1
    return bytes(out)


def _messages(text):
    """Messages as {field: text}; a field is msgctxt, msgid, msgid_plural or the number of a msgstr."""
    message, field = {}, None
    for line in text.splitlines():
        line = line.strip()
        if line.startswith(b"#"):
            continue
        keyword = line.split(b" ")[0] if not line.startswith(b'"') else b""
        if keyword == b"msgctxt" or (keyword == b"msgid" and field != "msgctxt"):
            if message:
                yield message
            message = {}
        if keyword in (b"msgctxt", b"msgid", b"msgid_plural"):
            field = keyword.decode()
        elif keyword == b"msgstr":
            field = 0
        elif keyword.startswith(b"msgstr["):
            field = int(keyword[7:].rstrip(b"]"))
        elif keyword:
            raise ValueError(f"not understood: {line.decode(errors='replace')}")
        if field is not None and b'"' in line:
            message[field] = message.get(field, b"") + _quoted(line)
    if message:
        yield message


def catalogue(text):
    """The catalogue of a .po file's bytes; empty if nothing is translated."""
    values, index = bytearray(), []

    def store(key, number, value):
        index.append((key, number, len(values), len(value)))
        values.extend(value + b"\0" * (-len(value) % 4))

    for message in _messages(text):
        translated = {n: t for n, t in message.items() if isinstance(n, int) and t}
        if not message.get("msgid"):
            for line in message.get(0, b"").split(b"\\n")[:-1]:
                if line.lower().startswith(b"plural-forms: "):
                    store(0, 0, line[14:])
                    break
            continue
        # Without a first form po2lmo takes a message for a file's head.
        if 0 not in translated:
            continue
        forms = max(n for n in message if isinstance(n, int)) + 1
        for number, value in sorted(translated.items()):
            key = message["msgid"]
            if "msgid_plural" in message:
                key += SEPARATOR_PLURAL + str(number).encode()
            if message.get("msgctxt"):
                key = message["msgctxt"] + SEPARATOR_CONTEXT + key
            if hash32(key) != hash32(value):
                store(hash32(key), forms, value)
    if not values:
        return b""
    index.sort(key=lambda entry: entry[0])
    table = b"".join(struct.pack(">IIII", *entry) for entry in index)
    return bytes(values) + table + struct.pack(">I", len(values))
