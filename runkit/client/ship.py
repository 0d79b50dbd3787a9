"""Files that a host needs for an env and cannot fetch by itself: they go from here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact, Lock, Locked
from runkit.client.progress import Report
from runkit.client.trees import Trees
from runkit.client.wheels import WheelStore
from runkit.errors import UsageError
from runkit.model.urls import without_credentials

_CHUNK = 1 << 20


class Api(Protocol):
    """The server, as `runkit.client.api.Api` reaches it."""

    def json(self, method: str, path: str, body: Any = None, timeout: float | None = ...) -> dict[str, Any]:
        """One request, one JSON answer; `timeout` in seconds."""

    def events(self, method: str, path: str, body: Any = None) -> Generator[dict[str, Any], None, None]:
        """One request, a stream of JSON answers."""

    def upload(self, method: str, path: str, chunks: Iterable[bytes], length: int) -> dict[str, Any]:
        """One request with a body of `length` bytes."""


def upload(api: Api, address: str, path: Path, title: str, progress: Report) -> dict[str, Any]:
    """PUT a file, and tell how far it is."""
    total = path.stat().st_size

    def chunks() -> Iterator[bytes]:
        done = 0
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
                done += len(chunk)
                progress({"phase": title, "done": done, "total": total})

    return api.upload("PUT", address, chunks(), total)


class Shipment:
    """What one env's lock needs on one host.

    Args:
        api: the server.
        store: this client's wheels, with its logins for indexes.
        target: the host and the env's Python.
        progress: told what happens.
        cwd: the folder whose uv configuration counts for builds.
        trees: what builds the source trees among it; None where there is none.
    """

    def __init__(
        self,
        api: Api,
        store: WheelStore,
        target: Platform,
        progress: Report,
        cwd: str | Path,
        trees: Trees | None = None,
    ):
        self._api = api
        self._trees = trees
        self._store = store
        self._target = target
        self._progress = progress
        self._cwd = cwd

    def send(self, lock: Lock, everything: bool = False) -> tuple[Lock, set[str]]:
        """Bring what the host lacks and cannot fetch into its wheel store.

        Args:
            lock: what the env is made of.
            everything: also what the host says it can fetch.

        Returns:
            The lock with wheels for what was built here, and the SHA-256 of its files that lie in the host's store now.

        Raises:
            InstallFailed: something cannot be fetched or built here.
        """
        lock = self._with_hashes(self._with_built(lock))
        if not lock.packages:
            return lock, set()
        asked = [package.artifact.sha256 for package in lock.packages]
        missing = set(self._api.json("POST", "/v1/wheels/missing", {"sha256": asked})["missing"])
        lock, missing = self._with_built_again(lock, missing)
        return lock, self._bring([package.artifact for package in lock.packages], missing, everything)

    def bring(self, artifacts: Sequence[Artifact], everything: bool = False) -> set[str]:
        """Bring files into the host's wheel store as far as it lacks and cannot fetch them; gives the SHA-256 of those that are there.

        Raises:
            InstallFailed: one cannot be fetched here.
        """
        if not artifacts:
            return set()
        asked = [artifact.sha256 for artifact in artifacts]
        missing = set(self._api.json("POST", "/v1/wheels/missing", {"sha256": asked})["missing"])
        return self._bring(artifacts, missing, everything)

    def has(self, sha256: str) -> bool:
        """Whether a file lies in the host's wheel store."""
        return not self._api.json("POST", "/v1/wheels/missing", {"sha256": [sha256]})["missing"]

    def fetch(self, artifact: Artifact) -> Artifact:
        """Fetch one file to this machine."""
        return self._store.fetch([artifact], self._progress)[0]

    def _bring(self, artifacts: Sequence[Artifact], missing: set[str], everything: bool) -> set[str]:
        there = {artifact.sha256 for artifact in artifacts} - missing
        lacking = [artifact for artifact in artifacts if artifact.sha256 in missing]
        if not everything:
            fetchable = self._fetchable([artifact.url for artifact in lacking if artifact.url])
            lacking = [artifact for artifact in lacking if not fetchable(artifact.url)]
        for artifact in self._store.fetch(lacking, self._progress):
            assert artifact.path is not None  # fetch gives a path
            address = f"/v1/wheels/{artifact.sha256}/{quote(artifact.filename)}"
            upload(self._api, address, Path(artifact.path), f"ship {artifact.filename}", self._progress)
            there.add(artifact.sha256)
        return there

    def _with_built(self, lock: Lock) -> Lock:
        """Source trees built, and source distributions as far as that fits the host; the others are left to it."""
        lock = self._with_trees(lock, [package for package in lock.trees if not package.artifact.filename])
        return self._with_sources(lock, lock.sources)

    def _with_sources(self, lock: Lock, sources: Sequence[Locked]) -> Lock:
        built = {}
        for package in sources:
            if wheel := self._store.build(package, self._target, self._cwd, self._progress):
                built[package.name] = wheel
        return lock.with_artifacts(built)

    def _with_built_again(self, lock: Lock, missing: set[str]) -> tuple[Lock, set[str]]:
        """What another client, or this one long ago, built may be gone from the host: it is built once more."""
        gone = [p for p in lock.packages if p.artifact.sha256 in missing and not self._store.find(p.artifact)]
        trees = [package for package in gone if package.artifact.tree]
        sources = {p.name: p.artifact.made_of for p in gone if p.artifact.made_of and p.artifact.made_of.url}
        again = self._with_trees(lock, trees).with_artifacts(sources)
        again = self._with_sources(again, [package for package in again.packages if package.name in sources])
        names = {package.name for package in trees} | set(sources)
        return again, missing | {p.artifact.sha256 for p in again.packages if p.name in names}

    def _with_trees(self, lock: Lock, packages: Sequence[Locked]) -> Lock:
        if not packages:
            return lock
        if self._trees is None:
            raise UsageError(f"{packages[0].name} is to be built from a source tree that this machine does not have")
        built = self._trees.build([package.artifact for package in packages])
        return lock.with_artifacts({package.name: artifact for package, artifact in zip(packages, built, strict=True)})

    def _with_hashes(self, lock: Lock) -> Lock:
        """A direct URL may come without a hash: only by fetching it here is its content known."""
        nameless = [package for package in lock.packages if not package.artifact.sha256]
        fetched = self._store.fetch([package.artifact for package in nameless], self._progress)
        return lock.with_artifacts({package.name: artifact for package, artifact in zip(nameless, fetched)})

    def _fetchable(self, urls: Sequence[str]) -> Callable[[str | None], bool]:
        """Ask the host which addresses it reaches; those that take a password of this side are none of its business."""
        samples = {_place(url): url for url in urls if not self._is_ours(url)}
        answer = self._api.json("POST", "/v1/reachable", {"urls": list(samples.values())}) if samples else {}
        reached = {place for place, url in samples.items() if answer.get(url)}
        return lambda url: url is not None and not self._is_ours(url) and _place(url) in reached

    def _is_ours(self, url: str) -> bool:
        """Whether a URL works only with what stays on this side: a login, or a token in its query string."""
        whole = self._store.logins.whole(url)
        return without_credentials(whole) != whole or self._store.logins.find(url) is not None


def _place(url: str) -> tuple[str, str]:
    """What URLs that one probe can stand for have in common."""
    parts = urlsplit(url)
    if parts.hostname == "files.pythonhosted.org":
        return parts.netloc, ""
    return parts.netloc, parts.path.rpartition("/")[0]
