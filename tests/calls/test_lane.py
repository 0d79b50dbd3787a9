"""One end of a session and the heartbeat that serves all of them, without processes around them."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from runkit.wire import frames
from runkit.wire.frames import BlobRef
from runkit.wire.lane import WINDOW_BYTES, Lane
from runkit.wire.pulse import Pulse, pulse
from runkit.wire.streams import writable


def test_the_heartbeat_outlives_what_it_calls(capsys: pytest.CaptureFixture[str]) -> None:
    heart, beat = Pulse(), threading.Event()

    def fail() -> bool:
        raise ValueError("one of many")

    heart.ask(fail)
    heart.ask(lambda: bool(beat.set()))
    assert beat.wait(10)
    beat.clear()
    heart.ask(lambda: bool(beat.set()))
    assert beat.wait(10)
    assert "one of many" in capsys.readouterr().err


def test_a_frame_that_might_wait_while_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    heart, lane, written = Pulse(), Lane(), list[bytes]()
    monkeypatch.setattr("runkit.wire.lane.pulse", heart)
    lane.attach(written.append, 0)
    threading.stack_size(1 << 47)  # more than there are addresses
    try:
        lane.send(frames.RESULT, 1, later=True)
    finally:
        threading.stack_size(0)
    assert len(written) == 1
    lane.send(frames.RESULT, 2, later=True)
    beat = threading.Event()
    heart.ask(lambda: bool(beat.set()))
    assert beat.wait(10)
    assert len(written) == 2


def test_a_connection_that_closes_under_waiting_frames() -> None:
    near, far = socket.socketpair()
    lane = Lane()
    lane.attach(near.sendall, 0, free=lambda: writable(near))
    for call in range(3):
        lane.send(frames.RESULT, call, later=True)
    near.close()
    lane.send(frames.RESULT, 3, later=True)
    beat = threading.Event()
    pulse.ask(lambda: bool(beat.set()))
    assert beat.wait(10)
    lane.detach()
    far.close()

    near, far = socket.socketpair()
    with near, far:
        lane.attach(near.sendall, 0, free=lambda: writable(near))
        decoder, arrived = frames.Decoder(), list[int]()
        far.settimeout(10)
        while len(arrived) < 4:
            arrived += [frame.call for frame in decoder.feed(far.recv(65536))]
        assert arrived == [0, 1, 2, 3]


def test_blobs_that_arrive_twice_or_are_not_wanted() -> None:
    lane = Lane()

    def arrive(number: int, **fields: Any) -> list[int]:
        found = lane.accept(frames.Frame(fields["kind"], number, {}, fields.get("parts", []), number, 0, 0))
        return [frame.call for frame in found]

    assert arrive(1, kind=frames.CALL, parts=[BlobRef(2)]) == []
    assert arrive(2, kind=frames.CALL, parts=[BlobRef(1)]) == []
    assert [frame.call for frame in lane.accept_blob(2, b"two")] == [1]
    assert lane.accept_blob(2, b"two") == []
    assert [frame.call for frame in lane.accept_blob(1, b"one")] == [2]
    assert lane.accept_blob(1, b"one") == []
    assert lane.accept_blob(2, b"two") == []
    assert lane.accept(frames.Frame(frames.CALL, 3, {}, [BlobRef(3)], 3, 0, 0)) == []
    assert [frame.kind for frame in lane.accept(frames.Frame(frames.CANCEL, 3, {}, [], 4, 0, 0))] == [frames.CANCEL]
    assert lane.accept_blob(3, b"late") == []


def test_calls_wait_until_what_is_before_them_has_arrived() -> None:
    far, lane = Lane(), Lane()
    decoder, written = frames.Decoder(), list[bytes]()
    lane.attach(written.append, 0)
    argument = bytes(200_000)

    def submit() -> None:
        for number in range(1, 201):
            lane.send(frames.CALL, number, parts=[argument])

    submitting = threading.Thread(target=submit, daemon=True)
    submitting.start()
    while len(written) * len(argument) < WINDOW_BYTES:
        time.sleep(0.001)
    lane.send(frames.CANCEL, 1)  # does not wait
    submitting.join(0.1)
    assert submitting.is_alive()
    assert len(written) * len(argument) < WINDOW_BYTES * 1.1

    back = frames.Decoder()
    far.attach(lambda data: [lane.accept(frame) for frame in back.feed(data)], 0)
    for _ in range(20_000):  # nothing but acknowledgements goes back
        for data in [written.pop(0) for _ in range(len(written))]:
            for frame in decoder.feed(data):
                far.accept(frame)
        if not submitting.is_alive():
            break
        time.sleep(0.001)
    assert not submitting.is_alive()


def test_a_call_that_waits_is_let_go_when_the_lane_is_closed() -> None:
    lane = Lane()
    sent = threading.Event()

    def submit() -> None:
        for number in range(200):
            lane.send(frames.CALL, number, parts=[bytes(200_000)])
        sent.set()

    threading.Thread(target=submit, daemon=True).start()
    assert not sent.wait(0.2)
    lane.close()
    assert sent.wait(10)
