"""Errors as users want to see them: from their own line straight to what went wrong, without the way through runkit."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from runkit.errors import RunkitError

_RAISED = (RunkitError, KeyError, FileNotFoundError)
"""What runkit raises knowingly; anything else that comes from within it is a fault of its own."""
FROM_AFAR = "raised on cluster"
"""How the note of an error that came from remote code begins."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def plainly(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """For functions that users call: what they raise knowingly carries no frames of runkit's own.

    Remote frames and those of the user's code stay. With RUNKIT_LOG=debug nothing is left out, nor where runkit itself fails.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if os.environ.get("RUNKIT_LOG", "").lower() == "debug":
                raise
            frames, known = _frames(error.__traceback__)
            if not (known or isinstance(error, _RAISED) or _of_the_call(error)):
                raise
            error.__traceback__ = _chain(frames)
            for earlier in _earlier(error):
                earlier.__traceback__ = _chain(_frames(earlier.__traceback__)[0])
            raise

    return call


def _of_the_call(error: Exception) -> bool:
    """Whether the arguments were wrong: of the remote function, which then has no frame over there, or of the one called here."""
    if any(str(note).startswith(FROM_AFAR) for note in getattr(error, "__notes__", ())):
        return True
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


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
