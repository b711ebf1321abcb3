"""The memory of all engines: what each was given, and how much of that it has not taken yet.

Theory of operation: an engine measures what is free before it allocates, and takes its weights and
its KV, at once or, in some runtimes, as KV grows. That figure is true only if nobody else is about
to take some of it. So one engine loads at a time; it is told what the others were promised and have
not taken, or may not have: room for saved KV that is still empty, weights in a mapped file, which
the system calls available, KV that grows, and everything of an engine that is being replaced. A
replacement does not wait: its memory is still its own.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from edged.core.memory import HOST
from edged.engine.wire import Ready


class MemoryLedger:
    """Owned by the event loop."""

    def __init__(self) -> None:
        self._reserved: dict[str, Ready] = {}
        """By model: what its engine was given; of the last engine, while it is being replaced."""
        self._saved_bytes: dict[str, int] = {}
        """By model that has an engine: host memory taken by saved KV."""
        self._loading: set[str] = set()
        self._changed = asyncio.Condition()
        self._num_accounts = 0

    def account(self, model: str) -> str:
        """A name for what one model's engines take, which no other has: one that was removed from
        the configuration may still be there when another of its name is."""
        self._num_accounts += 1
        return f"{model} {self._num_accounts}"

    @asynccontextmanager
    async def loading(self, model: str) -> AsyncIterator[Mapping[str, int]]:
        """A turn to load; what others may still take, by pool. Ends with `hold`, or without when
        the load failed."""
        async with self._changed:
            if model not in self._reserved:
                await self._changed.wait_for(lambda: not self._loading)
            self._loading.add(model)
        try:
            yield self.outstanding(model)
        finally:
            async with self._changed:
                self._loading.discard(model)
                self._changed.notify_all()

    def hold(self, model: str, ready: Ready) -> None:
        """Its engine has taken what it was given."""
        self._reserved[model] = ready
        self._saved_bytes[model] = 0

    def held(self, model: str) -> Ready | None:
        """What its engine was given; or the one that is being replaced."""
        return self._reserved.get(model)

    def note(self, model: str, saved_bytes: int) -> None:
        """How much host memory its saved KV takes now."""
        self._saved_bytes[model] = saved_bytes

    def lose(self, model: str) -> None:
        """Its engine is gone; the next one will take the same."""
        self._saved_bytes.pop(model, None)

    def release(self, model: str) -> None:
        """It has no engine any more, and will have none soon."""
        self._reserved.pop(model, None)
        self._saved_bytes.pop(model, None)

    def outstanding(self, model: str) -> Mapping[str, int]:
        """What others than `model` were given and have not taken, by pool."""
        found: Counter[str] = Counter()
        for name, ready in self._reserved.items():
            if name != model:
                found.update(self._outstanding(name, ready))
        return +found

    def _outstanding(self, name: str, ready: Ready) -> Counter[str]:
        saved_bytes = self._saved_bytes.get(name)
        found = Counter({HOST: ready.snapshot_bytes - (saved_bytes or 0)})
        for use in () if ready.memory is None else ready.memory.uses:
            untaken_bytes = use.mapped_bytes + use.later_bytes
            found[use.pool] += use.num_bytes if saved_bytes is None else untaken_bytes
        return found
