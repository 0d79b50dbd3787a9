"""The exact files of a plan: as the plan asks for them, and where that cannot be had, as near as its levels allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runkit.client import torch
from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact, Lock, Locked, version_of
from runkit.client.progress import Report
from runkit.client.replicate import levels
from runkit.client.replicate.known import Pins, consistent
from runkit.client.replicate.plan import GIVEN, LEFT_OUT, Plan, Planned
from runkit.client.resolve import resolve
from runkit.client.uvtool import index_settings
from runkit.errors import ResolutionFailed, SyncRefused
from runkit.model.package_sync import AS_IS
from runkit.model.requirements import FILE, Requirements

_TOLD = 20
"""How many deviations are told one by one."""


class Solver:
    """Resolves the requirements of an env that replicates the local environment; stands in for `resolve`.

    Args:
        plan: what was planned.
        progress: told what could not be had as it is here.

    Attributes:
        plan: with the versions over there, once they are known.
        progress: may be replaced.
    """

    def __init__(self, plan: Plan, progress: Report = lambda event: None) -> None:
        self.plan = plan
        self.progress = progress
        self._entries = {entry.line: entry for entry in plan.entries if entry.from_index}
        self._builds = _torch_builds(plan)
        self._why: dict[str, str] = {}
        self._options: list[str] = ["--no-deps"] if plan.sync.strict == AS_IS else []

    def __call__(
        self,
        requirements: Requirements,
        target: Platform,
        *,
        cwd: str | Path = ".",
        prefer: Sequence[Sequence[str]] = (),
        cache: Path | None = None,
        upgrade: bool = False,
        **more: Any,
    ) -> Lock:
        """Find the files; arguments as for `resolve`. `upgrade` means to look anew: the versions are the local ones in any case.

        Raises:
            SyncRefused: a critical package cannot match; or something deviates, and the plan is strict.
            ResolutionFailed: a package is not to be had; or the local environment contradicts itself, and nothing near it does not.
        """
        here = {entry.name: entry.version for entry in self._entries.values()}
        liked = [[name, version] for name, version in here.items()]
        liked += [[name, version] for name, version in prefer if name not in here]

        def look(wanted: Requirements, *options: str) -> Lock:
            kept = None if upgrade else cache
            # PyTorch comes in the build for the host's GPU or its lack, unless it is to be exactly the one that is here.
            exactly = self.plan.sync.strict or self._builds
            return resolve(
                wanted,
                replace(target, driver=None) if exactly else target,
                cwd=cwd,
                prefer=liked,
                cache=kept,
                options=tuple(dict.fromkeys((*self._options, *options))),
                **more,
            )

        settings = [index_settings(cwd), self.plan.sync.level, str(target.driver), *self._options]
        pins = Pins(None if upgrade else cache, target, settings)
        lock = self._known(requirements, target, pins, look)
        if lock is None:
            lock = self._solve(requirements, look, cwd)
            pins.keep(lock.packages)
        self.plan = replace(self.plan, target=target).solved(lock, self._why)
        self._tell()
        return lock

    def _known(self, wanted: Requirements, target: Platform, pins: Pins, look: Callable[..., Lock]) -> Lock | None:
        """The lock, where nothing has to be solved: exact versions, which suit each other here, in files that are mostly known."""
        entries = {entry.line: entry for entry in self.plan.entries if entry.line}
        asked = [entries.get(line) for line in wanted.lines]
        if wanted.constraints or not all(entry is not None and entry.is_exact for entry in asked):
            return None
        found = {line: _of_file(entries[line]) or pins.find(line) for line in wanted.lines}
        unknown = [line for line, package in found.items() if package is None]
        if 4 * len(unknown) > len(found):
            return None
        versions = {entry.name: entry.version for entry in asked if entry is not None}
        if self.plan.sync.strict != AS_IS and not consistent(versions, self.plan.requires, target):
            return None
        packages = [package for package in found.values() if package is not None]
        if unknown:
            origins = ("the local environment",) * len(unknown)
            try:
                more = look(replace(wanted, lines=tuple(unknown), origins=origins), "--no-deps").packages
            except ResolutionFailed:
                return None
            pins.keep(more)
            packages += more
        return Lock(target.python, target.uv_platform, tuple(sorted(packages, key=lambda package: package.name)))

    def _solve(self, wanted: Requirements, look: Callable[..., Lock], cwd: str | Path) -> Lock:
        try:
            return look(wanted)
        except ResolutionFailed as error:
            refused = error
        if self._builds and not _has_own_index(wanted, cwd) and not _exists(list(self._builds), wanted, look):
            # The indexes that are configured were asked first, and what failed is that they lack this build.
            self._options += ["--torch-backend", next(iter(self._builds.values()))]
            try:
                return look(wanted)
            except ResolutionFailed as error:
                refused = error
        available = self._without_missing(wanted, look)
        if available != wanted:
            wanted = available
            try:
                return look(wanted)
            except ResolutionFailed as error:
                refused = error
        relaxed = {
            entry.line: levels.series(entry.version) for entry in self._entries.values() if entry.level == "exact"
        }
        wanted = _with_lines(wanted, {line: f"{self._entries[line].name}{spec}" for line, spec in relaxed.items()})
        for line in relaxed:
            self._why.setdefault(self._entries[line].name, "the local environment contradicts itself")
        try:
            return look(wanted)
        except ResolutionFailed:
            raise self._explained(refused) from None

    def _without_missing(self, wanted: Requirements, look: Callable[..., Lock]) -> Requirements:
        """Give what exists nowhere for the target in its version another one of its series, or none where that is right."""
        asked = [line for line in wanted.lines if line in self._entries]

        def exists(lines: Sequence[str]) -> bool:
            return _exists(lines, wanted, look)

        replaced: dict[str, str] = {}
        problems: list[str] = []
        gone: dict[str, str] = {}
        for line in _missing(asked, exists):
            entry = self._entries[line]
            why = f"no index has a file of {entry.name} {entry.version} for {self.plan.where}"
            near = f"{entry.name}{levels.series(entry.version)}"
            if entry.level == "critical":
                problems.append(f"{entry.name} {entry.version} is critical, and {why}")
            elif entry.level != AS_IS and near != line and exists([near]):
                replaced[line] = near
                self._why[entry.name] = why
            elif not entry.portable and not self.plan.same_platform:
                replaced[line] = ""
                gone[entry.name] = (
                    "what is installed here is for another platform, and it has no file for the one over there"
                )
            elif entry.of_conda:
                replaced[line] = ""
                gone[entry.name] = "it came from conda, and no index has it"
            else:
                problems.append(f"{why}: ignore it, or say in the env's reqs where it comes from")
        if problems:
            listed = "\n".join(f"  {problem}" for problem in problems)
            raise SyncRefused(f"the local environment cannot be replicated:\n{listed}")
        entries = (
            replace(entry, level=LEFT_OUT, why=gone[entry.name]) if entry.name in gone else entry
            for entry in self.plan.entries
        )
        self.plan = replace(self.plan, entries=tuple(entries))
        return _with_lines(wanted, replaced)

    def _explained(self, error: ResolutionFailed) -> ResolutionFailed | SyncRefused:
        said = error.output or str(error)
        versions = {entry.name: entry.version for entry in self.plan.entries if entry.line}
        if not consistent(versions, self.plan.requires, self.plan.target):
            text = 'the local environment cannot be solved for {}; PackageSync(strict="as-is") replicates it as it is'
        elif any(entry.level in ("extra", GIVEN) for entry in self.plan.entries):
            text = "the local environment and what is added to it (extras, reqs) cannot be solved together for {}"
        else:
            text = "the local environment cannot be solved for {}"
        text = f"{text.format(self.plan.where)}.\n{said}"
        if self.plan.sync.strict is True:
            return SyncRefused(text, said)
        return type(error)(text, output=said)

    def _tell(self) -> None:
        critical = {*levels.CRITICAL, *self.plan.sync.critical}
        wrong = [entry for entry in self.plan.entries if entry.name in critical and entry.differs]
        if wrong:
            listed = "\n".join(
                f"  {one.name} {one.version} is critical, and {one.there or 'not'} there" for one in wrong
            )
            raise SyncRefused(f"the local environment cannot be replicated:\n{listed}")
        found = self.plan.deviations()
        if found and self.plan.sync.strict is True:
            listed = "\n".join(f"  {one}" for one in found)
            raise SyncRefused(f"the local environment cannot be replicated exactly:\n{listed}")
        for text in (*self.plan.notes, *found[:_TOLD]):
            self.progress({"warning": text})
        if len(found) > _TOLD:
            self.progress({"warning": f"{len(found) - _TOLD} more packages differ: `runkit sync plan` lists them"})


def _of_file(entry: Planned) -> Locked | None:
    """What a wheel of this machine comes to."""
    if entry.local is None or not entry.line.startswith(FILE):
        return None
    sha256, path = entry.local
    artifact = Artifact(Path(path).name, sha256, None, path, Path(path).stat().st_size)
    return Locked(entry.name, version_of(artifact, entry.version), artifact)


def _missing(lines: Sequence[str], exists: Callable[[Sequence[str]], bool]) -> list[str]:
    """The lines that cannot be had, found by halving: each on its own takes no notice of the others."""
    if not lines or exists(lines):
        return []
    if len(lines) == 1:
        return list(lines)
    half = len(lines) // 2
    return _missing(lines[:half], exists) + _missing(lines[half:], exists)


def _with_lines(wanted: Requirements, replaced: Mapping[str, str]) -> Requirements:
    """The requirements with other lines; an empty one takes the line out."""
    pairs = zip(wanted.lines, wanted.origins, strict=True)
    kept = [(replaced.get(line, line), origin) for line, origin in pairs]
    kept = [(line, origin) for line, origin in kept if line]
    return replace(wanted, lines=tuple(line for line, _ in kept), origins=tuple(origin for _, origin in kept))


def _exists(lines: Sequence[str], wanted: Requirements, look: Callable[..., Lock]) -> bool:
    """Whether each of these has a file for the target, whatever it needs; asked of the indexes that the requirements name."""
    settings = tuple(line for line in wanted.lines if line.startswith("-"))
    try:
        look(Requirements((*settings, *lines), origins=("",) * (len(settings) + len(lines))), "--no-deps")
    except ResolutionFailed:
        return False
    return True


def _torch_builds(plan: Plan) -> dict[str, str]:
    """The lines that ask for one build of torch or a relative of it, with uv's name for its backend: it knows the index."""
    return {
        entry.line: backend
        for entry in plan.entries
        if "+" in entry.line and entry.name.startswith("torch") and (backend := levels.torch_backend(entry.version))
    }


def _has_own_index(wanted: Requirements, cwd: str | Path) -> bool:
    """Whether the user has chosen where PyTorch comes from: it is asked for nowhere else then."""
    return torch.names_own_index(wanted.lines) or torch.backend("", cwd) is None
