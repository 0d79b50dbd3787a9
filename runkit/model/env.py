"""An environment: what code needs around it to run."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from runkit.errors import UsageError
from runkit.model import requirements
from runkit.model.conda import CondaSpec, as_conda
from runkit.model.digest import digest
from runkit.model.dotenv import read_dotenv
from runkit.model.git_package import GitPackage
from runkit.model.mistakes import plainly
from runkit.model.package import Package, anchored
from runkit.model.package_sync import PackageSync, as_package_sync
from runkit.model.requirements import Requirements
from runkit.model.resources import check_compute
from runkit.model.secret import Secret, as_secrets, merged
from runkit.model.urls import without_credentials
from runkit.wire.names import DEFAULT_ENV, check_name

OLDEST_PYTHON = (3, 9)
"""The oldest Python a worker runs on."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PYTHON = re.compile(r"3\.(\d{1,2})(?:\.(\d{1,2}))?")


@dataclass(frozen=True)
class Env:
    """An environment; made by `env()`, which checks every part.

    Attributes:
        name: its name on a cluster; None for requirements that are added on top of the cluster's default env.
        reqs: what it needs.
        env_vars: environment variables that are set before user code is imported.
        env_file: the `.env` file that gave further ones, read again whenever the env is sent.
        working_dir: the absolute path of the folder that is synced and is the remote current folder; None for the package root.
        setup_cmds: shell commands that run after the requirements were installed.
        python: "3.12" or "3.12.1"; None for the client's own minor version.
        compute: what the env holds for itself: CPU and GPU (how many), memory (bytes), custom Ray resources.
        root_reqs: whether the requirements.txt of the synced package root is installed too.
        folder: the folder `env()` was called in.
        conda: the conda environment it lives in; None for a venv.
        secrets: references to values that come to it as variables or files.
        package_sync: how the environment that runs here is replicated in it; None if it is not.
        lock_file: the absolute path of the `pylock.toml` it is installed from; None to resolve.
        install_timeout: seconds for its whole set-up; None for no limit.
    """

    name: str | None = None
    reqs: tuple[Package | GitPackage, ...] = ()
    env_vars: Mapping[str, str] = field(default_factory=dict, hash=False)
    env_file: str | None = None
    working_dir: str | None = None
    setup_cmds: tuple[str, ...] = ()
    python: str | None = None
    compute: Mapping[str, float] = field(default_factory=dict, hash=False)
    root_reqs: bool = True
    folder: str = "."
    conda: CondaSpec | None = None
    secrets: tuple[Secret, ...] = ()
    package_sync: PackageSync | None = None
    lock_file: str | None = None
    install_timeout: float | None = None

    @property
    def target(self) -> str:
        """The name of the env on a cluster that this one is, or is added to."""
        return self.name or DEFAULT_ENV

    def variables(self) -> dict[str, str]:
        """The environment variables, with those of the `.env` file as it is now.

        Raises:
            UsageError: that file cannot be read.
        """
        found = _check_variables(read_dotenv(self.env_file)) if self.env_file else {}
        return {**found, **self.env_vars}

    def requirements(self, requirements_files: Sequence[str | Path] = ()) -> Requirements:
        """What the env's `reqs` and these requirements files (of synced roots) ask for, as they are now."""
        asked = (*(self.conda.pip if self.conda else ()), *(one for one in self.reqs if not _is_conda(one)))
        return requirements.read(asked, requirements_files, self.python)

    def conda_packages(self) -> CondaSpec | None:
        """The conda environment it lives in, with the conda packages among `reqs`; None for a venv.

        For an env without a name and a conda environment of its own, it is what is added to that of the default env.
        """
        specs = [one.target for one in self.reqs if _is_conda(one)]
        return (self.conda or CondaSpec()).with_specs(specs) if self.conda or specs else None

    def local_folders(self) -> list[str]:
        """Absolute paths of the local folders among the requirements: to be synced and importable."""
        return list(self.requirements().folders)

    @plainly
    def to(self, cluster: Any, force: bool = False) -> Any:
        """Make this env on a cluster, or bring the one there up to date. See `Cluster.send_env`, which does it.

        Args:
            cluster: a Cluster.
            force: resolve and install anew even where nothing changed.
        """
        # The model knows no client; a cluster is whatever can be sent an env.
        if not hasattr(cluster, "send_env"):
            raise UsageError(f"an env is sent to a cluster, not to {cluster!r}: see rk.cluster")
        return cluster.send_env(self, force=force)

    @plainly
    def lock(self, cluster: Any, path: str | Path | None = None) -> str:
        """What this env on a cluster is made of, exactly, as a `pylock.toml` (PEP 751); `env(lock=)` takes it. See `Cluster.env_lock`.

        What `to` returns has a `lock()` of its own, which needs no cluster.

        Args:
            cluster: a Cluster that it was sent to.
            path: a file to write it to as well.

        Raises:
            EnvNotFound: it was not sent there, or was removed.
        """
        if not hasattr(cluster, "env_lock"):
            raise UsageError(f"an env is locked as it is on a cluster, not on {cluster!r}: see rk.cluster")
        return str(cluster.env_lock(self, path))

    @plainly
    def status(self, cluster: Any) -> Any:
        """What this env is on a cluster at the moment: its state, process, objects, size on disk. See `Cluster.env_status`.

        What `to` returns has a `status()` of its own, which needs no cluster.

        Raises:
            EnvNotFound: it was not sent there, or was removed.
        """
        if not hasattr(cluster, "env_status"):
            raise UsageError(f"an env has a status on a cluster, not on {cluster!r}: see rk.cluster")
        return cluster.env_status(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self._shown())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._shown()
        )
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"

    def _shown(self) -> list[tuple[str, str]]:
        # The values of variables may be secrets: their names are enough.
        variables = sorted(self.env_vars) + ([f"those of {self.env_file}"] if self.env_file else [])
        parts: list[tuple[str, Any]] = [
            ("name", self.name),
            ("reqs", [str(package) for package in self.reqs]),
            ("env_vars", variables),
            ("working_dir", self.working_dir),
            ("setup_cmds", list(self.setup_cmds)),
            ("python", self.python),
            ("compute", dict(self.compute)),
            ("root_reqs", "" if self.root_reqs else False),
            ("conda_env", self.conda),
            ("secrets", list(self.secrets)),
            ("package_sync", self.package_sync),
            ("lock", self.lock_file),
            ("install_timeout", self.install_timeout),
        ]
        return [(name, repr(value)) for name, value in parts if value or value is False or name == "name"]


class CondaEnv(Env):
    """An environment that conda packages make up; made by `conda_env()`, or by `env(conda_env=...)`.

    Packages of its `pip:` section and pip requirements in `reqs` are installed into it by uv, beside conda's.
    """


@plainly
def env(
    name: str | None = None,
    reqs: Sequence[str | Package | GitPackage] | None = None,
    conda_env: str | Path | Mapping[str, Any] | None = None,
    env_vars: Mapping[str, str] | str | Path | None = None,
    secrets: Sequence[str | Secret] | None = None,
    working_dir: str | Path | None = None,
    setup_cmds: Sequence[str] | str | None = None,
    python: str | None = None,
    compute: Mapping[str, float | str] | None = None,
    base: Env | None = None,
    root_reqs: bool | None = None,
    package_sync: bool | PackageSync | None = None,
    lock: str | Path | None = None,
    install_timeout: float | None = None,
) -> Env:
    """Describe an environment; nothing is sent or installed before `.to(cluster)`.

    Args:
        name: with a name the env is an isolated venv and a process of its own on each cluster it is sent to; without, its
            requirements are added on top of the cluster's default env.
        reqs: what it needs, see `Package.from_string`: requirements, "reqs:./", local folders, wheels, `GitPackage`s. Relative paths start
            from the folder in which this function is called.
        conda_env: makes it a conda environment: the path of an `environment.yml`, its content as a dict, or the name of a
            conda environment of this machine.
        env_vars: environment variables, or the path of a `.env` file. They are set before user code is imported.
        secrets: names of providers ("aws", "huggingface") or `rk.Secret` objects, which come to the env as variables or files.
        working_dir: a folder to sync that becomes the current folder over there; otherwise the package root is.
        setup_cmds: shell commands that run once, after the requirements were installed, with the env's Python first on PATH.
        python: the Python to use, as "3.12" or "3.12.1"; otherwise the minor version that runs here.
        compute: what the env holds for itself: "CPU" and "GPU" (how many), "memory" (bytes, or "2GiB"), custom Ray resources.
        base: an env that this one is made on top of: what it asks for is asked for here too, unless said otherwise.
        root_reqs: whether the requirements.txt of the synced package root is installed too: yes, unless `reqs` is an empty list,
            which means no requirements at all.
        package_sync: replicate the environment that runs here: True, or a `rk.PackageSync`.
        lock: the path of a `pylock.toml` (PEP 751) to install exactly, of `Env.lock` or another tool.
        install_timeout: seconds that the whole set-up may take; what it has started is ended then.

    Raises:
        UsageError: a part is malformed, or names a file or folder that does not exist.

    Example:
        >>> env(name="np_env", reqs=["numpy"], env_vars={"OMP_NUM_THREADS": "4"})
        Env(name='np_env', reqs=['numpy'], env_vars=['OMP_NUM_THREADS'])
    """
    folder = Path.cwd()
    if name is not None:
        check_name("env", name)
    env_file: str | None = None
    variables: Mapping[Any, Any] = {}
    if isinstance(env_vars, (str, os.PathLike)):
        env_file = str(anchored(os.fspath(env_vars), folder))
        _check_variables(read_dotenv(env_file))
    elif isinstance(env_vars, Mapping):
        variables = env_vars
    elif env_vars is not None:
        raise UsageError(f"env_vars is a mapping of names to values, or the path of a .env file, not {_kind(env_vars)}")
    if root_reqs is None:
        root_reqs = reqs is None or len(reqs) > 0
    if not isinstance(root_reqs, bool):
        raise UsageError(f"root_reqs is True or False, not {root_reqs!r}")
    made = Env(
        name=name,
        reqs=_check_reqs(reqs, folder),
        env_vars=_check_variables(variables),
        env_file=env_file,
        working_dir=_check_path("working_dir", working_dir, folder, "a folder", folder=True),
        setup_cmds=_check_commands(setup_cmds),
        python=_check_python(python),
        compute=check_compute(compute),
        root_reqs=root_reqs,
        folder=str(folder),
        conda=as_conda(conda_env, folder),
        secrets=as_secrets(secrets),
        package_sync=as_package_sync(package_sync),
        lock_file=_check_path("lock", lock, folder, "a pylock.toml", folder=False),
        install_timeout=_check_seconds(install_timeout),
    )
    made = in_conda(made if base is None else _on_top(made, base))
    _check_alone(made)
    return made


def _check_alone(made: Env) -> None:
    """See that what says all that an env has is not said twice."""
    whole = [
        (made.conda or made.conda_packages(), "conda_env"),
        (made.package_sync, "package_sync"),
        (made.lock_file, "lock"),
        (made.lock_file and made.reqs, "reqs"),
    ]
    said = [name for value, name in whole if value]
    if len(said) > 1:
        raise UsageError(f"{said[0]} says all that the env has, so it cannot be given with {' and '.join(said[1:])}")


@plainly
def conda_env(
    reqs: Sequence[str | Package] | None = None,
    conda_env: str | Path | Mapping[str, Any] | None = None,
    name: str | None = None,
    **options: Any,
) -> CondaEnv:
    """Describe a conda environment; nothing is sent or installed before `.to(cluster)`. Neither side needs conda.

    Args:
        reqs: what it needs besides: pip requirements, which uv installs into it, and conda packages as "conda:numpy>=1.26".
        conda_env: the path of an `environment.yml` (read now), its content as a dict, or the name or folder of a conda environment
            of this machine, which is copied; without it the environment holds Python and what `reqs` names.
        name: its name on a cluster; otherwise the name in the file or of the local environment, else one made of its content.
        options: what `env` takes besides.

    Raises:
        UsageError: a part is malformed, or names a file, folder or local environment that does not exist.

    Example:
        >>> conda_env(conda_env={"dependencies": ["python=3.10", "numpy"]}, name="np_env")
        CondaEnv(name='np_env', python='3.10', conda_env=<conda: python=3.10, numpy>)
    """
    made = env(name=name, reqs=reqs, conda_env={} if conda_env is None else conda_env, **options)
    assert isinstance(made, CondaEnv)  # a conda_env was given
    return made


def in_conda(made: Env) -> Env:
    """The env, as a CondaEnv where conda packages are asked for, with the name and the Python that follow from them.

    One that has no more than conda packages among its `reqs` stays without a name where it has none: it is added to the default env.
    """
    found = made.conda_packages()
    if found is None:
        return made
    if made.conda is None and made.name is not None:
        made = replace(made, conda=CondaSpec())
    asked = found.python
    if asked is not None:
        _check_python(asked)
        if made.python and not same_python(asked, made.python):
            raise UsageError(f"python={made.python!r} contradicts the conda environment, which asks for Python {asked}")
        asked = max(asked, made.python or "", key=len)
    values = {**{name: getattr(made, name) for name in made.__dataclass_fields__}, "python": asked or made.python}
    if made.name is None and made.conda is not None:
        values["name"] = _conda_name(made, found)
    return CondaEnv(**values)


def _is_conda(package: Package | GitPackage) -> TypeGuard[Package]:
    return isinstance(package, Package) and package.kind == "conda"


def _conda_name(made: Env, found: CondaSpec) -> str:
    """The name of a conda env that was given none: its own, else one that the same content has again."""
    try:
        return check_name("env", found.name)
    except UsageError:
        content = [
            found.specs,
            found.channels,
            found.prefix,
            dict(found.variables),
            [str(one) for one in (*found.pip, *made.reqs)],
        ]
        return f"conda-{digest(content)[:8]}"


def same_python(one: str, other: str) -> bool:
    """Whether two versions of Python agree as far as both of them go."""
    shorter = min(one.count("."), other.count(".")) + 1
    return one.split(".")[:shorter] == other.split(".")[:shorter]


def _on_top(made: Env, base: Env) -> Env:
    """What is asked for, with what `base` asks for."""
    if not isinstance(base, Env):
        raise UsageError(f"base is an Env (see rk.env), not {_kind(base)}")
    return replace(
        made,
        reqs=tuple(dict.fromkeys(base.reqs + made.reqs)),
        env_vars={**base.env_vars, **made.env_vars},
        env_file=made.env_file or base.env_file,
        working_dir=made.working_dir or base.working_dir,
        setup_cmds=base.setup_cmds + made.setup_cmds,
        python=made.python or (made.conda and made.conda.python) or base.python,
        compute={**base.compute, **made.compute},
        root_reqs=made.root_reqs and base.root_reqs,
        conda=made.conda or base.conda,
        secrets=merged(base.secrets, made.secrets),
        package_sync=made.package_sync or base.package_sync,
        lock_file=made.lock_file or base.lock_file,
        install_timeout=made.install_timeout or base.install_timeout,
    )


def as_env(value: Env | Sequence[str | Package | GitPackage] | None) -> Env:
    """The env that an `env=` argument means: an Env, a plain list of requirements, or None for the default env.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(value, Env):
        return value
    return env(reqs=value)


def _check_reqs(reqs: Any, base: Path) -> tuple[Package | GitPackage, ...]:
    if reqs is None:
        return ()
    one = (str, Package, GitPackage)
    if isinstance(reqs, one) or not isinstance(reqs, Sequence):
        shown = f": write reqs=[{_shown(reqs)}]" if isinstance(reqs, one) else f", not {_kind(reqs)}"
        raise UsageError(f"reqs is a list of requirements{shown}")
    packages = (Package, GitPackage)
    return tuple(package if isinstance(package, packages) else Package.from_string(package, base) for package in reqs)


def _shown(reqs: Any) -> str:
    return repr(without_credentials(reqs) if isinstance(reqs, str) else reqs)


def _check_variables(variables: Mapping[Any, Any]) -> dict[str, str]:
    for name, value in variables.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise UsageError(f"{name!r} cannot be the name of an environment variable: use letters, digits and '_'")
        if isinstance(value, Secret):
            raise UsageError(
                f"{name}: a secret is no part of env_vars, which are kept on the host: give it as secrets=[...]"
            )
        if not isinstance(value, str):
            raise UsageError(f"the environment variable {name} must be a string, not {_kind(value)}")
        if "\0" in value:
            raise UsageError(f"the environment variable {name} has a NUL character in its value")
    return dict(variables)


def _check_path(name: str, given: Any, base: Path, what: str, folder: bool) -> str | None:
    """The absolute path that an argument names: of a folder or of a file, which is `what`."""
    if given is None:
        return None
    if not isinstance(given, (str, os.PathLike)):
        raise UsageError(f"{name} is the path of {what}, not {_kind(given)}")
    found = anchored(os.fspath(given), base)
    if not (found.is_dir() if folder else found.is_file()):
        raise UsageError(f"{name}={os.fspath(given)!r}: there is no {'folder' if folder else 'file'} {found}")
    return str(found)


def _check_commands(commands: Any) -> tuple[str, ...]:
    if commands is None:
        return ()
    listed = [commands] if isinstance(commands, str) else commands
    if not isinstance(listed, Sequence) or not all(isinstance(command, str) and command.strip() for command in listed):
        raise UsageError(f"setup_cmds is a list of shell commands, not {commands!r}")
    return tuple(listed)


def _check_python(python: Any) -> str | None:
    if python is None:
        return None
    found = _PYTHON.fullmatch(python) if isinstance(python, str) else None
    if not found:
        hint = " (a string: the number 3.10 would be 3.1)" if isinstance(python, float) else ""
        raise UsageError(f'python={python!r} is no version of Python: write it as "3.12" or "3.12.1"{hint}')
    if (3, int(found[1])) < OLDEST_PYTHON:
        raise UsageError(f"python={python!r} is too old: the oldest is {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]}")
    return str(python)


def _check_seconds(seconds: Any) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e8:
        raise UsageError(f"install_timeout is a number of seconds above 0, not {seconds!r}")
    return float(seconds)


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {value!r}" if isinstance(value, (int, float, bool, str)) else type(value).__name__
