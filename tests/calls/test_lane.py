"""One end of a session and the heartbeat that serves all of them, without processes around them."""

from __future__ import annotations

import socket
import threading

import pytest

from runkit.wire import frames
from runkit.wire.lane import Lane
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
