"""Which distributions are in effect: read from every folder that may hold metadata, the first on `sys.path` wins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from runkit.client.scan import records
from runkit.client.scan.cache import Cache
from runkit.client.scan.model import Note
from runkit.client.scan.records import Record, normalised

_INFOS = (".dist-info", ".egg-info")


class Listing(NamedTuple):
    """The names in a folder that mean something to a scan."""

    infos: list[str]
    pth: list[str]
    links: list[str]  # .egg-link


class Candidate(NamedTuple):
    """A distribution's metadata in one place.

    Attributes:
        folder: the `sys.path` entry.
        info: where its metadata lies.
        code: whether the entry is a folder with code of its own, such as a project, rather than one that installers fill.
    """

    name: str
    folder: str
    info: str
    record: Record
    code: bool

    @property
    def recorded(self) -> bool:
        """Whether an installer noted its files."""
        return os.path.exists(f"{self.info}/RECORD")

    @property
    def version(self) -> str:
        return self.record.version or records.named(self.info)[1]


def listing(folder: str) -> Listing:
    """What lies in a folder; nothing if it is none, or may not be read."""
    found = Listing([], [], [])
    try:
        names = os.listdir(folder)
    except OSError:
        return found
    for name in sorted(names):
        if name.endswith(_INFOS):
            found.infos.append(name)
        elif name.endswith(".pth"):
            found.pth.append(name)
        elif name.endswith(".egg-link"):
            found.links.append(name)
    return found


def candidates(folder: str, infos: Iterable[str], code: bool, cache: Cache, notes: list[Note]) -> list[Candidate]:
    """The distributions of one folder, each name once; what is no distribution goes into the notes."""
    found: dict[str, Candidate] = {}
    for called in infos:
        info = f"{folder}/{called}"
        if called.startswith("~"):  # pip renames what it is about to remove; an interrupted pip leaves it
            notes.append(Note(info, "what an interrupted uninstallation left; it is ignored"))
            continue
        try:
            record = Record(*cache.value(info, records.files, records.read))
        except FileNotFoundError:
            continue  # it went meanwhile
        except OSError as error:
            notes.append(Note(info, f"cannot be read: {error.strerror}", True))
            continue
        if not record.name and not record.version:
            notes.append(Note(info, "has no metadata: what an interrupted installation left; it is ignored"))
            continue
        name = normalised(record.name or records.named(info)[0])
        one = Candidate(name, folder, info, record, code)
        other = found.get(name)
        if other is not None:
            one, other = _better(one, other)
            notes.append(
                Note(
                    name,
                    f"there is metadata of {other.version} beside that of {one.version} in {folder}; it is ignored",
                )
            )
        found[name] = one
    return list(found.values())


def egg(path: str, cache: Cache) -> Candidate | None:
    """The distribution in a .egg, a folder or a zip file."""
    try:
        if os.path.isdir(path):
            info = f"{path}/EGG-INFO"
            record = Record(*cache.value(info, records.files, records.read))
        else:
            info = f"{path}/EGG-INFO"
            record = Record(*cache.value(path, lambda _: (), _read_zip))
    except OSError:
        return None
    if not record.name:
        return None
    return Candidate(normalised(record.name), path, info, record, False)


def _read_zip(path: str, _: Sequence[str]) -> Record:
    import zipfile  # noqa: PLC0415  (zipped eggs are rare, and it is not light)

    try:
        with zipfile.ZipFile(path) as archive:
            inside = "EGG-INFO/"
            present = [name[len(inside) :] for name in archive.namelist() if name.startswith(inside)]
            return records.parse(path, present, lambda name: archive.read(inside + name))
    except (OSError, zipfile.BadZipFile, KeyError):
        return Record("", "", "", [], None, None, [], None)


def _better(one: Candidate, other: Candidate) -> tuple[Candidate, Candidate]:
    """Which of two in the same folder is the installed one: its files are there as it recorded them, or it is the newer."""
    ranked = sorted((one, other), key=lambda each: (each.recorded, _intact(each), _written(each)))
    return ranked[1], ranked[0]


def _intact(one: Candidate) -> float:
    """The share of its recorded files, caches and its own metadata aside, that have the recorded size."""
    good = total = 0
    own = os.path.basename(one.info) + "/"
    for line in records.whole(f"{one.info}/RECORD").splitlines():
        path, _, rest = line.rpartition(",")
        path = path.rpartition(",")[0].strip('"')
        if not rest.isdigit() or path.startswith(own):
            continue
        total += 1
        try:
            good += os.stat(f"{one.folder}/{path}").st_size == int(rest)
        except OSError:
            pass
    return good / total if total else 0.0


def _written(one: Candidate) -> int:
    try:
        return os.stat(one.info).st_mtime_ns
    except OSError:
        return 0
