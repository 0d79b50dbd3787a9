"""Whether something can be imported in an env, and from where; called over there before code that is installed is relied on."""

from __future__ import annotations

import importlib


def find(module: str, qualname: str) -> dict[str, str]:
    """Import a module and look a name up in it.

    Returns:
        {"file": the module's} if it is there, {"missing": what is not} if not, {"broken": why} where the import itself fails.
    """
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return {"missing": f"the module {module!r}"}
        return {"broken": f"{type(error).__name__}: {error}"}
    except Exception as error:  # whatever a module's own code raises
        return {"broken": f"{type(error).__name__}: {error}"}
    thing = found
    for part in qualname.split("."):
        if not hasattr(thing, part):
            return {"missing": f"{qualname!r} in its module {module!r}"}
        thing = getattr(thing, part)
    return {"file": str(getattr(found, "__file__", ""))}
