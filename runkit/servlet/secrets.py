"""An env's secrets on its node: in this process's memory, and as 0600 files in a folder that lies in memory where there is one.

The worker gets the variables on its standard input, not in the environment that it is started with, which stays to be seen for as long
as it runs. Whoever belongs to the env can ask for them later, over a UNIX socket that only this user can open.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runkit.errors import UsageError
from runkit.model.secret import ARRIVED, INDEX
from runkit.wire import places

_MEMORY = "/dev/shm"
_SHORTEST = 6
"""Values of fewer letters are not looked for in what a set-up prints: they would be found anywhere."""

_LOOK_SECONDS = 2.0
"""How often it is looked whether the files are there: a system may empty its memory folder when the user logs out."""

_WORDS = re.compile(rb"""[^\s"',;=]{16,}""")


class Secrets:
    """The secrets of one env.

    Args:
        runtime: the server's runtime folder; the files lie below it.
        short: the env's short name for files.
        socket_path: where they can be asked for.

    Attributes:
        socket: where they can be asked for, once there are any; empty before.
    """

    def __init__(self, runtime: str, short: str, socket_path: str):
        self.socket = ""
        self._folder = Path(runtime) / "secrets" / short
        self._socket_path = socket_path
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._wanted: dict[str, str] = {}
        self._held: dict[str, dict[str, Any]] = {}
        self._coming: dict[str, dict[str, Any]] = {}  # those of a build that goes on beside the running worker
        self._shown: re.Pattern[str] | None = None  # the values, as text that a set-up may print

    # -- what comes and goes

    def take(self, wanted: Mapping[str, str], given: Iterable[Mapping[str, Any]]) -> tuple[Any, Any]:
        """Hold these secrets and no others.

        Args:
            wanted: name -> fingerprint, of all the env asks for.
            given: what the server has of them.

        Returns:
            What it takes to have it as it was: `take(*before)`.
        """
        with self._lock:
            before = self._wanted, tuple(self._held.values())
            try:
                self._put(wanted, given)
            except BaseException:
                with suppress(OSError):
                    self._put(*before)
                raise
        return before

    def _put(self, wanted: Mapping[str, str], given: Iterable[Mapping[str, Any]]) -> None:
        self._wanted, self._held = dict(wanted), {secret["name"]: dict(secret) for secret in given}
        self._coming = {}
        self._renew()
        if self._held:
            self._serve()

    def _renew(self) -> None:
        needles = sorted(set(self._needles()), key=len, reverse=True)
        self._shown = re.compile("|".join(map(re.escape, needles))) if needles else None
        if self._held or self._coming:
            self._write()
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def coming(self, given: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
        """Have secrets for a build, until they are taken or the `with` ends; gives the variables they come as.

        The running worker keeps its own meanwhile. Its files stay; where one of the same name is to change, it is the new one at
        once, as what a set-up command notes of its path has to hold later as well.
        """
        with self._lock:
            self._coming = {secret["name"]: dict(secret) for secret in given}
            self._renew()
            variables = self._variables(self._coming)
        try:
            yield variables
        finally:
            with self._lock:
                if self._coming:
                    self._coming = {}
                    self._renew()

    def clear(self) -> None:
        """Forget all of it; nothing is left of the files."""
        self.take({}, ())
        if self._listener is not None:
            self._listener.close()
            with suppress(OSError):
                os.unlink(self._socket_path)

    # -- what they are

    def names(self) -> list[str]:
        return sorted(self._held)

    def one(self, name: str) -> dict[str, Any]:
        """All of one secret, for a server that came after the one that brought it."""
        return self._held[name]

    def told(self) -> dict[str, Any]:
        """What the worker is told: {variables, missing: names of those whose values are gone}."""
        with self._lock:
            self._mend()
            return {"variables": self._variables(self._held), "missing": sorted(set(self._wanted) - set(self._held))}

    def variables(self) -> dict[str, str]:
        """The environment variables that they come as, those that point to files among them."""
        with self._lock:
            self._mend()
            return self._variables(self._held)

    def blot(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """A function that gives an event of a set-up without the present values, where a command has printed one."""
        shown = self._shown

        def clean(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: clean(entry) for key, entry in value.items()}
            return shown.sub("***", value) if shown is not None and isinstance(value, str) else value

        return lambda event: {key: clean(value) if key in ("log", "error") else value for key, value in event.items()}

    def _needles(self) -> Iterable[str]:
        for secret in (*self._held.values(), *self._coming.values()):
            for value in secret["variables"].values():
                in_url = quote(value, safe="", errors="surrogateescape")
                yield from (part for part in (value, *value.splitlines(), in_url) if len(part) >= _SHORTEST)
            for file in secret["files"]:
                for word in _WORDS.findall(base64.b64decode(file["content"])):
                    yield word.decode(errors="replace")

    def _variables(self, secrets: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        found: dict[str, str] = {ARRIVED: str(self._folder)} if secrets else {}
        for name, secret in secrets.items():
            found.update(secret["settings"])
            found.update(secret["variables"])
            pointed: dict[str, list[str]] = {}
            for file in secret["files"]:
                if file["variable"]:
                    path = self._folder / name
                    paths = pointed.setdefault(file["variable"], [])
                    if (one := str(path if file["folder"] else path / file["name"])) not in paths:
                        paths.append(one)
            found.update({variable: os.pathsep.join(paths) for variable, paths in pointed.items()})
        return found

    # -- files

    def _files(self) -> dict[str, bytes]:
        """What is in the folder, by the path in it."""
        files = {INDEX: json.dumps(self._index()).encode()}
        for name, secret in (*self._held.items(), *self._coming.items()):
            files.update({f"{name}/{file['name']}": base64.b64decode(file["content"]) for file in secret["files"]})
        return files

    def _write(self) -> None:
        files = self._files()
        memory_folder(self._folder.parent)
        places.private(self._folder)
        for path, content in files.items():
            self._write_one(path, content)
        for found in [*self._folder.rglob("*")]:
            if not found.is_dir() and str(found.relative_to(self._folder)) not in files:
                found.unlink()
        for folder in self._folder.iterdir():
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _write_one(self, path: str, content: bytes) -> None:
        target = self._folder / path
        places.private(target.parent)
        partial = target.with_name(f".{target.name}.{os.urandom(8).hex()}.partial")
        # A file of our own making, whoever else may have written something there.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with open(os.open(partial, flags, 0o600), "wb") as file:
                file.write(content)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _mend(self) -> None:
        """Have the files that have vanished again; those that nobody can write now are tried at the next look."""
        if not (self._held or self._coming):
            return
        with suppress(OSError, UsageError):
            memory_folder(self._folder.parent)
            places.private(self._folder)
            for path, content in self._files().items():
                if not os.path.lexists(self._folder / path):
                    self._write_one(path, content)

    def _index(self) -> dict[str, Any]:
        return {
            name: {
                "variables": list(secret["variables"]),
                "files": [str(self._folder / name / file["name"]) for file in secret["files"]],
            }
            for name, secret in {**self._coming, **self._held}.items()
        }

    # -- asking

    def _serve(self) -> None:
        if self._listener is not None:
            return
        with suppress(FileNotFoundError):
            os.unlink(self._socket_path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._socket_path)  # in a folder that only this user can enter
        os.chmod(self._socket_path, 0o600)
        listener.listen(64)
        listener.settimeout(_LOOK_SECONDS)
        self._listener, self.socket = listener, self._socket_path
        threading.Thread(target=self._answer, args=(listener,), name="runkit-secrets", daemon=True).start()

    def _answer(self, listener: socket.socket) -> None:
        while True:
            try:
                asker, _ = listener.accept()
            except TimeoutError:
                with self._lock:
                    self._mend()
                continue
            except OSError:
                return
            with asker, suppress(OSError):
                asker.settimeout(5.0)
                asker.sendall(json.dumps(self.told()).encode())


def memory_folder(path: Path) -> None:
    """Make a folder of this user alone at `path`, or a link there to one that lies in memory."""
    with open(path.with_name(f".{path.name}.lock"), "ab") as file:  # other envs do the same
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.is_symlink():
            if _is_own(os.readlink(path)):
                return
            path.unlink()  # memory was emptied; what has that name by now may be anybody's
        elif path.is_dir():
            return
        try:
            made = tempfile.mkdtemp(prefix=f"runkit-{os.getuid()}-", dir=_MEMORY)  # 0700
        except OSError:
            path.mkdir(mode=0o700)
        else:
            path.symlink_to(made)


def _is_own(folder: str) -> bool:
    """Whether it is a folder, and nobody but this user can enter it."""
    try:
        info = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not stat.S_IMODE(info.st_mode) & 0o077


def remove_all(runtime: Path) -> None:
    """Remove the files of all secrets of a server that has no env any more."""
    path = runtime / "secrets"
    if path.is_symlink():
        target = os.readlink(path)
        path.unlink()  # first: a link that another env makes meanwhile leads to a folder of its own
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def remove(runtime: Path, short: str) -> None:
    """Remove the files of one env that has ended."""
    shutil.rmtree(runtime / "secrets" / short, ignore_errors=True)
