"""Every configured model of a daemon: which one is meant, and what concerns all of them."""

import asyncio
import contextlib
from collections.abc import Sequence

from edged.clock import Clock
from edged.core.types import RequestId
from edged.engine.wire import Prompt
from edged.errors import EdgedError, Reason, shown
from edged.supervise.handle import LOADING_RETRY_S, ModelHandle
from edged.supervise.ledger import MemoryLedger
from edged.supervise.model import ModelProgress, ModelStatus, RequestRow, Stream, Submission
from edged.supervise.spec import ModelSpec

SHUTTING_DOWN = "the server is shutting down"
UNLOADING = "the model is being unloaded"
REMOVED = "the model was removed from the configuration"
CANCELLED = "cancelled by an operator"


class Fleet:
    """Implements `model.Models`."""

    def __init__(self, specs: Sequence[ModelSpec], default: str, clock: Clock) -> None:
        """Must be made on a running event loop; starts nothing. `default` is one of the names."""
        self._changed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._ledger = MemoryLedger()
        self._clock = clock
        self._handles: dict[str, ModelHandle] = {}
        self._leaving: dict[ModelHandle, asyncio.Task[None]] = {}
        """Models that are not configured any more and have work, or an engine, to end."""
        self._loading_later: set[asyncio.Task[None]] = set()
        self.is_draining = False
        self.configure(specs, default)

    def configure(self, specs: Sequence[ModelSpec], default: str) -> None:
        """These models from now on. New ones are not loaded yet; those that are not among them
        refuse new work, may end what they have, and are gone then; the rest goes on."""
        names = {spec.name for spec in specs}
        assert len(names) == len(specs), "two models have one name"
        assert default in names, f"the default model {default!r} is not configured"
        before = self._handles
        self._handles = {}
        for spec in specs:
            handle = before.pop(spec.name, None)
            if handle is None:
                handle = ModelHandle(spec, self._ledger, self._clock, self._notify)
            else:
                handle.take(spec)
            self._handles[spec.name] = handle
        drain_s = max(spec.drain_s for spec in specs)
        for handle in before.values():
            self._leaving[handle] = asyncio.create_task(self._leave(handle, drain_s))
        self._default = default
        self._notify()

    async def _leave(self, handle: ModelHandle, drain_s: float) -> None:
        await handle.retire(drain_s, REMOVED)
        del self._leaving[handle]
        self._notify()

    # ── Requests ─────────────────────────────────────────────────────────────────────────────────

    def submit(self, model: str, submission: Submission) -> Stream:
        self._check_not_draining()
        handle = self._handle(model)
        if any(other.knows(submission.request_id) for other in self._all()):
            detail = f"request {submission.request_id} exists already"
            raise EdgedError(Reason.DUPLICATE_REQUEST, detail)
        stream = handle.submit(submission)
        self._arrived.set()
        return stream

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        self._check_not_draining()
        return await self._handle(model).tokenize(prompt)

    async def list_requests(self) -> tuple[RequestRow, ...]:
        lists = await asyncio.gather(*(handle.list_requests() for handle in self._all()))
        return tuple(row for rows in lists for row in rows)

    def cancel(self, request_id_prefix: str) -> RequestId:
        found = [
            (handle, request_id)
            for handle in self._all()
            for request_id in handle.request_ids()
            if request_id_prefix and request_id.startswith(request_id_prefix)
        ]
        exact = [(handle, known) for handle, known in found if known == request_id_prefix]
        if len(exact or found) != 1:
            which = f"{len(found)} requests begin" if found else "no request begins"
            detail = f"{which} with {shown(request_id_prefix)}; one was expected"
            raise EdgedError(Reason.UNKNOWN_REQUEST, detail)
        handle, request_id = (exact or found)[0]
        handle.cancel(request_id, CANCELLED)
        return request_id

    @property
    def num_in_flight(self) -> int:
        return sum(handle.num_in_flight for handle in self._all())

    async def wait_until_busy(self) -> None:
        """Returns when there is a request."""
        while not self.num_in_flight:
            self._arrived.clear()
            await self._arrived.wait()

    async def wait_until_idle(self) -> None:
        """Returns when there is none."""
        while self.num_in_flight:
            await asyncio.gather(*(handle.wait_until_idle() for handle in self._all()))

    # ── Models ───────────────────────────────────────────────────────────────────────────────────

    def status(self) -> tuple[ModelStatus, ...]:
        return tuple(
            handle.status(is_default=handle is self._handles[self._default])
            for handle in self._all()
        )

    def progress(self) -> tuple[ModelProgress, ...]:
        """By what the daemon's own watchdog judges it."""
        return tuple(handle.progress() for handle in self._all())

    async def wait_for_change(self) -> None:
        await self._changed.wait()

    async def load(self, model: str) -> None:
        self._check_not_draining()
        if self._leaving_of(model) is not None:
            detail = f"another model {model!r} is being unloaded; load it again when that is done"
            raise EdgedError(Reason.MODEL_UNLOADED, detail, retry_after_s=LOADING_RETRY_S)
        self._handle(model).load()

    def load_soon(self, model: str) -> None:
        """Start to load; if another of its name is still there, when that is gone."""

        async def load() -> None:
            while (leaving := self._leaving_of(model)) is not None:
                await asyncio.wait((leaving,))
            with contextlib.suppress(EdgedError):  # somebody unloads it meanwhile
                await self.load(model)

        task = asyncio.create_task(load())
        self._loading_later.add(task)
        task.add_done_callback(self._loading_later.discard)

    async def unload(self, model: str) -> None:
        handle = self._handle(model)
        await handle.retire(handle.drain_s, UNLOADING)

    async def drain(self, drain_s: float) -> None:
        """No zombie and no child is left behind."""
        self.is_draining = True
        self._notify()
        await asyncio.gather(*(handle.retire(drain_s, SHUTTING_DOWN) for handle in self._all()))
        await asyncio.gather(*self._leaving.values(), *self._loading_later)

    # ── Inside ───────────────────────────────────────────────────────────────────────────────────

    def _all(self) -> list[ModelHandle]:
        return [*self._handles.values(), *self._leaving]

    def _leaving_of(self, model: str) -> asyncio.Task[None] | None:
        return next((task for one, task in self._leaving.items() if one.name == model), None)

    def _handle(self, model: str) -> ModelHandle:
        handle = self._handles.get(model or self._default)
        if handle is None:
            names = ", ".join(repr(name) for name in self._handles)
            detail = f"there is no model {shown(model)}; configured are: {names}"
            raise EdgedError(Reason.UNKNOWN_MODEL, detail)
        return handle

    def _check_not_draining(self) -> None:
        if self.is_draining:
            raise EdgedError(Reason.DRAINING, SHUTTING_DOWN)

    def _notify(self) -> None:
        """Wake everybody who waits now; who comes later waits for the next change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
