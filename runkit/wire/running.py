"""What a worker notes of itself in a small file, for whoever cannot ask it: code that does not react keeps it from answering."""

from __future__ import annotations

import struct

NOTE = struct.Struct("<QBB6xQ40s")
"""How many calls run; of each output stream, whether it is being emptied; if one call runs, its number and its session's id."""

CALL = struct.Struct("<Q40s")
CALL_AT = 16
"""The last two of it, and where they begin."""


def read(data: bytes) -> tuple[int, tuple[str, int] | None, bool]:
    """How many calls run, (session, number) of the one that runs alone, and whether output is being taken."""
    count, out, err, number, session = NOTE.unpack(data)
    alone = (session.rstrip(b"\0").decode(errors="replace"), number) if count == 1 else None
    return count, alone, bool(out or err)
