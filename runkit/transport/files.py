"""Files and folders to and from a host, made of nothing but scripts there: `cat` for a file, `tar` for a folder, rsync if there."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from runkit.model.passed_on import environment
from runkit.transport.script import quote_path

if TYPE_CHECKING:
    from runkit.transport.base import Completed, Progress, Transport

CHUNK = 1024 * 1024  # bytes


def put(transport: Transport, local: Path, remote: str, progress: Progress | None) -> None:
    if local.is_dir():
        total = sum(path.stat().st_size for path in local.rglob("*") if path.is_file() and not path.is_symlink())
        script = f"mkdir -p {quote_path(remote)} && tar -xpf - -C {quote_path(remote)}"
        with _Packer(local) as packer:
            _send(transport, script, _counted(packer, total, progress), f"{local} to {remote}")
        return
    size, mode = local.stat().st_size, local.stat().st_mode & 0o777  # FileNotFoundError as it is
    target = quote_path(remote)
    fresh = quote_path(f"{remote}.{secrets.token_hex(4)}.part")
    # `umask 077` until the mode is set: what is being written may be a secret. A mv onto a folder would go into it.
    script = (
        f"if [ -d {target} ]; then echo 'it is a folder there' >&2; exit 1; fi; "
        f'd={target}; case $d in */*) mkdir -p "${{d%/*}}/";; esac && umask 077 && '
        f"{{ cat >{fresh} && chmod {mode:o} {fresh} && [ $(wc -c <{fresh}) -eq {size} ] && mv -f {fresh} {target} "
        f"|| {{ rm -f {fresh}; exit 1; }}; }}"
    )
    with local.open("rb") as file:
        _send(transport, script, _counted(iter(lambda: file.read(CHUNK), b""), size, progress), f"{local} to {remote}")


def get(transport: Transport, remote: str, local: Path, progress: Progress | None) -> None:
    path = quote_path(remote)
    found = transport.run(
        f"if [ -d {path} ]; then echo d; elif [ -e {path} ]; then wc -c <{path} && ls -ldL {path}; fi"
    )
    facts = found.text.split()
    if not facts and not found.returncode:
        raise FileNotFoundError(f"{transport.description} has no {remote}")
    if found.returncode:
        raise _failure(found, f"{remote} to {local}", transport)
    if facts[0] == "d":
        local.mkdir(parents=True, exist_ok=True)
        with _Unpacker(local) as unpacker:
            _receive(transport, f"cd {path} && tar -cf - .", unpacker.write, 0, progress, f"{remote} to {local}")
        return
    size, mode = int(facts[0]), _mode(facts[1])
    if local.is_dir():
        raise IsADirectoryError(f"{local} is a folder: name the file in it")
    local.parent.mkdir(parents=True, exist_ok=True)
    fresh = local.with_name(f".{local.name}.{secrets.token_hex(4)}.part")
    try:
        with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            _receive(transport, f"cat {path}", file.write, size, progress, f"{remote} to {local}")
        fresh.chmod(mode)
        fresh.replace(local)
    finally:
        fresh.unlink(missing_ok=True)


def rsync(
    transport: Transport, command: tuple[list[str], str], home: str, source: str, dest: str, *, up: bool, delete: bool
) -> None:
    """Run the rsync of this machine against that of the host. Paths on the host are made absolute: nothing there expands them."""
    start, prefix = command

    def there(path: str) -> str:
        path = home + path[1:] if path == "~" or path.startswith("~/") else path
        return prefix + (path if path.startswith("/") else f"{home}/{path}")

    def here(path: str) -> str:
        full = os.path.abspath(os.path.expanduser(path))
        return full + "/" if path.endswith(("/", "/.")) and full != "/" else full

    paths = [here(source), there(dest)] if up else [there(source), here(dest)]
    options = [
        "-a",
        "-s",
        *(["--delete"] if delete else []),
    ]  # -s: spaces and the like in remote paths are nobody's syntax
    parent = os.path.dirname(paths[1].removeprefix(prefix) if up else paths[1])
    if not up or not prefix:
        os.makedirs(parent, exist_ok=True)
    else:
        remote = f'mkdir -p {shlex.quote(parent)} && exec rsync "$@"'
        options.append(f"--rsync-path=sh -c {shlex.quote(remote)} rsync")
    done = subprocess.run(
        [*start, *options, "--", *paths],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        if "No such file or directory" in said and done.returncode == 23:
            raise FileNotFoundError(f"rsync {source} to {dest} ({transport.description}): {said}")
        raise OSError(f"rsync {source} to {dest} ({transport.description}) ended with {done.returncode}: {said}")


def copy_like_rsync(transport: Transport, source: str, dest: str, *, up: bool, delete: bool) -> None:
    """What `rsync -a [--delete] source dest` leaves behind, by copying everything."""
    name = PurePosixPath(os.path.abspath(source) if up and source in (".", "..") else source).name
    whole = source.endswith(("/", "/.")) or source in ("~", ".")
    if up:
        local = Path(source).expanduser()
        if local.is_dir():
            target = dest if whole else f"{dest.rstrip('/')}/{name}"
            put(transport, local, target, None)
            if delete:
                kept = {path.relative_to(local).as_posix() for path in local.rglob("*")}
                _delete_there(transport, target, kept)
            return
        into = dest.endswith("/") or transport.run(f"[ -d {quote_path(dest)} ]").returncode == 0
        put(transport, local, f"{dest.rstrip('/')}/{name}" if into else dest, None)
        return
    local = Path(dest).expanduser()
    if transport.run(f"[ -d {quote_path(source)} ]").returncode == 0:
        target_here = local if whole else local / name
        get(transport, source, target_here, None)
        if delete:
            there = set(_listing(transport, source))
            for path in sorted(target_here.rglob("*"), reverse=True):  # a folder comes after what is in it
                if path.relative_to(target_here).as_posix() not in there:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        return
    get(transport, source, local / name if dest.endswith("/") or local.is_dir() else local, None)


def _listing(transport: Transport, remote: str) -> list[str]:
    """Everything in a folder of the host, paths relative to it."""
    found = transport.run(f"cd {quote_path(remote)} && find . -print0")
    if found.returncode:
        raise _failure(found, f"listing {remote}", transport)
    return [os.fsdecode(path)[2:] for path in found.stdout.split(b"\0") if path not in (b"", b".")]


def _delete_there(transport: Transport, remote: str, kept: set[str]) -> None:
    surplus = [path for path in _listing(transport, remote) if path not in kept]
    for at in range(0, len(surplus), 200):  # a command line has an end
        names = " ".join(shlex.quote("./" + path) for path in surplus[at : at + 200])
        done = transport.run(f"cd {quote_path(remote)} && rm -rf {names}")
        if done.returncode:
            raise _failure(done, f"deleting in {remote}", transport)


def _send(transport: Transport, script: str, feed: Iterator[bytes], what: str) -> None:
    said: list[bytes] = []
    code = transport._execute(script, feed, lambda name, chunk: said.append(chunk), None)
    if code:
        raise OSError(
            f"copying {what} ({transport.description}) failed: {b''.join(said).decode(errors='replace').strip()}"
        )


def _receive(
    transport: Transport, script: str, write: Callable[[bytes], object], size: int, progress: Progress | None, what: str
) -> None:
    said: list[bytes] = []
    done = 0

    def take(name: str, chunk: bytes) -> None:
        nonlocal done
        if name == "stderr":
            said.append(chunk)
            return
        write(chunk)
        done += len(chunk)
        if progress:
            progress(done, size)

    code = transport._execute(script, None, take, None)
    if code or (size and done != size):
        reason = b"".join(said).decode(errors="replace").strip() or f"{done} of {size} bytes came"
        raise OSError(f"copying {what} ({transport.description}) failed: {reason}")


def _failure(done: Completed, what: str, transport: Transport) -> OSError:
    return OSError(f"{what} ({transport.description}) failed: {done.stderr.decode(errors='replace').strip()}")


def _counted(chunks: Iterator[bytes], total: int, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if progress:
            progress(min(done, total), total)


def _mode(listed: str) -> int:
    """The permission bits in `ls -l`'s notation."""
    return sum(1 << (8 - i) for i, letter in enumerate(listed[1:10]) if letter not in "-ST")


class _Packer:
    """A folder as the chunks of a tar stream, packed by a thread as they are asked for."""

    def __init__(self, folder: Path):
        reader, writer = os.pipe()
        self._reader, self._writer = os.fdopen(reader, "rb", buffering=0), os.fdopen(writer, "wb")
        self._folder = folder
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._pack, name="runkit-tar", daemon=True)

    def _pack(self) -> None:
        def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.uid = member.gid = 0  # the account here means nothing there
            member.uname = member.gname = ""
            return member

        try:
            with (
                contextlib.closing(self._writer),
                tarfile.open(fileobj=self._writer, mode="w|", format=tarfile.GNU_FORMAT) as tar,
            ):
                for path in sorted(self._folder.iterdir()):
                    tar.add(path, path.name, filter=anonymous)
        except BaseException as error:
            self._error = error

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._reader.read(CHUNK)
        if chunk:
            return chunk
        if self._error:
            raise self._error
        raise StopIteration

    def __enter__(self) -> _Packer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.close()  # a packer that is still at work gets a broken pipe
        self._thread.join()


class _Unpacker:
    """Writes a tar stream into a folder as it comes. The host may be anybody's: nothing is written outside the folder."""

    def __init__(self, folder: Path):
        reader, writer = os.pipe()
        self._reader, self._writer = os.fdopen(reader, "rb"), os.fdopen(writer, "wb", buffering=0)
        self._folder = folder
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._unpack, name="runkit-tar", daemon=True)

    def _unpack(self) -> None:
        try:
            with tarfile.open(fileobj=self._reader, mode="r|") as tar:
                tar.extraction_filter = getattr(tarfile, "tar_filter", None)  # Python's own check, where it has one
                for member in tar:
                    if PurePosixPath(member.name) != PurePosixPath("."):
                        _extract(tar, member, self._folder)
        except BaseException as error:
            self._error = error
        shutil.copyfileobj(self._reader, _Nowhere())  # the other end must not stop at a full pipe

    def write(self, chunk: bytes) -> None:
        if self._error:
            raise self._error
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._writer.write(rest) :]

    def __enter__(self) -> _Unpacker:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._writer.close()
        self._thread.join()
        self._reader.close()
        if self._error and kind is None:
            raise self._error


class _Nowhere:
    def write(self, data: bytes, /) -> int:
        return len(data)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    root = os.path.realpath(folder)
    for name in (member.name, *([member.linkname] if member.islnk() else [])):
        parent = os.path.realpath((folder / name).parent)
        if ".." in PurePosixPath(name).parts or not f"{parent}{os.sep}".startswith(
            f"{root}{os.sep}".replace("//", "/")
        ):
            raise OSError(f"the host sent {name!r}, which would land outside of {folder}")
    if member.isdev():
        return
    path = folder / member.name
    if not member.isdir() and (path.is_symlink() or path.is_file()):
        path.unlink()  # replaced, not followed or written through
    tar.extract(member, folder)
    if member.isfile() or member.isdir():
        path.chmod(member.mode & 0o777)  # the filter takes away the group's right to write
