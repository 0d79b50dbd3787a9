"""Clients that go without a word: what a worker keeps for them, and for how long."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runkit.wire import codec, frames
from runkit.wire.frames import BlobRef
from tests.calls import jobs, jobs_bare
from tests.calls.bare import Bare, bare_worker, blob
from tests.calls.clients import until

LARGE = 100_000_000


@pytest.fixture(scope="module")
def worker() -> Iterator[Bare]:
    """One that forgets its clients soon."""
    with tempfile.TemporaryDirectory(prefix="rkb", dir="/tmp") as folder:
        with bare_worker(Path(folder), session__FORGET_AFTER=0.5) as made:
            made.client().run(jobs.pid)
            yield made


def test_half_an_argument_is_dropped_at_once(worker: Bare) -> None:
    before = worker.rss
    client = worker.client(inline=False)
    bulk = client.bulk()
    client.send(frames.CALL, 1, {"target": {"ref": ["builtins", "len"]}}, [codec.dump(1)[0], BlobRef(1)])
    bulk.sendall(blob(1, LARGE, LARGE // 2))
    assert until(lambda: worker.rss > before + LARGE // 3)
    client.drop()
    assert until(lambda: worker.rss < before + LARGE // 10)


def test_results_of_a_client_that_does_not_come_back(worker: Bare) -> None:
    before = worker.rss
    client = worker.client()
    client.call(bytes, LARGE)
    assert until(lambda: worker.rss > before + LARGE // 2)
    client.drop()
    assert until(lambda: worker.rss < before + LARGE // 10)


def test_a_stream_of_a_client_that_does_not_come_back(worker: Bare) -> None:
    client = worker.client()
    client.call(jobs_bare.numbers)
    other = worker.client()
    assert until(lambda: other.run(jobs_bare.notes) == ["begun"])
    client.drop()
    assert until(lambda: other.run(jobs_bare.notes) == ["begun", "closed"])
    assert until(lambda: worker.info["running"] == 0)


def test_a_client_that_stays_is_not_forgotten(worker: Bare) -> None:
    client = worker.client()
    call = client.call(jobs.count, 50)
    worker.client().run(jobs.nap, 1.2)
    client.send(frames.NEXT, call, {"n": 100})
    assert client.result(call) is None


def test_good_bye_before_a_stream_has_begun(worker: Bare) -> None:
    client = worker.client()
    client.call(jobs_bare.numbers, 0.5)
    client.send(frames.BYE)
    client.drop()
    assert until(lambda: worker.info["running"] == 1)
    assert until(lambda: worker.info["running"] == 0)
