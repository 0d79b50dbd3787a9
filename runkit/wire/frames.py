"""Frames: how a call, its logs and its result look on the way between a client and a worker.

A frame is a fixed header, a JSON object for what few words say (`meta`), and payload parts that are passed on as they are
(pickle 5: the pickle stream, then its out-of-band buffers). A part of `BLOB_BYTES` or more does not ride in the frame: it goes as a
*blob* over a second connection of the same session, so that small messages never wait behind large ones. The frame then
holds the blob's number in the part's place.

    header   body length u64 | meta length u32 | kind u8 | flags u8 | parts u16 | seq u32 | ack u32 | call u32
    body     meta (JSON) | per part u64: its length, or BLOB | its blob number | the inline parts

`seq` counts the frames of one direction and `ack` names the last one the sender has received: after a cut connection both sides
send again what the other has not seen, and throw away what they have.
"""

from __future__ import annotations

import json
import struct
from collections import namedtuple
from collections.abc import Iterable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    Buffer = Union[bytes, bytearray, memoryview]


HEADER = struct.Struct("<QIBBHIII")
BLOB_HEADER = struct.Struct("<QQ")
"""A blob on the bulk connection: its number, its length in bytes, then the bytes."""

BLOB_BYTES = 256 * 1024
BLOB = 1 << 63

# Kinds, client to worker
HELLO = 1  # {"session", "lane", "received", "client"}: the first frame of a connection
DEFINE = 2  # {"target": n, ...}: what target n is
CALL = 3  # {"t": target or "op": name, options}; parts: the arguments
CANCEL = 4  # {"why": "cancel" | "timeout" | "abandoned"}
NEXT = 5  # {"n": items}: the generator may run that many further items ahead
BYE = 6  # the client is going; what runs goes on
# Kinds, worker to client
WELCOME = 16  # {"generation", "received", "python", "pid"}
RESULT = 17  # parts: the value
ERROR = 18  # {"failure": ...}; parts: the pickled exceptions
LOG = 19  # {"s": 1 | 2}; parts: bytes written to stdout or stderr
ITEM = 20  # parts: one item of a generator
STARTED = 21  # the call left the queue; {"gen": true} when items will follow
CANCELLED = 22  # {"stopped": bool, "how": text}
WANT_BULK = 23  # the worker has a blob to send and no bulk connection
EVENT = 24  # {"event": ...}: what happened to the worker itself
# Both ways
ACK = 32  # nothing but the header's ack
BLOB_ACK = 33  # {"blob": n}: arrived, need not be kept

UNNUMBERED = frozenset({HELLO, WELCOME, ACK})
"""Kinds outside the numbered stream: they belong to one connection, not to the session."""

FLAG_JSON = 1
"""Arguments and result are one JSON part each, for callers that are not Python."""

_loads = json.JSONDecoder().decode
_dumps = json.JSONEncoder(separators=(",", ":")).encode


Frame = namedtuple("Frame", "kind call meta parts seq ack flags")
"""One received frame; `parts` holds bytes-like objects, or a `BlobRef` where a blob will come."""


class BlobRef(int):
    """The number of a blob that stands for a part."""


def encode(
    kind: int,
    call: int = 0,
    meta: dict | None = None,
    parts: Sequence[Any] = (),
    seq: int = 0,
    ack: int = 0,
    flags: int = 0,
) -> bytes:
    """Build one frame. `parts` are bytes-like objects below `BLOB_BYTES`, or `BlobRef`s.

    Returns:
        The whole frame in one piece: it goes out in one write, because a header and a body in two small packets
        cost 40 ms now and then (Nagle against delayed ACK).
    """
    text = _dumps(meta).encode() if meta else b""
    if not parts:
        return HEADER.pack(len(text), len(text), kind, flags, 0, seq, ack, call) + text
    lengths = [BLOB | part if type(part) is BlobRef else len(part) for part in parts]
    inline = [part for part in parts if type(part) is not BlobRef]
    body = len(text) + 8 * len(parts) + sum(map(len, inline))
    head = HEADER.pack(body, len(text), kind, flags, len(parts), seq, ack, call)
    return b"".join((head, text, struct.pack(f"<{len(lengths)}Q", *lengths), *inline))


def decode(header: tuple, body: Buffer) -> Frame:
    """Take one frame apart; the parts are slices of `body`, not copies."""
    _, meta_length, kind, flags, count, seq, ack, call = header
    view = memoryview(body)
    meta = _loads(str(view[:meta_length], "utf-8")) if meta_length else {}
    parts: list[Any] = []
    if count:
        at = meta_length + 8 * count
        for length in struct.unpack_from(f"<{count}Q", view, meta_length):
            if length & BLOB:
                parts.append(BlobRef(length & ~BLOB))
            else:
                parts.append(view[at : at + length])
                at += length
    return Frame(kind, call, meta, parts, seq, ack, flags)


class Decoder:
    """Cuts a stream of bytes, fed in any pieces, into frames."""

    def __init__(self) -> None:
        self._rest = b""
        self._pieces: list[Buffer] = []
        self._missing = 0

    def feed(self, data: bytes) -> Iterable[Frame]:
        """Give the frames that are complete with `data`."""
        if self._missing:  # inside a frame: do not look at it again before it is whole
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._pieces)
            self._pieces = []
            self._missing = 0
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        found: list[Frame] = []
        at, end = 0, len(data)
        while end - at >= HEADER.size:
            header = HEADER.unpack_from(data, at)
            stop = at + HEADER.size + header[0]
            if stop > end:
                self._pieces = [data[at:]]
                self._missing = stop - end
                return found
            found.append(decode(header, memoryview(data)[at + HEADER.size : stop]))
            at = stop
        self._rest = data[at:]
        return found
