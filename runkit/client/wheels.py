"""Wheels on this machine: fetched from their index, built from source, kept by their hash, for hosts that cannot get them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import ssl
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact, Locked
from runkit.client.logins import Logins
from runkit.client.progress import Report
from runkit.client.set_up import current, together
from runkit.client.uvtool import explanation, run_uv
from runkit.errors import BuildFailed, DiskFull, FetchFailed, InstallFailed, LoginRefused, RunkitError
from runkit.model.digest import digest, file_digest
from runkit.model.urls import without_credentials
from runkit.wire.installers import Tail, failure_kind, is_disk_full

PARALLEL = 6
"""Files fetched at once."""

_ATTEMPTS = 3
_TIMEOUT_S = 30.0
_T = TypeVar("_T")


class WheelStore:
    """A folder of wheels and source distributions: `<sha256>/<file name>`. A file that is there is whole."""

    def __init__(self, folder: Path, logins: Logins | None = None) -> None:
        """Use a folder as the store.

        Args:
            folder: it need not exist yet.
            logins: user names and passwords of indexes.
        """
        self.folder = folder
        self.logins = logins or Logins()

    def find(self, artifact: Artifact) -> Path | None:
        """Where the artifact lies on this machine, or None."""
        if artifact.path and os.path.exists(artifact.path):
            return Path(artifact.path)
        if not artifact.sha256:
            return None
        found = self.folder / artifact.sha256 / artifact.filename
        return found if found.exists() else None

    def add(self, path: Path) -> Artifact:
        """Keep a copy of a file of this machine."""
        sha256 = file_digest(path)
        kept = self.folder / sha256 / path.name
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=self._ready()) as partial:
                copy = Path(partial) / path.name
                shutil.copyfile(path, copy)
                self._place(copy, kept)
        return Artifact(path.name, sha256, None, str(kept), kept.stat().st_size)

    def fetch(self, artifacts: Sequence[Artifact], progress: Report | None = None) -> list[Artifact]:
        """Fetch what is missing, several at once, and give all back with their paths.

        The way there is the user's own: SSL_CERT_FILE, proxy variables, netrc, and user names in URLs count.

        Args:
            artifacts: with a `url`, or lying here already.
            progress: called with {"phase": "fetch", "done": bytes, "total": bytes or None}.

        Raises:
            FetchFailed: a file cannot be fetched, also not at the third attempt. LoginRefused: its place wants other credentials.
            DiskFull: there is no room for it here. InstallFailed: it does not exist, or is not what its hash says.
        """
        meter = _Meter(artifacts, progress)
        return together(lambda artifact: self._fetch_one(artifact, meter), artifacts, PARALLEL)

    def build(
        self,
        package: Locked,
        target: Platform,
        cwd: str | Path = ".",
        progress: Report = lambda event: None,
    ) -> Artifact | None:
        """Build a wheel from a source distribution here, where what comes out runs on the target; one that was built before is taken.

        Returns:
            The wheel, or None if it can only be built on the host: it has compiled parts, and the host's platform or Python
            is not this one's.

        Raises:
            BuildFailed: the build ended with an error, on a platform and Python like the host's; FetchFailed, LoginRefused,
            DiskFull: what it needs for that cannot be had.
        """
        source = self.fetch([package.artifact])[0]
        below = f"-{digest(source.subdirectory)[:16]}" if source.subdirectory else ""
        note = self.folder.parent / "built" / f"{source.sha256}{below}-{target.python_tag}-{target.uv_platform}.json"
        if (kept := _read_note(note)) and (path := self.find(kept)):
            return Artifact(kept.filename, kept.sha256, None, str(path), path.stat().st_size, made_of=source)
        assert source.path is not None  # fetch gives a path
        progress({"phase": f"build {package.name} {package.version}"})
        with tempfile.TemporaryDirectory(prefix="build-", dir=self._ready()) as out:
            place = _unpacked(Path(source.path), Path(out), source.subdirectory) if source.subdirectory else source.path
            command = ["build", "--wheel", "--python", sys.executable, "--out-dir", out, str(place)]
            done = run_uv(command, cwd=cwd, lines=self.logins.lines)
            wheels = list(Path(out).glob("*.whl"))
            if done.returncode or not wheels:
                if not target.is_this_python:
                    return None
                said = without_credentials(str(Tail(explanation(done.stderr).splitlines())))
                kind = failure_kind(done.stderr, BuildFailed)
                raise kind(f"{package.name} {package.version} has no wheel and could not be built:\n{said}", said)
            wheel = wheels[0]
            portable = wheel.name.endswith("-none-any.whl")
            if not portable and not target.is_this_python:
                return None
            if not portable and target.best([wheel.name]) is None:
                return None
            built = self.add(wheel)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"filename": built.filename, "sha256": built.sha256}))
        return replace(built, made_of=source)

    def _fetch_one(self, artifact: Artifact, meter: _Meter) -> Artifact:
        if path := self.find(artifact):
            meter.add(artifact.size or 0)
            sha256 = artifact.sha256 or file_digest(path)
            return replace(artifact, sha256=sha256, path=str(path), size=path.stat().st_size)
        if not artifact.url:
            raise InstallFailed(f"{artifact.filename} is not on this machine and has no address")
        return _retried(artifact.url, lambda: self._download(artifact, meter), meter.warn)

    def _download(self, artifact: Artifact, meter: _Meter) -> Artifact:
        assert artifact.url is not None  # checked by the caller
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=self._ready()) as folder:
            partial = Path(folder) / artifact.filename
            hasher, got = hashlib.sha256(), 0
            with self._open(artifact.url) as answer, open(partial, "wb") as file:
                for chunk in _chunks(answer):
                    file.write(chunk)
                    hasher.update(chunk)
                    got += len(chunk)
                    meter.add(len(chunk))
            sha256 = hasher.hexdigest()
            if artifact.sha256 and sha256 != artifact.sha256:
                raise InstallFailed(
                    f"{without_credentials(artifact.url)} is not the file its index promised: "
                    f"SHA-256 {sha256} instead of {artifact.sha256}"
                )
            kept = self.folder / sha256 / artifact.filename
            self._place(partial, kept)
        return replace(artifact, sha256=sha256, path=str(kept), size=got)

    def read(self, url: str) -> str:
        """The text behind a URL.

        Raises:
            FetchFailed, LoginRefused, InstallFailed: it cannot be had, or is no text.
        """

        def read() -> bytes:
            with self._open(url) as answer:
                return b"".join(_chunks(answer))

        try:
            return _retried(url, read).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InstallFailed(f"{without_credentials(url)} cannot be read: {error}") from error

    def _open(self, url: str) -> Any:
        """Open a URL as the user would: their certificates (SSL_CERT_FILE), proxies, and logins."""
        parts = urlsplit(self.logins.whole(url))
        request = urllib.request.Request(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
        if login := self.logins.find(url):
            token = base64.b64encode(f"{login[0]}:{login[1]}".encode()).decode()
            # Unredirected: an index that redirects to a file store must not pass the password on.
            request.add_unredirected_header("Authorization", f"Basic {token}")
        left = current().left(_TIMEOUT_S)
        # With a context, the proxies that are set now count, not those of the first call.
        return urllib.request.urlopen(request, timeout=left, context=self.logins.tls(url))

    def _ready(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder

    @staticmethod
    def _place(partial: Path, kept: Path) -> None:
        # Renamed in when whole: a cut-off copy is never taken for the file.
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(kept)


def _retried(url: str, fetch: Callable[[], _T], warn: Callable[[str], None] = lambda text: None) -> _T:
    """Fetch something, and again where the way to the server failed.

    Raises:
        FetchFailed, LoginRefused, InstallFailed: it cannot be had.
    """
    shown, attempt = without_credentials(url), 1
    while True:
        try:
            return fetch()
        except RunkitError:
            raise
        except (OSError, EOFError, http.client.HTTPException) as error:
            current().go_on()
            kind = _kind(error)
            if kind is not FetchFailed or attempt == _ATTEMPTS or _is_certificate(error):
                tried = f" ({attempt} attempts)" if kind is FetchFailed and attempt > 1 else ""
                raise kind(f"{shown} cannot be fetched{tried}: {error}") from error
            warn(f"{shown} cannot be fetched ({error}); trying again ({attempt + 1} of {_ATTEMPTS})")
            time.sleep(current().left(0.5 * 2 ** (attempt - 1)) or 0)
            attempt += 1


def _chunks(answer: Any) -> Iterator[bytes]:
    """What a server sends, for as long as the set-up may go on, and to its end."""
    expected, got = answer.headers.get("Content-Length"), 0
    while chunk := answer.read1(1 << 18):
        current().go_on()
        got += len(chunk)
        yield chunk
    if expected and got != int(expected):
        raise EOFError(f"the connection ended after {got} of {expected} bytes")


class _Meter:
    """Bytes fetched so far, told to the progress display."""

    def __init__(self, artifacts: Iterable[Artifact], progress: Report | None) -> None:
        sizes = [artifact.size for artifact in artifacts]
        self._total = sum(size or 0 for size in sizes) if all(sizes) else None
        self._done = 0
        self._progress = progress

    def add(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress({"phase": "fetch", "done": self._done, "total": self._total})

    def warn(self, text: str) -> None:
        if self._progress:
            self._progress({"warning": text})


_OF_THE_NETWORK = (
    urllib.error.URLError,
    ConnectionError,
    TimeoutError,
    EOFError,
    http.client.HTTPException,
    ssl.SSLError,
)
"""What a download fails with where the way to the server is at fault; other OSErrors are of this machine's own files."""


def _kind(error: Exception) -> type[InstallFailed]:
    """The class of an error of a download; only FetchFailed is worth another attempt."""
    if is_disk_full(error):
        return DiskFull
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (401, 403, 407):
            return LoginRefused
        return FetchFailed if error.code >= 500 or error.code in (408, 429) else InstallFailed
    return FetchFailed if isinstance(error, _OF_THE_NETWORK) else InstallFailed


def _unpacked(archive: Path, folder: Path, below: str) -> Path:
    """A folder of an unpacked source archive, whose content lies in one of its own as a rule.

    Raises:
        BuildFailed: it cannot be unpacked, or has no such folder.
    """
    top = folder / "unpacked"
    try:
        if tarfile.is_tarfile(archive) and hasattr(tarfile, "data_filter"):
            shutil.unpack_archive(archive, top, filter="data")
        else:
            shutil.unpack_archive(archive, top)
    except (shutil.ReadError, tarfile.TarError, ValueError) as error:
        raise BuildFailed(f"{archive.name} cannot be unpacked: {error}") from error
    inside = list(top.iterdir())
    found = (inside[0] if len(inside) == 1 and inside[0].is_dir() else top) / below
    if not found.is_dir() or not found.resolve().is_relative_to(top.resolve()):
        raise BuildFailed(f"{archive.name} has no folder {below}")
    return found


def _is_certificate(error: Exception) -> bool:
    return isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError)


def _read_note(path: Path) -> Artifact | None:
    try:
        return Artifact(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
