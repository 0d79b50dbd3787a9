"""An env described in a file: TOML or JSON, with the arguments of `rk.env` as its keys."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runkit.errors import UsageError
from runkit.model.env import Env, env
from runkit.model.secret import Secret

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = tuple(name for name in inspect.signature(env).parameters if name not in ("base", "package_sync"))
"""What such a file may say. An Env cannot be written in it, and there is no local environment to replicate where it is read."""


def read_env(path: str | Path) -> Env:
    """The env that a file describes.

    Args:
        path: of a `.json` file, or of a TOML file of any other name. Relative paths in it start from its folder, which is the
            current one meanwhile: not for a process with several threads.

    Raises:
        UsageError: the file cannot be read, is malformed, has a key that `rk.env` does not take, or describes an env that is
            malformed. The message names the file.

    Example:
        >>> read_env("cluster_default.toml")  # doctest: +SKIP
        Env(name='cluster_default', reqs=['numpy'])
    """
    file = Path(path).absolute()
    content = _content(file)
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        raise UsageError(f"{file}: {'; '.join(map(_unknown, unknown))}. It knows {', '.join(KEYS)}")
    try:
        with _current_folder(file.parent):
            return env(**{**content, **_secrets(content)})
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _content(file: Path) -> dict[str, Any]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text in UTF-8: {error}") from None
    kind = "JSON" if file.suffix == ".json" else "TOML"
    try:
        content = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except ValueError as error:
        hint = (
            f'. A conda environment is named in one: conda_env = "{file.name}"'
            if file.suffix in (".yml", ".yaml")
            else ""
        )
        raise UsageError(f"{file} is no {kind}: {error}{hint}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds no keys with values, but a {type(content).__name__}")
    return content


def _unknown(key: str) -> str:
    if key == "package_sync":
        return "package_sync replicates the environment of a client: give it to rk.cluster there"
    near = difflib.get_close_matches(key, KEYS, 1)
    return f"unknown key {key!r}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _secrets(content: dict[str, Any]) -> dict[str, Any]:
    """A secret is the name of a provider, or a table of `rk.Secret`'s arguments."""
    given = content.get("secrets")
    if not isinstance(given, list):
        return {}
    made: list[Any] = []
    for one in given:
        if isinstance(one, dict):
            if unknown := set(one) - {"name", "env", "path"}:
                raise UsageError(f"a secret has name, env and path, not {', '.join(sorted(unknown))}")
            if "name" not in one:
                raise UsageError("a secret needs a name")
            one = Secret(**one)
        made.append(one)
    return {"secrets": made}


@contextlib.contextmanager
def _current_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
