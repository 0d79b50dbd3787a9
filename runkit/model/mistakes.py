"""Errors as users want to see them: from their own line straight to what went wrong, without the way through runkit."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable
from typing import TypeVar

from runkit.errors import RunkitError

_RAISED = (RunkitError, KeyError, FileNotFoundError)
"""What runkit raises knowingly; anything else that comes from within it is a fault of its own."""
FROM_AFAR = "raised on cluster"
"""How the note of an error that came from remote code begins."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ParamSpec  # since Python 3.10; remote code may run on an older one

    _P = ParamSpec("_P")
_E = TypeVar("_E", bound=Exception)
_T = TypeVar("_T")
_STANDARD = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "")
_OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def plainly(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """For functions that users call: what they raise knowingly carries no frames of runkit's own.

    Remote frames and those of the user's code stay. With RUNKIT_LOG=debug nothing is left out, nor where runkit itself fails.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("RUNKIT_LOG", "").lower() == "debug":
                raise
            frames, known = _frames(error.__traceback__)
            if isinstance(error, KeyboardInterrupt):  # where runkit waited tells nobody anything
                frames = [one for one in frames if not _waits(one)]
            elif not (known or isinstance(error, _RAISED) or _of_the_call(error)):
                raise
            error.__traceback__ = _chain(frames)
            for earlier in _earlier(error):
                earlier.__traceback__ = _chain(_frames(earlier.__traceback__)[0])
            raise

    return call


def mistake(error: _E) -> _E:
    """The error, raised knowingly although it is of a type that could as well be a fault of runkit's own."""
    error.__dict__["_runkit_mistake"] = True
    return error


def _of_the_call(error: Exception) -> bool:
    """Whether the arguments were wrong: of the remote function, which then has no frame over there, or of the one called here."""
    if "_runkit_mistake" in error.__dict__:
        return True
    if any(str(note).startswith(FROM_AFAR) for note in getattr(error, "__notes__", ())):
        return True
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


def _waits(traceback: types.TracebackType) -> bool:
    """Whether a frame is of a library, which runkit was in when somebody pressed Ctrl-C."""
    file = traceback.tb_frame.f_code.co_filename
    return file.startswith((_STANDARD, "<frozen")) or f"{os.sep}site-packages{os.sep}" in file


def _frames(traceback: types.TracebackType | None) -> tuple[list[types.TracebackType], bool]:
    """The frames that are not runkit's own, and whether the innermost is one of them."""
    kept, foreign = [], False
    while traceback is not None:
        foreign = not traceback.tb_frame.f_code.co_filename.startswith(_OWN)
        if foreign:
            kept.append(traceback)
        traceback = traceback.tb_next
    return kept, foreign


def _chain(frames: list[types.TracebackType]) -> types.TracebackType | None:
    following = None
    for one in reversed(frames):
        following = types.TracebackType(following, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return following


def _earlier(error: BaseException) -> list[BaseException]:
    """What led to the error: causes and contexts, each once."""
    found: list[BaseException] = []
    todo = [error.__cause__, error.__context__]
    while todo:
        one = todo.pop()
        if one is not None and one is not error and one not in found:
            found.append(one)
            todo += [one.__cause__, one.__context__]
    return found
