"""`runkit sync scan`: what is installed and importable here, as an env that replicates it would have it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from runkit.cli import sync_plan

if TYPE_CHECKING:
    from runkit.client.scan.model import Distribution, LocalEnvironment

_MODULES = 6  # of an import root, in the table


def add_to(commands: Any) -> None:
    """Add `sync` and its actions to the command line's parser."""
    sync = commands.add_parser(
        "sync",
        help="the local environment, as an env that replicates it has it",
        description="What an env made with package_sync=True is made from.",
    )
    actions = sync.add_subparsers(title="actions", required=True, metavar="ACTION")
    text = "what is installed and importable"
    found = actions.add_parser("scan", help=text, description=f"{text[0].upper()}{text[1:]}; nothing is changed.")
    found.add_argument("--json", action="store_true", help="as JSON, with everything there is")
    add_python(found)
    found.set_defaults(run=scan)
    sync_plan.add_to(actions, add_python)


def add_python(parser: Any) -> None:
    """Which interpreter's environment is meant."""
    parser.add_argument(
        "--python",
        metavar="PATH",
        help="another interpreter, or the folder of its environment (default: the Python that runs this command)",
    )


def scan(given: Namespace) -> int:
    """Print what is there."""
    from runkit.client.scan import scan as look  # noqa: PLC0415  (`runkit server …` needs none of the client)

    found = look(given.python)
    print(json.dumps(found.as_json(), indent=2) if given.json else "\n".join(describe(found)))
    return 0


def describe(found: LocalEnvironment) -> list[str]:
    """A scan for people."""
    lines = [
        f"Python {found.python} ({found.implementation}, {found.platform}), {found.kind} {found.prefix}",
        "",
        *table(
            ("distribution", "version", "source", "installer", "from"),
            ((one.name, _version(one), one.source, one.installer or "?", _origin(one)) for one in found.distributions),
        ),
    ]
    others = [one for one in found.conda if not one.distributions]
    if others:
        rows = ((one.name, one.version, one.build, one.channel) for one in others)
        lines += ["", *table(("conda package without Python part", "version", "build", "channel"), rows)]
    code = [(one.path, one.kind, one.owner or "-", _some(one.modules)) for one in found.roots]
    for distribution in found.distributions:
        code += [(place, "editable", distribution.name, name) for name, place in distribution.mapping.items()]
    if code:
        lines += ["", *table(("code imported from", "by", "belongs to", "modules"), code)]
    if found.notes:
        lines += ["", "notes", *(f"  {one.about}: {one.text}" for one in found.notes)]
    return lines


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Left-aligned columns, two spaces apart."""
    cells = [headings, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in cells]


def _version(one: Distribution) -> str:
    return one.version if one.standard else f"{one.version or '-'} (not PEP 440)"


def _origin(one: Distribution) -> str:
    if one.editable:
        return one.editable
    if one.conda:
        return f"{one.conda['channel']} {one.conda['build']}"
    if one.direct_url and one.source != "index":
        commit = (one.direct_url.get("vcs_info") or {}).get("commit_id")
        inside = one.direct_url.get("subdirectory")
        return f"{one.direct_url['url']}{f'@{commit}' if commit else ''}{f'#subdirectory={inside}' if inside else ''}"
    return ""


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MODULES
    return ", ".join(names[:_MODULES]) + (f" and {more} more" if more > 0 else "")
