"""Programs of this machine that help to make an env: heard while they run, and ended with whoever wanted them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runkit.client.set_up import current
from runkit.model.passed_on import environment
from runkit.wire import programs


def run(
    arguments: Sequence[str],
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    hear: Callable[[str], None] | None = None,
    given: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, like `subprocess.run`; it, and what it started, does not outlive the set-up it is for.

    Args:
        arguments: the program and its arguments.
        cwd: its current folder.
        env: all of its variables; this process's otherwise.
        hear: called with each line of its standard error as it comes.
        given: its standard input.

    Raises:
        InstallTimeout: the current set-up has no time left.
    """
    said: list[str] = []
    mark = programs.new_mark()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as into:
        into.write(given.encode())
        into.seek(0)
        # A session of its own, so that all of it can be ended; Ctrl-C reaches it through us.
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**(environment() if env is None else env), programs.MARK: mark},
            stdin=into,
            stdout=out,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None  # asked for
        try:
            for line in programs.lines(process, process.stderr, current().go_on):
                said.append(line)
                if hear:
                    hear(line)
        except BaseException:
            programs.end(process, mark)
            raise
        out.seek(0)
        return subprocess.CompletedProcess(
            arguments, process.returncode, out.read().decode(errors="replace"), "\n".join(said)
        )
