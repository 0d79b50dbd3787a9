"""Output, seen frame by frame: of forked children, of what goes on after a call, of C code, and the env's log."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.calls import jobs, jobs_bare
from tests.calls.bare import Bare, bare_worker
from tests.calls.clients import until


@pytest.fixture
def worker() -> Iterator[Bare]:
    """One whose log is turned over soon."""
    with tempfile.TemporaryDirectory(prefix="rkb", dir="/tmp") as folder:
        with bare_worker(Path(folder), output__LOG_BYTES=20_000) as made:
            yield made


def test_logging_in_forked_children(worker: Bare) -> None:
    client = worker.client()
    client.run(jobs_bare.log_in_children, "from a child")
    assert sorted(client.said.decode().splitlines()) == [f"WARNING:root:from a child {i}" for i in range(4)]


def test_what_goes_on_after_its_call_is_not_shown_to_another_client(worker: Bare) -> None:
    first, second = worker.client(), worker.client()
    first.run(jobs_bare.print_behind, "left behind")
    second.run(jobs_bare.let_print)
    assert second.said == b""
    assert until(lambda: "left behind" in worker.log)
    first.run(jobs_bare.print_behind, "its own")
    first.run(jobs_bare.let_print)
    assert first.said.endswith(b"its own\n")  # the earlier text may have reached it too: it is this client's


def test_c_code_that_lets_nobody_else_run(worker: Bare) -> None:
    client = worker.client()
    assert client.run(jobs_bare.write_with_the_gil, 500_000) == 500_000
    assert client.said == b"x" * 500_000


def test_much_of_it_goes_to_the_log() -> None:
    with tempfile.TemporaryDirectory(prefix="rkb", dir="/tmp") as folder, bare_worker(Path(folder)) as worker:
        client = worker.client()
        assert client.run(jobs_bare.write_with_the_gil, 1_500_000) == 1_500_000
        assert set(client.said) <= {ord("x")}
        assert len(client.said) < 1_500_000
        assert client.run(jobs.add, 1, 2) == 3
        assert until(lambda: worker.log == "x" * 1_500_000)


def test_the_log_is_turned_over(worker: Bare) -> None:
    client = worker.client()
    calls = [client.call(jobs.talk, f"caller-{i}", 1000) for i in range(4)]
    for call in calls:
        client.result(call)
    before = Path(worker.keeper.spec.log + ".1").read_text()
    assert 15_000 < len(before) < 40_000
    assert len(worker.log) < 40_000
    client.run(jobs.talk, "the last", 1)
    assert "the last 0\n" in Path(worker.keeper.spec.log + ".1").read_text() + worker.log
