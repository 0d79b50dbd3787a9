"""The one thing runkit changes in a program file: where it looks for its shared libraries.

Layout after the System V ABI, "Object Files" and "Dynamic Section"; 64 bit, little-endian.
"""

from __future__ import annotations

import struct

_DT_NULL, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 0, 5, 15, 29
_PT_LOAD, _PT_DYNAMIC = 1, 2


def is_elf(data: bytes) -> bool:
    """Whether these are the bytes of a 64-bit little-endian program or shared library."""
    return data[:6] == b"\x7fELF\x02\x01"


def relocated(data: bytes, search: str) -> tuple[bytes, bool]:
    """The file with another search path for shared libraries, in the place of the one it has.

    The entry becomes a DT_RPATH, which unlike a DT_RUNPATH also counts for what the libraries themselves need: so an interpreter
    finds the libraries beside it for all its extension modules.

    Args:
        data: the file.
        search: the new path, such as "$ORIGIN/../lib".

    Returns:
        The bytes, and whether they have the new path: a file without a path, or with too short a one, stays as it is.
    """
    if not is_elf(data):
        return data, False
    offset, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, offset + i * size) for i in range(count)]
    loads = [(address, at, length) for kind, _, at, address, _, length, _, _ in headers if kind == _PT_LOAD]
    dynamic = next(((at, length) for kind, _, at, _, _, length, _, _ in headers if kind == _PT_DYNAMIC), None)
    if dynamic is None:
        return data, False
    strings, entry = None, None
    for at in range(dynamic[0], dynamic[0] + dynamic[1], 16):
        tag, value = struct.unpack_from("<qQ", data, at)
        if tag == _DT_NULL:
            break
        if tag == _DT_STRTAB:
            strings = next(
                (value - address + start for address, start, length in loads if 0 <= value - address < length), None
            )
        elif tag in (_DT_RPATH, _DT_RUNPATH):
            entry = (at, value)
    if strings is None or entry is None:
        return data, False
    start = strings + entry[1]
    end = data.index(b"\0", start)
    new = search.encode()
    if len(new) > end - start:
        return data, False
    changed = bytearray(data)
    changed[start:end] = new.ljust(end - start, b"\0")
    struct.pack_into("<q", changed, entry[0], _DT_RPATH)
    return bytes(changed), True
