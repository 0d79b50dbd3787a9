"""How a script becomes a command line for the login shell of a host, whichever shell that is."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from runkit.errors import UsageError

OnOutput = Callable[[str, bytes], None]
"""Called with "stdout" or "stderr" and what has just been written there."""

LONGEST = 96 * 1024  # bytes; Linux takes 128 KiB per argument


def quote_path(path: str) -> str:
    """A remote path as a word of a POSIX shell; `~` and `~/` at its start are the home folder."""
    if path == "~":
        return '"$HOME"'
    if path.startswith("~/"):
        return '"$HOME"/' + shlex.quote(path[2:])
    return shlex.quote(path if not path.startswith("-") else "./" + path)


def login_command(script: str) -> str:
    """The command line for the user's login shell, be it sh, csh or fish, that runs `script` in a POSIX sh in the home folder.

    The script is an argument and not standard input, which is the script's own. Between single quotes all shells agree on every
    character but quotes, backslashes, `!` and line ends: these are written in octal. The first thing on standard error is the
    id of the process group (see `PidFilter`), so that it can be ended: sshd does not end a command whose connection is gone.
    """
    safe = set(range(32, 127)) - set(b"'\"$`\\!")
    encoded = "".join(
        chr(byte) if byte in safe else f"\\0{byte:03o}" for byte in script.encode("utf-8", "surrogateescape")
    )
    check_length(encoded)
    return f"""exec sh -c 'cd; printf "\\036%s\\036" "$$" >&2; eval "$(printf %b "{encoded}")"'"""


def check_length(script: str) -> None:
    """Raises UsageError for what no command line can hold."""
    if len(script) > LONGEST:
        raise UsageError(f"a script of {len(script)} bytes is too long for a command line: put() it into a file first")


class PidFilter:
    """Takes the process group's id, which `login_command` writes first, out of standard error."""

    def __init__(self, on_output: OnOutput):
        self.group: int | None = None
        self.text = ""  # the end of standard error, for messages
        self._on_output = on_output
        self._start = b""

    def __call__(self, name: str, chunk: bytes) -> None:
        if name == "stderr" and self.group is None:
            chunk = self._start + chunk
            before, _, rest = chunk.partition(b"\x1e")  # before: what the login shell's own files printed
            number, end, after = rest.partition(b"\x1e")
            if not end and len(chunk) < 65536:
                self._start = chunk
                return
            self.group = int(number) if end and number.isdigit() else 0
            chunk = before + after if self.group else chunk
        if name == "stderr":
            self.text = (self.text + chunk.decode(errors="replace"))[-2000:]
        if chunk:
            self._on_output(name, chunk)

    def finish(self) -> None:
        """The end of the output: what looked like the start of an id was none."""
        if self.group is None and self._start:
            self.text = self._start.decode(errors="replace")
            self._on_output("stderr", self._start)


def end_group(group: int) -> str:
    """A script that ends a process group: gently, and after a second by force."""
    return (
        f"kill -s TERM -- -{group} 2>/dev/null; for i in 1 2 3 4 5 6 7 8 9 10; do kill -s 0 -- -{group} 2>/dev/null || exit 0; "
        f"sleep 0.1; done; kill -s KILL -- -{group}"
    )
