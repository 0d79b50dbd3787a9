"""The line that tells what a long step is doing, on a terminal."""

from __future__ import annotations

import io
import re
import time

import pytest

from runkit.client.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def shows(self, text: str) -> bool:
        """Whether it shows `text` within a few seconds."""
        for _ in range(100):
            if text in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue()):
                return True
            time.sleep(0.05)
        return False


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_the_seconds_go_on_while_nothing_happens(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("box") as progress:
        progress({"phase": "resolve"})
        assert terminal.shows("box: resolve 1 s")


def test_brackets_in_a_command_are_no_markup(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("box") as progress:
        progress({"phase": "sync"})
        progress({"phase": "set-up command: sed s:[/]:_: [red]"})
        assert terminal.shows("set-up command: sed s:[/]:_: [red] 0 s")


def test_a_level_that_there_is_not(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("RUNKIT_LOG", "bogus")
    for _ in range(2):
        Progress("box")({"log": "shown as usual"})
    assert terminal.getvalue().count("RUNKIT_LOG=bogus is none of debug, info, warning, quiet") == 1
    assert terminal.getvalue().count("shown as usual") == 2
