"""What a scan finds: the interpreter, its distributions, and the folders that code of the user's own is imported from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Source = Literal["index", "archive", "directory", "vcs", "editable", "conda"]
Kind = Literal["venv", "virtualenv", "conda", "system"]
RootKind = Literal["editable", "path", "pythonpath", "pth", "cwd"]


@dataclass(frozen=True, repr=False)
class Distribution:
    """An installed distribution: the one that is in effect, where several of that name lie on `sys.path`.

    Attributes:
        name: normalised as PEP 503 says.
        version: as its metadata states it, also where that is no version after PEP 440 (see `standard`).
        installer: what INSTALLER says: "uv", "pip", "conda"…; "" where it is unknown.
        location: the `sys.path` entry its metadata lies in; for an old `setup.py develop` the folder in the project.
        info: its .dist-info or .egg-info (a folder or a file; inside a zipped .egg, the zip's path and the way in it).
        requires: its Requires-Dist lines.
        direct_url: the content of direct_url.json (PEP 610), `subdirectory` and all, without credentials.
        editable: the project folder of an editable install, with links resolved; it may be gone.
        source: where it came from. "index" is also what cannot be told: there is no direct_url.json, or it names a file or folder
            that is not on this machine, as in packages that a distributor built elsewhere.
        pure: Root-Is-Purelib of WHEEL; None without a WHEEL file.
        tags: the Tag lines of WHEEL.
        conda: name, version, build, channel, subdir and url of the conda package that brought it.
        roots: the import roots it owns: for an editable install the folders that belong on `sys.path`; else nothing.
        mapping: for an editable install, import names that no `sys.path` entry can give because the folder or file has another
            name: import name -> its folder or file.
        requested: whether a user asked for it by name, rather than something that needs it; None if nobody noted that (uv does not).
    """

    name: str
    version: str
    installer: str
    location: str
    info: str
    requires: tuple[str, ...] = ()
    direct_url: Mapping[str, Any] | None = None
    editable: str | None = None
    source: Source = "index"
    pure: bool | None = None
    tags: tuple[str, ...] = ()
    conda: Mapping[str, str] | None = None
    roots: tuple[str, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    requested: bool | None = None

    @property
    def standard(self) -> bool:
        """Whether its version is one after PEP 440; others cannot be asked for from an index."""
        from packaging.version import InvalidVersion, Version  # noqa: PLC0415  (a scan must not wait for it)

        try:
            Version(self.version)
        except InvalidVersion:
            return False
        return True

    def __repr__(self) -> str:
        return f"Distribution({self.name} {self.version}, {self.source})"


@dataclass(frozen=True)
class CondaPackage:
    """A package in conda-meta, Python or not.

    Attributes:
        name, version, build, channel, subdir: as conda has them; the channel without a token.
        url: the file it was installed from, without credentials; "" if unknown.
        requested: the spec the user gave for it; "" if it came as a dependency.
        distributions: the Python distributions it brings that are in effect; none for a library or a program.
    """

    name: str
    version: str
    build: str
    channel: str
    subdir: str
    url: str = ""
    requested: str = ""
    distributions: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportRoot:
    """A folder (or zip file) on `sys.path` that holds code of the user's own. Each real folder is listed once.

    Attributes:
        path: absolute, with links resolved.
        kind: how it came onto `sys.path`: by an editable install, PYTHONPATH, a .pth file, as the working directory, or else.
        owner: the distribution that it belongs to: its editable install brings the folder, or the folder is its project's own.
            None: nobody's but the user's.
        tree: the folder to ship for it: the owner's project, or the package root around it. Roots with the same tree travel together.
        modules: the top-level names that can be imported from it and that no other distribution there brought.
    """

    path: str
    kind: RootKind
    owner: str | None = None
    tree: str = ""
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Note:
    """Something that was seen and not taken.

    Attributes:
        about: a distribution's name, or a path.
        text: what is with it, for a person.
        matters: whether something that works here may be missing, or be another, where the environment is replicated.
    """

    about: str
    text: str
    matters: bool = False


@dataclass(frozen=True, repr=False)
class LocalEnvironment:
    """An interpreter and everything it can import that is not its own.

    Attributes:
        python: the full version, as "3.12.4" or "3.14.0rc2".
        implementation: "cpython", "pypy"…
        executable: the interpreter's path.
        prefix: its `sys.prefix`.
        kind: "venv" (made by venv or uv), "virtualenv", "conda" or "system".
        platform: as `sysconfig.get_platform()` has it: "linux-x86_64".
        distributions: sorted by name, each name once.
        roots: in the order of `sys.path`.
        conda: every package of conda-meta, sorted by name.
        notes: what was left out, and why.
    """

    python: str
    implementation: str
    executable: str
    prefix: str
    kind: Kind
    platform: str
    distributions: tuple[Distribution, ...]
    roots: tuple[ImportRoot, ...]
    conda: tuple[CondaPackage, ...] = ()
    notes: tuple[Note, ...] = ()

    def get(self, name: str) -> Distribution | None:
        """The distribution of this normalised name, or None."""
        return next((one for one in self.distributions if one.name == name), None)

    def digest(self) -> str:
        """Names what is installed and where code comes from; not the code in editable installs and import roots."""
        from runkit.model.digest import digest  # noqa: PLC0415  (as packaging above)

        return digest(
            {
                "python": [self.python, self.implementation, self.platform, self.kind],
                "distributions": [
                    [
                        one.name,
                        one.version,
                        one.source,
                        one.editable,
                        one.roots,
                        one.mapping,
                        one.direct_url,
                        one.conda,
                        one.tags,
                    ]
                    for one in self.distributions
                ],
                "roots": [[one.path, one.kind, one.owner, one.tree] for one in self.roots],
                "conda": [[one.name, one.version, one.build, one.channel, one.subdir] for one in self.conda],
            }
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, as values that JSON has."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def __repr__(self) -> str:
        return (
            f"LocalEnvironment({self.kind} {self.prefix}, Python {self.python}, "
            f"{len(self.distributions)} distributions, {len(self.roots)} import roots)"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, (Distribution, CondaPackage, ImportRoot, Note)):
        return {name: _plain(one) for name, one in vars(value).items()}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value
