"""What an `env=` argument takes, and which Python runs here."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from runkit.model.env import Env
from runkit.model.git_package import GitPackage
from runkit.model.package import Package

EnvLike = Env | Sequence[str | Package | GitPackage] | str | None
"""An Env, a plain list of requirements for the default env, the name of an env that is there, or nothing."""

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
"""The minor version of Python that runs here."""
