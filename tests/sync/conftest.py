"""Fixtures of the sync tests: a client state per test, a git without this machine's settings, a root and its mirror."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sync.mirrored import GIT_SETTINGS, Pair


@pytest.fixture(autouse=True)
def _homes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path_factory.mktemp("client-home")))
    for name, value in GIT_SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    folder = tmp_path / "my project"
    folder.mkdir()
    return Pair(folder, tmp_path / "host")
