"""Set-ups that end before their time: at their deadline, kept on the host as well as its client may have gone; in a queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from runkit.wire import problems
from runkit.wire.installers import took_too_long


async def in_time(
    events: AsyncIterator[dict[str, Any]], env: str, deadline: Mapping[str, float] | None, given_up: asyncio.Event
) -> AsyncIterator[dict[str, Any]]:
    """The events of a set-up; once its time is up it is given up, and its error says so.

    Args:
        events: of `Envs.install`.
        env: the env's name.
        deadline: {seconds: of the whole set-up, left: of these now}, or None.
        given_up: ends the set-up when it is set.
    """
    if not deadline:
        async for event in events:
            yield event
        return
    phase, since, late = "start", time.monotonic(), False

    def expire() -> None:
        nonlocal late
        late = True
        given_up.set()

    timer = asyncio.get_running_loop().call_later(float(deadline["left"]), expire)
    try:
        async for event in events:
            if "phase" in event and event["phase"] != phase:
                phase, since = event["phase"], time.monotonic()
            if late and "error" in event:
                spent = time.monotonic() - since
                error = took_too_long(env, float(deadline["seconds"]), phase, spent, ended=bool(event.get("ended")))
                event = {"error": problems.to_json(error)}
            yield event
    finally:
        timer.cancel()


async def turn(lock: asyncio.Lock, given_up: asyncio.Event) -> bool:
    """Take a lock as soon as it is free, and give True; False where that is given up before."""
    taken, gone = (asyncio.ensure_future(one) for one in (lock.acquire(), given_up.wait()))
    try:
        await asyncio.wait({taken, gone}, return_when="FIRST_COMPLETED")
        return taken.done()
    except BaseException:
        if taken.done():
            lock.release()
        raise
    finally:
        taken.cancel()
        gone.cancel()


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when="FIRST_COMPLETED")
    finally:
        for wait in waits:
            wait.cancel()
