"""What a worker notes of itself in a small file, for whoever cannot ask it: code that does not react keeps it from answering."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOTE = struct.Struct("<QBB6xQ40s")
"""How many calls run; of each output stream, whether it is being emptied; if one call runs, its number and its session's id."""

_COUNT = struct.Struct("<Q")
_STREAMS_AT = 8
_CALL = struct.Struct("<Q40s")
_CALL_AT = 16


def note_calls(note: Any, count: int, alone: tuple[str, int] | None) -> None:
    """Write how many calls run, and of one that runs alone (session, number), into the buffer `note`."""
    if alone is not None:
        _CALL.pack_into(note, _CALL_AT, alone[1], alone[0].encode())
    _COUNT.pack_into(note, 0, count)


def note_stream(note: Any, stream: int, busy: int) -> None:
    """Write whether an output stream (1, 2) is being emptied."""
    note[_STREAMS_AT + stream - 1] = busy


def read(data: bytes) -> tuple[int, tuple[str, int] | None, bool]:
    """How many calls run, (session, number) of the one that runs alone, and whether output is being taken."""
    count, out, err, number, session = NOTE.unpack(data)
    alone = (session.rstrip(b"\0").decode(errors="replace"), number) if count == 1 else None
    return count, alone, bool(out or err)
