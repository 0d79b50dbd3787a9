from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host import Host
from packages import Index, index, sdist, wheel
from venvs import Client, Venv

from runkit.client.host_platform import Platform


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine's owner steers a test, and uv's cache is the test's own."""
    import os

    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")) or name in ("NETRC", "VIRTUAL_ENV"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index with a few packages, the default one for this test: apple 1.0 and 2.0, pie (needs apple<2), crumble (needs
    apple>=2), sourdough (source only)."""
    files = tmp_path / "files"
    with index(tmp_path / "index") as made:
        made.add(wheel(files, "apple", "1.0"))
        made.add(wheel(files, "apple", "2.0"))
        made.add(wheel(files, "pie", "1.0", ["apple<2"], body="def hello(): print('pie')\n"))
        made.add(wheel(files, "crumble", "1.0", ["apple>=2"]))
        made.add(sdist(files, "sourdough", "1.0", ["apple"]))
        monkeypatch.setenv("UV_DEFAULT_INDEX", made.url)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
        yield made


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.fixture
def target(host: Host) -> Platform:
    """This machine and this Python."""
    return Platform.of_host(host.status()["host"], f"{sys.version_info[0]}.{sys.version_info[1]}")


@pytest.fixture
def venv(tmp_path: Path, shop: Index) -> Venv:
    """A user's virtual environment, empty."""
    return Venv(tmp_path / "venv")


@pytest.fixture
def replicating(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client that replicates virtual environments on the host."""
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "client"))
    return Client(host, tmp_path / "client")
