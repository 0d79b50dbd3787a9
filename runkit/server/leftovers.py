"""What a server of this port that could not end its own left behind: its Ray, its workers, what they started, files of secrets."""

from __future__ import annotations

from collections.abc import Callable

from runkit.server.settings import Settings
from runkit.servlet.processes import ProcessId, end, marked, of_session
from runkit.servlet.secrets import remove_all


def end_leftovers(settings: Settings, head: ProcessId | None, say: Callable[[str], None] = lambda text: None) -> bool:
    """End it, and nothing else; False if there is nothing.

    Args:
        settings: of the server.
        head: the process that held its Ray, running or not; None if that is not known.
        say: told what is ended.
    """
    found = False
    for gently in (1.0, 0.5):  # what is being ended may have started something in the last moment
        left = marked(settings.mark)
        if head is not None:
            left += of_session(head, f"RAY_AUTH_TOKEN_PATH={settings.ray_token}")
        if not left:
            break
        found = True
        say(f"end what an earlier server left: {', '.join(sorted(one.name() for one in left))}")
        end(left, gently)
    remove_all(settings.runtime)
    return found
