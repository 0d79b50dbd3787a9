"""What a conda environment is asked to be: the content of an `environment.yml`, a dict like it, or an environment of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from runkit.errors import UsageError
from runkit.model import conda_local, yaml_text
from runkit.model.git_package import GitPackage
from runkit.model.package import Package, anchored

_KEYS = {"name", "channels", "dependencies", "variables", "prefix", "platforms", "category"}
_NAME = re.compile(r"(?:[^\s\[\]]+::)?(?P<name>[A-Za-z0-9_.*][\w.*-]*)\s*(?P<rest>.*)", re.DOTALL)
_EXACT = re.compile(r"={0,2}\s*(?P<version>3\.\d+(?:\.\d+)?)(?:\.\*)?(?:[=\s].*)?")


@dataclass(frozen=True)
class CondaSpec:
    """What `conda_env=` names.

    Attributes:
        name: the name that the file or the local environment has, or None.
        channels: where packages come from, as they were written, most important first; empty for the user's own setting.
        specs: match specs, as "python=3.10" or "conda-forge::numpy>=1.26".
        pip: what its `pip:` section asks for.
        variables: its `variables` section.
        prefix: the folder of the local environment that is to be copied, or None.
        notes: what the user should hear about.
    """

    name: str | None = None
    channels: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    pip: tuple[Package | GitPackage, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)
    prefix: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def python(self) -> str | None:
        """The Python that it asks for, as "3.10" or "3.10.4"; None where it leaves the minor version open."""
        if self.prefix is not None and (version := conda_local.python(Path(self.prefix))):
            return ".".join(version.split(".")[:2])
        found = [asked for spec in self.specs if (asked := _python_of(spec))]
        return max(found, key=len) if found else None

    def with_specs(self, specs: Sequence[str]) -> CondaSpec:
        """The same with further match specs.

        Raises:
            UsageError: it is a copy of a local environment, which is taken as it is.
        """
        if specs and self.prefix is not None:
            raise UsageError(
                f"{', '.join(specs)} cannot be added to a copy of the local conda environment {self.prefix}: install it there, "
                "or give the environment as a yml file or a dict"
            )
        return replace(self, specs=tuple(dict.fromkeys((*self.specs, *specs))))

    def __str__(self) -> str:
        if self.prefix is not None:
            return f"{self.name or self.prefix} (local)"
        return ", ".join((*self.specs, *(f"pip: {package}" for package in self.pip))) or "python"

    def __repr__(self) -> str:
        return f"<conda: {self}>"


def as_conda(given: Any, folder: Path) -> CondaSpec | None:
    """What a `conda_env=` argument means; relative paths start from `folder`.

    Args:
        given: the path of an `environment.yml`, its content as a mapping, the name or the folder of a conda environment of
            this machine, or None. What has a "/" or ends in ".yml" or ".yaml" is a path.

    Raises:
        UsageError: it is none of these, or something in it is malformed.
    """
    if given is None or isinstance(given, CondaSpec):
        return given
    if isinstance(given, Mapping):
        return _read(given, folder, "conda_env")
    if not isinstance(given, (str, os.PathLike)):
        raise UsageError(
            "conda_env is the path of an environment.yml, its content as a dict, or the name of a local conda environment, "
            f"not {type(given).__name__}"
        )
    text = os.fspath(given)
    if not text.strip():
        raise UsageError("conda_env is empty: name a file or a local conda environment")
    # A name is never a path by luck: a file or folder of that name in the current folder is written './name'.
    if "/" not in text and not text.endswith((".yml", ".yaml")) and isinstance(given, str):
        return _local(conda_local.find(text), text)
    path = anchored(text, folder)
    if path.is_file():
        return _read_file(path)
    if (path / "conda-meta").is_dir():
        return _local(path, text)
    kind = "a conda environment: it has no conda-meta folder" if path.is_dir() else "there"
    raise UsageError(f"conda_env={text!r}: {path} is not {kind}")


def _local(prefix: Path, given: str) -> CondaSpec:
    editable = conda_local.editable(prefix)
    for name, source in editable.items():
        if not Path(source).is_dir():
            raise UsageError(
                f"{name} is installed in the conda environment {given!r} in editable mode, from {source}, which does not exist: "
                "uninstall it there, or bring the folder back"
            )
    notes = tuple(
        f"{name} is installed in the conda environment {given!r} in editable mode: its folder {source} is synced beside the copy"
        for name, source in editable.items()
    )
    folders = tuple(Package.from_string(f"local:{source}") for source in editable.values())
    return CondaSpec(name=prefix.name, pip=folders, prefix=str(prefix), notes=notes)


def _read_file(path: Path) -> CondaSpec:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"conda_env={str(path)!r} cannot be read: {error}") from error
    try:
        content = yaml_text.load(text)
    except ValueError as error:
        raise UsageError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} describes no conda environment: it holds no `dependencies`")
    return _read(content, path.parent, str(path))


def _read(content: Mapping[Any, Any], folder: Path, where: str) -> CondaSpec:
    unknown = sorted(str(key) for key in content if key not in _KEYS)
    notes = tuple(f"{where}: {key!r} means nothing in a conda environment's file and is left aside" for key in unknown)
    specs: list[str] = []
    pip: list[Package | GitPackage] = []
    for entry in _list(content, "dependencies", where):
        if isinstance(entry, Mapping):
            if set(entry) != {"pip"}:
                raise UsageError(
                    f"{where}: a section in `dependencies` can only be `pip`, not {', '.join(map(str, entry))}"
                )
            pip += [_pip(line, folder, where) for line in _list(entry, "pip", where)]
        else:
            specs.append(check_spec(entry, where))
    return CondaSpec(
        name=_name(content.get("name"), where),
        channels=tuple(_text(channel, "channels", where) for channel in _list(content, "channels", where)),
        specs=tuple(dict.fromkeys(specs)),
        pip=tuple(pip),
        variables=_variables(content.get("variables"), where),
        notes=notes,
    )


def check_spec(spec: Any, where: str) -> str:
    """A match spec, in the form of a trimmed line; whether it means anything is the solver's to say.

    Raises:
        UsageError: it is no text, or names no package.
    """
    text = _text(spec, "dependencies", where)
    if not _NAME.fullmatch(text):
        raise UsageError(f"{where}: {text!r} names no conda package: write it as 'numpy' or 'numpy>=1.26'")
    return text


def _pip(line: Any, folder: Path, where: str) -> Package | GitPackage:
    return Package.from_string(_text(line, "pip", where), folder)


def _list(content: Mapping[Any, Any], key: str, where: str) -> list[Any]:
    value = content.get(key)
    if value is None:
        return []
    # Runhouse's own examples write {"pip": "diffusers"} and dependencies: pip.
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Sequence):
        raise UsageError(f"{where}: `{key}` is a list, not {type(value).__name__}: {value!r}")
    return list(value)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\n" in value.strip():
        raise UsageError(f"{where}: an entry of `{key}` is a line of text, not {value!r}")
    return value.strip()


def _name(name: Any, where: str) -> str | None:
    if name is not None and not isinstance(name, str):
        raise UsageError(f"{where}: `name` is a text, not {name!r}")
    return name or None


def _variables(variables: Any, where: str) -> dict[str, str]:
    if variables is None:
        return {}
    if not isinstance(variables, Mapping):
        raise UsageError(f"{where}: `variables` is a mapping of names to values, not {type(variables).__name__}")
    for name, value in variables.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"{where}: {name!r} cannot be the name of an environment variable")
        if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
            raise UsageError(f"{where}: the variable {name} must be a text, not {value!r}")
    return {name: value if isinstance(value, str) else _plain(value) for name, value in variables.items()}


def _plain(value: Any) -> str:
    """A scalar of YAML as a shell would see it: conda writes `true` for True."""
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _python_of(spec: str) -> str | None:
    """The Python that a match spec pins, if it is about Python and leaves one minor version."""
    found = _NAME.fullmatch(spec)
    if not found or found["name"] != "python" or not found["rest"]:
        return None
    rest = found["rest"].strip()
    if bracket := re.fullmatch(r"\[version=['\"]?([^'\"\]]*)['\"]?\]", rest):
        rest = bracket[1]
    if exact := _EXACT.fullmatch(rest):
        return exact["version"]
    try:
        limits = SpecifierSet(rest)
    except InvalidSpecifier:
        return None
    minors = [minor for minor in range(40) if any(f"3.{minor}.{patch}" in limits for patch in (0, 1, 9, 99))]
    return f"3.{minors[0]}" if len(minors) == 1 else None
