"""One end of a session: numbered frames that survive a cut connection, and blobs beside them.

A lane outlives the connections that carry it. Frames are numbered, kept until the other side has seen them, and sent again after
a reconnect; what arrives twice is dropped. So a call is executed at most once and its logs and result arrive exactly once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from runkit.wire import frames
from runkit.wire.frames import BLOB_BYTES, BlobRef, Frame, encode
from runkit.wire.pulse import pulse
from runkit.wire.streams import hang_up, send_blob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Writer = Callable[[bytes], Any]
    Free = Callable[[], bool]

ACK_EVERY = 64
ACK_BYTES = 1024 * 1024
"""So many frames, or bytes of them, are received before the other side is told at the latest."""

WINDOW_BYTES = 16 * 1024 * 1024
"""With more than this on its way a call waits for what is before it. Far less than the relay buffers for one worker: whoever sends
holds the lane's lock, which the reader needs, so a write must never wait for something that is read here."""

MOST_INLINE = 1024 * 1024
"""Where the parts of a frame come to more than this (bytes), the middling ones travel as blobs too."""

MIDDLING = 16 * 1024
CORKED_FRAMES = 32
"""So many frames wait at the most for a common write."""

CORKED_BYTES = 2048
"""Larger frames (bytes) do not wait: what waits has to fit into a socket's buffer."""

KEPT_LOG_BYTES = 64 * 1024 * 1024
"""How much output is kept for a client that is cut off; what is printed beyond it is dropped, and said so."""


class Lane:
    """The numbered stream of one session, seen from one side. All methods may be called from any thread.

    Args:
        inline: never split large parts off as blobs (a peer without a bulk connection).
        want_bulk: called, without locks, when a blob waits and there is no bulk connection.
    """

    def __init__(self, inline: bool = False, want_bulk: Callable[[], None] | None = None):
        self._inline = inline
        self._want_bulk = want_bulk
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._crowd = 0  # those who wait for room
        self._closed = False
        self._write: Writer | None = None
        self._free: Free = lambda: True
        self._sent = 0
        self._received = 0
        self._acked = 0  # what we last told the other side we have
        self._unacked_bytes = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self._corked: list[bytes] = []  # numbered, and to leave in one write with the next frame or heartbeat
        self._dropped = 0
        self._bulk_lock = threading.Lock()
        self.bulk: Any = None
        self.had_bulk = False
        self._next_blob = 1
        self._blobs: dict[int, Any] = {}  # sent, not yet acknowledged
        self._arrived: dict[int, Any] = {}  # received, their frame still to come
        self._seen_blobs: set[int] = set()  # those above the number up to which all were
        self._seen_up_to = 0
        self._held: dict[int, deque[Frame]] = {}  # per call: frames behind one that waits for its blobs

    # -- sending

    @property
    def received(self) -> int:
        """The number of the last frame received, for HELLO and WELCOME."""
        return self._received

    @property
    def connected(self) -> bool:
        return self._write is not None

    def send(
        self,
        kind: int,
        call: int = 0,
        meta: dict | None = None,
        parts: Sequence[Any] = (),
        flags: int = 0,
        later: bool = False,
    ) -> None:
        """Send a frame now, or when the connection is back. Large parts go over the bulk connection, from the caller's thread.

        A call waits while too much is on its way; all else, its cancellation say, does not.

        Args:
            later: more follows at once; the frame may wait half a millisecond for it, to leave in one write.
        """
        blobs: list[tuple[int, Any]] = []
        if parts and not self._inline:
            limit = BLOB_BYTES if len(parts) < 5 or sum(map(len, parts)) < MOST_INLINE else MIDDLING
            if any(len(part) >= limit for part in parts):
                parts, blobs = self._split(parts, limit)
        try:
            with self._lock:
                if kind == frames.LOG and self._write is None and self._kept_bytes > KEPT_LOG_BYTES:
                    self._dropped += sum(map(len, parts))
                    return
                if kind == frames.CALL and self._kept_bytes > WINDOW_BYTES:
                    self._wait_for_room()
                data = self._number(kind, call, meta, parts, flags)
                later = (
                    later and self._write is not None and len(data) < CORKED_BYTES and len(self._corked) < CORKED_FRAMES
                )
                if later and (self._corked or pulse.ask(self._flush_if_free)):
                    self._corked.append(data)
                else:
                    self._out(data)
            for number, part in blobs:
                self._send_blob(number, part)
        except BaseException:  # Ctrl-C half way: nobody is going to wait for these
            for number, _ in blobs:
                self._blobs.pop(number, None)
            raise

    def _wait_for_room(self) -> None:
        """Wait, without the lock, until the other side has taken most of what was sent, or nobody ever will."""
        if self._corked:
            self._out(b"")
        self._crowd += 1
        try:
            self._room.wait_for(lambda: self._kept_bytes <= WINDOW_BYTES or self._closed)
        finally:
            self._crowd -= 1

    def _number(self, kind: int, call: int, meta: dict | None, parts: Sequence[Any] = (), flags: int = 0) -> bytes:
        """Encode the next frame, and keep it until the other side has it; under the lock."""
        self._sent = seq = self._sent + 1
        self._acked = self._received
        self._unacked_bytes = 0
        data = encode(kind, call, meta, parts, seq, self._received, flags)
        self._kept.append((seq, data))
        self._kept_bytes += len(data)
        return data

    def _split(self, parts: Sequence[Any], limit: int) -> tuple[list[Any], list[tuple[int, Any]]]:
        out: list[Any] = []
        blobs = []
        for part in parts:
            if len(part) < limit:
                out.append(part)
                continue
            with self._lock:
                number = self._next_blob
                self._next_blob += 1
            self._blobs[number] = part
            blobs.append((number, part))
            out.append(BlobRef(number))
        return out, blobs

    def _send_blob(self, number: int, part: Any) -> None:
        with self._bulk_lock:
            bulk = self.bulk
            if bulk is not None and number in self._blobs:
                try:
                    send_blob(bulk, number, part)
                    return
                except OSError:
                    self.bulk = None
                except BaseException:  # Ctrl-C half way: what is on the wire is torn, so the connection has to go
                    self.bulk = None
                    hang_up(bulk)
                    raise
        if self._want_bulk is not None:
            self._want_bulk()

    def flush(self) -> None:
        """Write what waits."""
        if self._corked:
            with self._lock:
                if self._corked:
                    self._out(b"")

    def _flush_if_free(self) -> bool:
        """The same at a heartbeat, which serves every lane and must not wait for a slow one; True: try again."""
        if not self._corked:
            return False
        if not self._lock.acquire(blocking=False):
            return True
        try:
            if self._corked and self._free():
                self._out(b"")
            return bool(self._corked)
        finally:
            self._lock.release()

    def _out(self, data: bytes) -> None:
        if self._corked:
            data = b"".join([*self._corked, data])
            self._corked.clear()
        if self._write is not None:
            try:
                self._write(data)
            except OSError:  # the frame is kept; whoever reads this connection notices and reconnects
                self._write = None
            except BaseException:  # torn by Ctrl-C: the writer's owner closes the connection
                self._write = None
                raise

    # -- connections

    def attach(self, write: Writer, peer_received: int, greeting: bytes = b"", free: Free = lambda: True) -> None:
        """A new connection carries the lane: `greeting` goes first, then what the other side has not seen.

        Args:
            free: whether a small write would not have to wait now.
        """
        with self._lock:
            self._forget(peer_received)
            self._corked.clear()
            self._write = write
            self._free = free
            for data in ([greeting] if greeting else []) + [data for _, data in self._kept]:
                self._out(data)

    def detach(self, write: Writer | None = None) -> None:
        """The connection is gone (only if it is still the one given)."""
        with self._lock:
            if write is None or self._write == write:
                self._write = None
                self._free = lambda: True
                self._corked.clear()  # they are kept, and go out with the next connection

    def attach_bulk(self, sock: Any) -> None:
        """A new bulk connection: blobs that were not acknowledged go out on it, from the caller's thread."""
        if self.bulk is not None:  # whoever is stuck in a write to the old one holds the lock
            hang_up(self.bulk)
        with self._bulk_lock:
            old, self.bulk, self.had_bulk = self.bulk, sock, True
            if old is not None and old is not sock:
                old.close()
            for number, part in list(self._blobs.items()):
                if number not in self._blobs:  # arrived, or not wanted any more, meanwhile
                    continue
                try:
                    send_blob(sock, number, part)
                except OSError:
                    self.bulk = None
                    return

    def detach_bulk(self, sock: Any) -> None:
        with self._bulk_lock:
            if self.bulk is sock:
                self.bulk = None

    @property
    def owes_blobs(self) -> bool:
        return bool(self._blobs)

    def take_dropped(self) -> int:
        """Bytes of output that were dropped while nobody was connected, since last asked."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def close(self) -> None:
        """Nobody takes anything any more: what was kept goes at once, whoever still refers to the lane."""
        with self._lock:
            self._closed = True
            self._write = None
            for kept in (self._kept, self._corked, self._blobs, self._arrived, self._held):
                kept.clear()
            self._kept_bytes = 0
            self._room.notify_all()

    # -- receiving (one thread for frames, one for blobs)

    def accept(self, frame: Frame) -> list[Frame]:
        """Take a received frame. Gives the frames to handle now: none, it, or it and those held behind it."""
        with self._lock:
            self._forget(frame.ack)
            if frame.kind in frames.UNNUMBERED:
                return [] if frame.kind == frames.ACK else [frame]
            if frame.seq <= self._received:
                return []
            self._received = frame.seq
            for part in frame.parts:
                if type(part) is not BlobRef:
                    self._unacked_bytes += len(part)
            if self._received - self._acked >= ACK_EVERY or self._unacked_bytes > ACK_BYTES:
                self._acked = self._received
                self._unacked_bytes = 0
                self._out(encode(frames.ACK, ack=self._received))
            if frame.kind == frames.BLOB_ACK:
                self._blobs.pop(frame.meta["blob"], None)
                return []
            held = self._held.get(frame.call)
            if held is not None and frame.kind in (frames.CANCEL, frames.CANCELLED):
                self._give_up(self._held.pop(frame.call))
                return [frame]
            if held is not None:
                held.append(frame)
                return []
            if not self._fill(frame):
                self._held[frame.call] = deque([frame])
                return []
            return [frame]

    def accept_blob(self, number: int, memory: Any) -> list[Frame]:
        """Take a received blob. Gives the frames that are whole with it."""
        ready: list[Frame] = []
        with self._lock:
            if self._note_blob(number):
                self._arrived[number] = memory
                for call, held in list(self._held.items()):
                    while held and self._fill(held[0]):
                        ready.append(held.popleft())
                    if not held:
                        del self._held[call]
        self.send(frames.BLOB_ACK, meta={"blob": number})
        return ready

    def _note_blob(self, number: int) -> bool:
        """Remember that a blob has come, or is not wanted; False if that was known."""
        if number <= self._seen_up_to or number in self._seen_blobs:
            return False
        self._seen_blobs.add(number)
        while self._seen_up_to + 1 in self._seen_blobs:
            self._seen_up_to += 1
            self._seen_blobs.remove(self._seen_up_to)
        return True

    def _give_up(self, held: deque[Frame]) -> None:
        """Nobody wants these frames any more: their blobs are not kept when they come, and what is on its way is cut off."""
        wanted = {part for frame in held for part in frame.parts if type(part) is BlobRef}
        for number in wanted:
            self._note_blob(number)
            self._arrived.pop(number, None)
            self._out(self._number(frames.BLOB_ACK, 0, {"blob": int(number)}))
        if self.bulk is not None:
            hang_up(self.bulk)

    def _fill(self, frame: Frame) -> bool:
        parts = frame.parts
        if any(type(part) is BlobRef and part not in self._arrived for part in parts):
            return False
        for i, part in enumerate(parts):
            if type(part) is BlobRef:
                parts[i] = self._arrived.pop(part)
        return True

    def _forget(self, ack: int) -> None:
        kept = self._kept
        while kept and kept[0][0] <= ack:
            self._kept_bytes -= len(kept.popleft()[1])
        if self._crowd and self._kept_bytes <= WINDOW_BYTES:
            self._room.notify_all()
