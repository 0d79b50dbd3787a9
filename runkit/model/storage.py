"""Packages in file storage (S3, GCS, sftp, a shared folder…), named by their content: `<prefix>/<name>/<sha256>/<file>`."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runkit.errors import DiskFull, FetchFailed, InstallFailed, LoginRefused, ResolutionFailed, RunkitError, UsageError
from runkit.model import listing
from runkit.model.digest import file_digest
from runkit.model.urls import without_credentials
from runkit.wire import places
from runkit.wire.installers import is_disk_full

FOLDER = ".folder.tar.gz"
"""The ending of a stored folder's archive."""

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9]*)://(?P<rest>.*)", re.DOTALL)
_ADDRESS = re.compile(r"(?P<prefix>.*)/(?P<name>[^/]+)/(?P<sha256>[0-9a-f]{64})/(?P<file>[^/]+)", re.DOTALL)
_ELSEWHERE = ("http", "https", "git", "ssh", "hg", "svn", "bzr")
"""Schemes that a requirement's own URL may have."""

_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss")
"""Storage without folders, in which a file is there as a whole or not at all."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_LIMIT = 1 << 30


def is_address(text: str) -> bool:
    """Whether a requirement names a file in storage; a `file://` URL does if a digest is in it where `put` writes one."""
    found = _URL.fullmatch(text)
    if not found or found["scheme"] in _ELSEWHERE:
        return False
    return found["scheme"] != "file" or bool(_ADDRESS.fullmatch(text))


def check(url: str) -> str:
    """An address as `put` gave it.

    Raises:
        UsageError: it has no digest, or a password.
    """
    _refuse_login(url)
    if not _ADDRESS.fullmatch(url):
        raise UsageError(
            f"{url!r} is no address that Package.to() gave: those end in <name>/<sha256>/<file>, so that it can be checked what comes"
        )
    return url


def put(kind: str, path: Path, url: str) -> str:
    """Store a folder, file or requirements file; what is there already is left as it is.

    Args:
        kind: "folder", "file" or "requirements".
        path: where it lies.
        url: what the address is to begin with.

    Returns:
        The address.

    Raises:
        UsageError: the URL names no storage, or what is to be stored holds a password or names other local files.
        LoginRefused, FetchFailed: the storage refused it, or cannot be reached.
    """
    found = _URL.fullmatch(url)
    if not found or found["scheme"] in _ELSEWHERE or (not found["rest"].strip("/") and found["scheme"] != "memory"):
        raise UsageError(f"{without_credentials(url)!r} names no place in file storage, as 's3://bucket/prefix' does")
    _refuse_login(url)
    with tempfile.TemporaryDirectory(prefix="runkit-store-") as scratch:
        name, file, content = path.name, path.name, path
        if kind == "folder":
            file, content = f"{name}{FOLDER}", Path(scratch) / "archive"
            _pack(path, content)
        elif kind == "file":
            name = re.split(r"-(?=\d)", file)[0]
        else:
            _refuse_what_stays_here(path)
            name, file = "requirements", file if file.endswith((".txt", ".in")) else "requirements.txt"
        address = f"{url.rstrip('/')}/{name}/{file_digest(content)}/{file}"
        with _storage(address) as (system, place):
            if not system.exists(place):
                _upload(system, content, place, found["scheme"] in _BUCKETS)
    return address


def fetch(address: str) -> tuple[str, Path]:
    """Bring a stored package here, once; it is kept by its digest, and brought again if what is kept was changed.

    Returns:
        Its kind ("folder", "file" or "requirements") and where it lies.

    Raises:
        ResolutionFailed: there is nothing at the address.
        InstallFailed: what is there is not what the digest in the address says.
        LoginRefused, FetchFailed: the storage refused it, or cannot be reached.
        UsageError: the address is malformed, or the storage needs a package that is not installed.
    """
    found = _ADDRESS.fullmatch(check(address))
    assert found is not None  # checked
    file, is_folder = found["file"], found["file"].endswith(FOLDER)
    kept = places.home() / "stored" / found["sha256"] / (file.removesuffix(FOLDER) if is_folder else file)
    kind = "folder" if is_folder else "requirements" if file.endswith((".txt", ".in")) else "file"
    if is_folder and _is_whole(kept):
        return kind, kept
    if not is_folder and kept.is_file() and file_digest(kept) == found["sha256"]:
        return kind, kept
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=kept.parent) as scratch:
        partial = Path(scratch) / "content"
        with _storage(address) as (system, place):
            try:
                system.get_file(place, str(partial))
            except FileNotFoundError as error:
                raise ResolutionFailed(f"{address}: there is no such file in the storage") from error
        if (sha256 := file_digest(partial)) != found["sha256"]:
            raise InstallFailed(f"{address} is not what its address says: its SHA-256 is {sha256}")
        if not is_folder:
            partial.replace(kept)
            return kind, kept
        partial, note = _unpack(partial, Path(scratch) / "folder"), Path(scratch) / listing.WHOLE
        note.touch()
        note.write_text(json.dumps(_state(partial)))
        note.replace(kept.parent / listing.WHOLE)
        if _is_whole(kept):  # another process brought it
            return kind, kept
        with suppress(FileNotFoundError):
            kept.rename(Path(scratch) / "changed")
        _rename(partial, kept)
    return kind, kept


def _is_whole(folder: Path) -> bool:
    """Whether an unpacked folder is what it was when it was unpacked."""
    try:
        noted = json.loads((folder.parent / listing.WHOLE).read_text())
    except (OSError, ValueError):
        return False
    return bool(folder.is_dir() and _state(folder) == noted)


def _state(folder: Path) -> dict[str, Any]:
    """What tells whether a folder was changed: sizes, times and permissions of its files, and where its links point."""
    found = listing.collect(folder, _LIMIT)
    files = {path: [info.st_size, info.st_mtime_ns, info.st_mode] for path, (_, info) in found.files.items()}
    return {**files, **found.links}


def _refuse_login(url: str) -> None:
    if without_credentials(url) != url:
        raise UsageError(
            f"{without_credentials(url)!r}: the URL must not carry a password or token: what you are logged in with "
            "for this storage is used"
        )


def _refuse_what_stays_here(path: Path) -> None:
    """A requirements file is stored as it is: what it says has to mean the same elsewhere, and be nobody's secret."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the requirements file {path} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if without_credentials(line) != line:
            raise UsageError(f"{path}, line {number} holds a user name, password or token: write it as ${{VARIABLE}}")
        if re.match(
            r"\s*(-[rcef]|--(requirement|constraint|editable|find-links))\b(?!.*://)|\s*(\.{0,2}/|\.\s*$|~)", line
        ):
            raise UsageError(f"{path}, line {number} names a file of this machine, which would not be there elsewhere")


def _pack(folder: Path, archive: Path) -> None:
    """What git would list, as an archive that is the same for the same content."""
    listed = listing.collect(folder, _LIMIT)
    with (
        open(archive, "wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted({*listed.files, *listed.links}):
            member = tarfile.TarInfo(path)
            if path in listed.links:
                member.type, member.linkname = tarfile.SYMTYPE, listed.links[path]
                tar.addfile(member)
                continue
            source, stat = listed.files[path]
            with open(source, "rb") as content:
                data = content.read()
            member.size, member.mode = len(data), 0o755 if stat.st_mode & 0o100 else 0o644
            tar.addfile(member, io.BytesIO(data))


def _unpack(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(archive, "r:gz") as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:  # a Python before the security releases of 2023
            for member in tar.getmembers():
                if (
                    os.path.isabs(member.name)
                    or ".." in Path(member.name).parts
                    or not (member.isreg() or member.issym())
                ):
                    raise InstallFailed(f"a stored folder holds {member.name!r}, which is no plain file in it")
            tar.extractall(folder)
    return folder


def _rename(partial: Path, kept: Path) -> None:
    try:
        partial.rename(kept)
    except OSError:
        if not kept.exists():  # otherwise another process brought the same
            raise


def _upload(system: Any, content: Path, place: str, whole: bool) -> None:
    if whole:
        system.put_file(str(content), place)
        return
    # Renamed in when whole: a cut-off upload is never taken for the package.
    system.makedirs(place.rpartition("/")[0], exist_ok=True)
    partial = f"{place}.{os.urandom(6).hex()}.partial"
    system.put_file(str(content), partial)
    try:
        system.mv(partial, place)
    except Exception:
        if not system.exists(place):
            raise
        system.rm_file(partial)


@contextmanager
def _storage(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address, and the path in it; what goes wrong with it is told in runkit's own errors."""
    scheme = address.partition("://")[0]
    try:
        yield _open(address, scheme)
    except (RunkitError, FileNotFoundError) as error:
        if isinstance(error, RunkitError):
            raise
        raise ResolutionFailed(f"{address}: not found: {error}") from error
    except ImportError as error:
        hint = f"pip install runkit[{_EXTRAS[scheme]}]" if scheme in _EXTRAS else without_credentials(str(error))
        raise UsageError(f"{scheme}:// storage needs a package that is not installed: {hint}") from error
    except ValueError as error:
        raise UsageError(f"{address}: {without_credentials(str(error))}") from error
    except Exception as error:  # each of fsspec's file systems raises what its library raises
        if is_disk_full(error):
            raise DiskFull(f"{address}: no space is left on this machine") from error
        said = without_credentials(f"{type(error).__name__}: {error}")
        if isinstance(error, PermissionError) or re.search(
            "Credential|Authenti|Forbidden|AccessDenied|Unauthori", said
        ):
            raise LoginRefused(f"{address}: the storage refused the login of this machine ({said})") from error
        raise FetchFailed(f"{address}: the storage cannot be reached or failed ({said})") from error


def _open(address: str, scheme: str) -> tuple[Any, str]:
    # Late: fsspec and what it loads are needed only where something is stored.
    import fsspec  # noqa: PLC0415

    if scheme == "sftp":
        from runkit.model.sftp import connect  # noqa: PLC0415

        return connect(address)
    system, place = fsspec.core.url_to_fs(address, skip_instance_cache=True)
    return system, str(place)
