"""Secrets: references to values that are read at the last moment.

Standard library only, Python 3.9 and later: `rk.Secret("hf").value()` works in remote code too.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from runkit.errors import SecretNotFound, UsageError
from runkit.model.mistakes import plainly
from runkit.model.passed_on import keep_out
from runkit.model.providers import MOST_BYTES, PROVIDERS, Material, SecretFile, places, read, read_bytes
from runkit.wire import handles
from runkit.wire.names import check_name

ARRIVED = "RUNKIT_SECRETS"
"""The variable that names, in an env, the folder of the secrets that came with it."""

INDEX = ".index.json"
"""The file in that folder that says what each secret is made of: {name: {"variables": [name], "files": [path]}}."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USERINFO = re.compile(r"(?:[\w.~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*", re.ASCII)
"""What may stand in front of the @ of a URL (RFC 3986, 3.2.1)."""
_WORD = re.compile(r"[A-Za-z][A-Za-z_.\- ]{0,30}")


@dataclass(frozen=True)
class Keyring:
    """An entry of the system's keyring; see `Secret.keyring`."""

    service: str
    user: str

    def __call__(self) -> str | None:
        try:
            keyring = importlib.import_module("keyring")
        except ModuleNotFoundError:
            raise UsageError("the package keyring is not installed here: `pip install keyring`") from None
        found: str | None = keyring.get_password(self.service, self.user)
        return found


@dataclass(frozen=True)
class InUrl:
    """A variable that stands in a URL, which pip and uv fill in as text: percent-encoded, unless it is no text that a URL can have."""

    variable: str

    def __post_init__(self) -> None:
        keep_out(self.variable)

    def __call__(self) -> str:
        keep_out(self.variable)  # also for one that was unpickled
        value = os.environ.get(self.variable)
        if value is None:
            raise UsageError(f"the environment variable {self.variable} is not set")
        return unquote(value, errors="strict") if _USERINFO.fullmatch(value) else value

    def __repr__(self) -> str:
        return f"<${{{self.variable}}} of a URL>"


class _Function:
    """A function that gives a value. It is shown by its name alone, and that is all of it that travels."""

    def __init__(self, module: str, name: str, function: Callable[[], Any] | None = None, found: bool = True):
        self.module = module
        self.name = name
        self._function = function
        self._found = found

    @classmethod
    def of(cls, function: Callable[[], Any]) -> _Function:
        module = getattr(function, "__module__", None) or type(function).__module__
        return cls(module, getattr(function, "__qualname__", None) or type(function).__qualname__, function)

    def __call__(self) -> Any:
        function = self._function or (_by_name(self.module, self.name) if self._found else None)
        if function is None:
            raise UsageError(f"{self.module}.{self.name}, which gives it, stayed where it was defined")
        return function()

    def __reduce__(self) -> Any:
        # By value it could carry what it gives, as a constant or in a closure.
        found = self._found and self.module != "__main__"
        if self._function is not None:
            found = found and _by_name(self.module, self.name) is self._function
        return _Function, (self.module, self.name, None, found)

    def __copy__(self) -> _Function:
        return self

    def __deepcopy__(self, memo: Any) -> _Function:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Function) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> Any:
        return self._function or (self.module, self.name)

    def __repr__(self) -> str:
        return f"<function {self.module}.{self.name}>"


@dataclass(frozen=True, init=False)
class Secret:
    """A reference to a value; the value itself is read when it is needed and shown by nothing.

    Args:
        name: what it is called; a provider's name ("huggingface", see `providers`) needs nothing else.
        env: the environment variable that holds it. With `path` or `value`, the variable it comes to an env as.
        path: the file that holds it. It comes to an env as a file with mode 0600; `env` is then the variable that names its path there.
        value: a function without arguments that gives it, or `Secret.keyring(...)`. It comes to an env as the variable `env`, or
            else one of its own name in capitals.

    Raises:
        UsageError: an argument is malformed, or a value was given in place of what reads it.

    Example:
        >>> Secret("hf", env="HF_TOKEN")
        Secret('hf', env='HF_TOKEN')
    """

    name: str
    env: str | None
    path: str | None
    source: Keyring | InUrl | _Function | None

    @plainly
    def __init__(
        self,
        name: str,
        *,  # else Secret("name", "hunter2") would take that for a variable's name, and show it
        env: str | None = None,
        path: str | os.PathLike[str] | None = None,
        value: Callable[[], str | bytes] | None = None,
        source: Keyring
        | InUrl
        | _Function
        | None = None,  # the field of that name, for whoever copies a Secret by its fields
    ):
        check_name("secret", name)
        if env is not None and not (isinstance(env, str) and _VARIABLE.fullmatch(env)):
            raise UsageError(
                f"env= of the secret {name!r} is the name of an environment variable: letters, digits and '_'"
            )
        if path is not None and not (isinstance(path, (str, os.PathLike)) and os.fspath(path)):
            raise UsageError(f"path= of the secret {name!r} is the path of a file, not {type(path).__name__}")
        if isinstance(value, (str, bytes)):
            raise UsageError(
                f"a value in code is no secret: give {name!r} the variable (env=) or the file (path=) that holds it, or value= a "
                "function that reads it"
            )
        if value is not None and not callable(value):
            raise UsageError(
                f"value= of the secret {name!r} is a function without arguments, or rk.Secret.keyring(...), not {type(value).__name__}"
            )
        if path is not None and value is not None:
            raise UsageError(f"the secret {name!r} has a path and a value: give one of them")
        if value is not None:
            source = value if isinstance(value, (Keyring, InUrl, _Function)) else _Function.of(value)
        if env is not None and path is None and source is None:
            keep_out(env)
        where = None if path is None else os.path.normpath(Path.cwd() / Path(path).expanduser())
        for field, given in (("name", name), ("env", env), ("path", where), ("source", source)):
            object.__setattr__(self, field, given)

    @staticmethod
    def keyring(service: str, user: str) -> Keyring:
        """An entry of the system's keyring, for `value=`; the package `keyring` is needed when it is read."""
        return Keyring(service, user)

    @plainly
    def value(self) -> str:
        """The value, read now; of a file its text, without the line break at its end.

        In an env that it came to, it is the value that came.

        Raises:
            SecretNotFound: there is none; the message says where it was looked for.
            UsageError: it is made of several values, as those of some providers are, or is not text.
        """
        material = self._only()
        if material.variables:
            return next(iter(material.variables.values()))
        try:
            return material.files[0].content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise UsageError(f"the secret {self.name!r} is not text: read it with .data()") from None

    @plainly
    def data(self) -> bytes:
        """The value, byte by byte. Raises what `value` does."""
        return next(iter(self._only().values().values()))

    def _only(self) -> Material:
        material = self._arrived() or self.read()
        if len(names := list(material.values())) != 1:
            raise UsageError(f"the secret {self.name!r} is made of several values, {', '.join(names)}: read those")
        return material

    def read(self) -> Material:
        """What it is made of, read now from where it is on this machine. Raises what `value` does."""
        try:
            material = self._read()
        except UsageError as error:
            raise self._not_found(str(error)) from None
        except OSError as error:
            raise self._not_found(f"{error.filename or 'its file'} cannot be read: {error.strerror}") from None
        if sum(map(len, material.values().values())) > MOST_BYTES:
            raise UsageError(f"the secret {self.name!r} is too long: a secret has at most {MOST_BYTES} bytes")
        if not all(material.values().values()):
            raise self._not_found(f"{self._where()} is empty")
        return material

    def _not_found(self, why: str) -> SecretNotFound:
        hint = "; it did not come with this env: name it in the env's secrets" if _in_an_env() else ""
        return SecretNotFound(f"the secret {self.name!r} has no value: {why}{hint}")

    @property
    def is_reference(self) -> bool:
        """Whether it says itself where its value is; otherwise it is a provider's, or one that came with an env."""
        return not (self.env is None and self.path is None and self.source is None)

    def _read(self) -> Material:
        if self.source is not None:
            return self._called(self.source)
        if self.path is not None:
            path = Path(self.path)
            return Material(files=(SecretFile(path.name, read_bytes(path), self.env),))
        if self.env is not None:
            keep_out(self.env)  # also for one that was unpickled
            if self.env not in os.environ:
                raise UsageError(f"{self._where()} is not set")
            return Material({self.env: os.environ[self.env]})
        provider = PROVIDERS.get(self.name)
        if provider is None:
            known = "" if _in_an_env() else f", and no provider is called so{_known(self.name)}"
            raise UsageError(f"it says neither env=, path= nor value={known}")
        material = read(provider)
        if material is None:
            raise UsageError(f"looked for {places(provider)}")
        return material

    def _called(self, source: Keyring | InUrl | _Function) -> Material:
        raised = ""
        try:
            found = source()
        except UsageError:
            raise
        except Exception as error:
            raised = type(error).__name__
        if raised:  # out here no error has the other as its context: that may hold the value
            raise UsageError(f"{self._where()} raised {raised}")
        if found is None:
            raise UsageError(f"{self._where()} gave None")
        if not isinstance(found, (str, bytes)):
            raise UsageError(f"{self._where()} gave {type(found).__name__}, not text or bytes")
        if isinstance(found, bytes):
            return Material(files=(SecretFile(self.name, found, self.env),))
        return Material({self.env or re.sub(r"\W|^(?=\d)", "_", self.name).upper(): found})

    def _arrived(self) -> Material | None:
        """What came of it with the env this runs in; None if nothing did."""
        folder = os.environ.get(ARRIVED)
        if not folder:
            return None
        try:
            parts = json.loads((Path(folder) / INDEX).read_bytes())[self.name]
            variables = {name: os.environ[name] for name in parts["variables"]}
            paths = map(Path, parts["files"])
            return Material(variables, files=[SecretFile(path.name, path.read_bytes()) for path in paths])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _where(self) -> str:
        if self.source is not None:
            return f"value={self.source!r}"
        return f"the file {self.path}" if self.path is not None else f"the environment variable {self.env}"

    def __repr__(self) -> str:
        given = {"env": self.env, "path": self.path, "value": self.source}
        return f"Secret({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in given.items() if v is not None)])})"


def as_secrets(given: Sequence[str | Secret] | None) -> tuple[Secret, ...]:
    """What a `secrets=` argument means.

    Raises:
        UsageError: it is no list of providers' names and Secrets, or names one that is not known, or one twice.
    """
    if given is None:
        return ()
    if isinstance(given, (str, Secret)) or not isinstance(given, Sequence):
        raise UsageError("secrets is a list of providers' names and rk.Secret objects: write secrets=[...]")
    found: dict[str, Secret] = {}
    for number, one in enumerate(given, 1):
        if not isinstance(one, (str, Secret)):
            raise UsageError(f"entry {number} of secrets is a provider's name or a rk.Secret, not {type(one).__name__}")
        if isinstance(one, str) and one not in PROVIDERS:
            # Somebody may have written the value itself here: only what looks like a word is repeated.
            shown = repr(one) if _WORD.fullmatch(one) else f"entry {number} of secrets"
            raise UsageError(
                f"{shown} is no provider of secrets{_known(one)}; for any other write rk.Secret(name, env=...)"
            )
        secret = one if isinstance(one, Secret) else Secret(one)
        if not secret.is_reference and secret.name not in PROVIDERS:
            raise UsageError(f"the secret {secret.name!r} says neither env=, path= nor value={_known(secret.name)}")
        if found.setdefault(secret.name, secret) != secret:
            raise UsageError(f"two of the secrets are called {secret.name!r}")
    return tuple(found.values())


def merged(base: Sequence[Secret], added: Sequence[Secret]) -> tuple[Secret, ...]:
    """The secrets of both; of two with the same name the added one."""
    return tuple({secret.name: secret for secret in (*base, *added)}.values())


def _known(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), PROVIDERS, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{hint}; providers are {', '.join(PROVIDERS)}"


def _in_an_env() -> bool:
    return handles.resolver is not None or ARRIVED in os.environ


def _by_name(module: str, name: str) -> Callable[[], Any] | None:
    """What a module calls by that name; None if there is no such thing, here."""
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if callable(found) else None
