"""A request: what a user asked an env to be, in a form that can be compared, kept on the host and built from again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from runkit.model.digest import digest
from runkit.model.requirements import FILE, GIT, TREE, Requirements

_CONTENT = re.compile(rf"({TREE}|{GIT})[^/]*/(?:(?:local|reqs):)?(?P<name>[\w.-]+)(?P<extras>\[[^\]]*\])?")
"""A requirement line that names a source tree or a commit by its content."""


@dataclass(frozen=True)
class EnvRequest:
    """One env, asked for.

    Attributes:
        name: the env's name on the cluster.
        lines: requirement lines, without credentials.
        constraints: lines that limit versions.
        python: "3.12" or "3.12.1".
        python_asked: whether the user named that version; otherwise it is the client's own, and another one will do.
        setup_cmds: shell commands.
        env_vars: environment variables.
        compute: resources.
        working_dir: the id of the root that is the current folder over there, or None.
        indexes: a digest of the index settings that the requirements are resolved with.
        conda: what the conda environment it lives in is asked to be, as JSON; None for a venv.
        secrets: names of its secrets, each with a fingerprint of its value that only this cluster's token can make.
        sync: how strictly the local environment is replicated ("near", "strict", "as-is"); "" if it is not.
        of_roots: what the requirements.txt of each package root it was sent for adds to `lines` and `constraints`.
        folders: the ids of the roots that every call in it has on its `sys.path`.
        alias: of the cluster's default env the name that the user gave it.
        base: of the default env the digest of what the cluster was given as its default env; unnamed envs that were added on top of
            it leave that as it is.
    """

    name: str
    lines: tuple[str, ...]
    constraints: tuple[str, ...]
    python: str
    python_asked: bool
    setup_cmds: tuple[str, ...]
    env_vars: Mapping[str, str]
    compute: Mapping[str, float]
    working_dir: str | None
    indexes: str
    conda: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    sync: str = ""
    of_roots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    alias: str = ""
    base: str = ""

    @property
    def resolution(self) -> str:
        """Names what decides which packages there are: with the same, the env's lock is kept."""
        return digest([self.lines, self.constraints, self.python, self.indexes, self.conda, self.sync])

    @property
    def variables(self) -> str:
        """Names the environment variables: a change of them costs a new worker, and a new build only where set-up commands see them."""
        return digest(dict(self.env_vars))

    @property
    def digest(self) -> str:
        """Names the whole request: the same digest means nothing to do."""
        parts = {**asdict(self), "env_vars": self.variables}
        return digest(parts)

    def to_spec(self) -> dict[str, Any]:
        """The request as JSON."""
        return {**asdict(self), "env_vars": dict(self.env_vars), "compute": dict(self.compute), "digest": self.digest}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> EnvRequest:
        """Read what `to_spec` wrote; unknown entries are left aside, as a later version may have written it."""
        known = {name: spec[name] for name in cls.__dataclass_fields__ if name in spec}
        lists = ("lines", "constraints", "setup_cmds", "folders")
        return cls(**{**known, **{name: tuple(known.get(name) or ()) for name in lists}})

    def on_top_of(self, kept: EnvRequest) -> EnvRequest:
        """This request added to what an env is asked to be already (its `lines` are merged before, see `merge`)."""
        return replace(
            self,
            name=kept.name,
            python=kept.python,
            python_asked=kept.python_asked,
            setup_cmds=kept.setup_cmds
            + tuple(command for command in self.setup_cmds if command not in kept.setup_cmds),
            env_vars={**kept.env_vars, **self.env_vars},
            compute={**kept.compute, **self.compute},
            working_dir=self.working_dir or kept.working_dir,
            conda=self.conda or kept.conda,
            secrets={**kept.secrets, **self.secrets},
            sync=self.sync or kept.sync,
            indexes=self.indexes if set(self.lines) - set(kept.lines) else kept.indexes,
            folders=tuple(dict.fromkeys(kept.folders + self.folders)),
            alias=kept.alias,
            base=kept.base,
        )

    def as_default(self, alias: str) -> EnvRequest:
        """This request as the cluster's default env, of that name."""
        named = replace(self, alias=alias)
        # Another value of a secret does not make it another env.
        return replace(named, base=replace(named, secrets=dict.fromkeys(named.secrets, "")).digest)


def merge(kept: Requirements, added: Requirements, installed: Mapping[str, str]) -> Requirements:
    """Requirements added to those an env has, as `pip install` into it would mean them.

    A requirement that the installed version satisfies changes nothing; one that it does not takes the place of the older
    requirement for that package.

    Args:
        kept: what was asked for so far.
        added: what is asked for in addition.
        installed: the versions in the env, by normalised name.
    """
    older = {name: line for line in kept.lines if (name := _name(line))}
    ours = [(line, _name(line), origin) for line, origin in zip(added.lines, added.origins, strict=True)]
    # One that is not satisfied has all that is added for its package count: what they contradict is theirs to tell.
    changed = {
        name
        for line, name, _ in ours
        if name in older and line not in kept.lines and not _satisfied(line, older[name], installed)
    }
    origins = kept.origins or ("the env so far",) * len(kept.lines)
    lines = {line: origin for line, origin in zip(kept.lines, origins, strict=True) if _name(line) not in changed}
    for line, name, origin in ours:
        if name not in older or name in changed:
            lines.setdefault(line, origin)
    return Requirements(
        tuple(lines),
        tuple(dict.fromkeys(kept.constraints + added.constraints)),
        added.folders,
        {**kept.files, **added.files},
        tuple(lines.values()),
        added.notes,
        {**kept.trees, **added.trees},
        {**kept.gits, **added.gits},
    )


def _name(line: str) -> str | None:
    if line.startswith(FILE):
        return canonicalize_name(re.split(r"-(?=\d)", line.split("/")[2])[0])
    if named := _CONTENT.match(line):
        return canonicalize_name(named["name"])
    parsed = _parse(line)
    return canonicalize_name(parsed.name) if parsed else None


def _parse(line: str) -> Requirement | None:
    try:
        return Requirement(line.split(" --hash")[0])
    except InvalidRequirement:
        return None


def _satisfied(line: str, older: str, installed: Mapping[str, str]) -> bool:
    wanted, present = _parse(line), _parse(older)
    if content := _CONTENT.match(older):  # what was installed from there is the package
        present = Requirement(content["name"] + (content["extras"] or ""))
    if "--hash" in line or wanted is None or present is None or wanted.url or wanted.marker:
        return False
    version = installed.get(canonicalize_name(wanted.name))
    return (
        version is not None and wanted.extras <= present.extras and wanted.specifier.contains(version, prereleases=True)
    )
