"""What an interpreter knows about itself. Another is asked by running this very file in it.

So it needs Python 3.7 or later and nothing of runkit.
"""

from __future__ import annotations

import json
import os
import site
import sys
import sysconfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def facts() -> dict[str, Any]:
    """The interpreter's version, places and `sys.path`, as JSON has them."""
    try:
        here = os.getcwd()
    except OSError:  # the folder was removed
        here = ""
    folders = list(getattr(site, "getsitepackages", list)())  # virtualenv before 20 had a site of its own, without it
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    given = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return {
        "python": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "executable": sys.executable or "",
        "prefix": sys.prefix,
        "base": getattr(sys, "real_prefix", None) or sys.base_prefix,  # real_prefix: virtualenv before 20
        "platform": sysconfig.get_platform(),
        "path": [one for one in sys.path if isinstance(one, str)],
        "cwd": here,
        "pythonpath": given.split(os.pathsep) if given else [],
        "site": folders,
        "stdlib": os.path.dirname(os.__file__),
    }


if __name__ == "__main__":
    print(json.dumps(facts()))  # noqa: T201  (its answer)
