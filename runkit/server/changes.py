"""Changes of envs: one of an env at a time, and each can be given up while it waits or is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

GIVE_UP_SECONDS = 10.0
"""How long what is being built may take to end."""


class Changes:
    """What is being made of the envs of one server, by their names."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._wanted: dict[str, set[asyncio.Event]] = {}

    def lock(self, name: str) -> asyncio.Lock:
        """One change of an env at a time, from before it exists."""
        return self._locks.setdefault(name, asyncio.Lock())

    @contextmanager
    def noted(self, name: str, given_up: asyncio.Event) -> Iterator[None]:
        """What is being made of the env, so that it can be given up."""
        wanted = self._wanted.setdefault(name, set())
        wanted.add(given_up)
        try:
            yield
        finally:
            wanted.discard(given_up)

    def under_way(self, name: str) -> bool:
        """Whether something is being made of the env, or waits for its turn."""
        return bool(self._wanted.get(name))

    def names(self) -> list[str]:
        """The envs of which something is being made."""
        return sorted(name for name, wanted in self._wanted.items() if wanted)

    def give_up(self, name: str) -> None:
        """Nobody wants what is being made of that env."""
        for given_up in self._wanted.get(name, ()):
            given_up.set()

    async def end(self) -> None:
        """End whatever is under way; afterwards no env can be changed any more."""
        for name in self._locks:
            self.give_up(name)
        waits = (asyncio.wait_for(lock.acquire(), GIVE_UP_SECONDS) for lock in self._locks.values())
        await asyncio.gather(*waits, return_exceptions=True)
