"""The line that tells what a long step is doing, on a terminal."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest

import runkit.client.progress as progress_module
from runkit.client.programs import run
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


def test_without_a_terminal_a_line_says_now_and_then_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "BEAT", 0.2)
    monkeypatch.setattr(progress_module, "TOLD", 0.3)
    said = ""
    with Progress("box") as progress:
        progress({"phase": "fetch", "done": 1_000_000, "total": 5_000_000})
        for _ in range(200):
            said += capsys.readouterr().err
            if said.count("still at") > 1:
                break
            time.sleep(0.05)
        progress({"phase": "install"})
    said += capsys.readouterr().err
    assert re.search(r"^box: still at: fetch \(1 of 5 MB\) \.\.\. \d s$", said, re.MULTILINE)
    assert re.search(r"^box: fetch took \d s\nbox: install$", said, re.MULTILINE)


def test_lines_of_a_program_are_seen_while_it_runs(tmp_path: Path) -> None:
    seen: list[str] = []

    def hear(line: str) -> None:
        seen.append(line)
        (tmp_path / "heard").touch()

    wait = f"echo first >&2; until [ -e {tmp_path}/heard ]; do sleep 0.02; done; echo out; echo second >&2; exit 3"
    done = run(["/bin/sh", "-c", wait], hear=hear)
    assert (seen, done.returncode, done.stdout) == (["first", "second"], 3, "out\n")
