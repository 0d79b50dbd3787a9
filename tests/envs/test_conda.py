"""Conda environments from a file to a folder that runs, on a small channel: see tests/conda.py. No network, no conda."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from host import Host
from packages import Index, index, wheel
from test_deploy import ONE_QUESTION, Client

import runkit as rk
from tests.conda import Channel, channel


@pytest.fixture
def orchard(tmp_path: Path) -> Iterator[Channel]:
    with channel(tmp_path / "channel") as made:
        yield made


@pytest.fixture
def stall(tmp_path: Path) -> Iterator[Index]:
    """An index of pip's packages beside the usual one: pie (needs orchard and plum), crust (needs orchard<2)."""
    with index(tmp_path / "index") as made:
        made.add(wheel(tmp_path / "files", "pie", "1.0", ["orchard>=1", "plum"]))
        made.add(wheel(tmp_path / "files", "plum", "1.0"))
        made.add(wheel(tmp_path / "files", "crust", "1.0", ["orchard<2"]))
        yield made


@pytest.fixture
def client(host: Host, tmp_path: Path) -> Client:
    return Client(host, tmp_path / "client")


def test_a_file_becomes_an_env(client: Client, host: Host, orchard: Channel, stall: Index, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(f"--extra-index-url {stall.url}\npie\n")
    file = tmp_path / "environment.yml"
    file.write_text(
        f"""
        name: fruit
        channels: [{orchard.url}]
        dependencies:
          - python={orchard.minor}
          - orchard
          - press
          - pip:
            - -r more.txt
        variables:
          JUICE: apple
        """
    )
    asked = rk.env(conda_env=str(file))
    assert (asked.name, asked.python) == ("fruit", orchard.minor)
    client.send(asked)
    said = host.run(
        "fruit", "import orchard, pie, sys; print(orchard.__version__, pie.__version__, *sys.version_info[:2], sep='.')"
    )
    assert said == f"2.0.1.0.{orchard.minor}"
    assert not client.send(asked).changed
    assert host.calls == ONE_QUESTION
