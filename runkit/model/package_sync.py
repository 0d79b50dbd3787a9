"""How the local environment is to be replicated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from packaging.utils import canonicalize_name

from runkit.errors import UsageError
from runkit.model.git_package import GitPackage
from runkit.model.mistakes import plainly
from runkit.model.package import Package

AS_IS = "as-is"


@dataclass(frozen=True)
class PackageSync:
    """How strictly the environment that runs here is replicated, and what is left out or added.

    Attributes:
        strict: False: critical packages match exactly, the others as nearly as the cluster's platform allows, and what differs is
            reported. True: whatever would differ is an error that lists it all. "as-is": exactly the versions that are here,
            also where they contradict each other.
        ignore: names of packages that are not replicated; one that another package needs comes back in, in any version.
        only: names of the packages to replicate, with what they need; empty for all.
        extras: packages for the cluster alone, as an env's `reqs` name them.
        critical: names of packages that match exactly or the env is refused, besides cloudpickle.

    Raises:
        UsageError: a part is malformed.

    Example:
        >>> PackageSync(ignore=["jupyter"], extras=["nvidia-ml-py"])
        PackageSync(ignore=['jupyter'], extras=['nvidia-ml-py'])
    """

    strict: bool | str = False
    ignore: Sequence[str] = ()
    only: Sequence[str] = ()
    extras: Sequence[Any] = ()
    critical: Sequence[str] = ()

    @plainly
    def __post_init__(self) -> None:
        if self.strict not in (True, False, AS_IS):
            raise UsageError(f'strict is True, False or "{AS_IS}", not {self.strict!r}')
        for name in ("ignore", "only", "critical"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        if both := set(self.ignore) & {*self.only, *self.critical}:
            raise UsageError(f"package_sync ignores {', '.join(sorted(both))}, and asks for it as well")
        extras = _listed("extras", self.extras)
        packages = tuple(one if isinstance(one, (Package, GitPackage)) else Package.from_string(one) for one in extras)
        for one in packages:
            if isinstance(one, Package) and one.kind == "conda":
                raise UsageError(f"package_sync makes no conda environment, which {str(one)!r} is for")
        object.__setattr__(self, "extras", packages)

    @property
    def level(self) -> str:
        """The strictness as one word: "near", "strict" or "as-is"."""
        return AS_IS if self.strict == AS_IS else "strict" if self.strict else "near"

    def __repr__(self) -> str:
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        shown = {
            name: [str(part) for part in value] if isinstance(value, tuple) else value for name, value in given.items()
        }
        return f"PackageSync({', '.join(f'{name}={value!r}' for name, value in shown.items() if value)})"


def as_package_sync(given: Any) -> PackageSync | None:
    """What a `package_sync=` argument means: True for the defaults, None and False for none.

    Raises:
        UsageError: it is neither, nor a PackageSync.
    """
    if given is None or given is False:
        return None
    if given is True:
        return PackageSync()
    if isinstance(given, PackageSync):
        return given
    raise UsageError(f"package_sync is True or a rk.PackageSync, not {given!r}")


def _names(what: str, given: Any) -> tuple[str, ...]:
    for name in (listed := _listed(what, given)):
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"package_sync's {what} is a list of names of packages, not {given!r}")
    return tuple(dict.fromkeys(str(canonicalize_name(name.strip())) for name in listed))


def _listed(what: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, (Sequence, set, frozenset)):
        raise UsageError(f"package_sync's {what} is a list, not {given!r}")
    return tuple(given)
