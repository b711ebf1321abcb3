"""Every configured model of a daemon: which one is meant, and what concerns all of them."""

import asyncio
from collections.abc import Sequence

from edged.clock import Clock
from edged.core.types import RequestId
from edged.engine.wire import Prompt
from edged.errors import EdgedError, Reason
from edged.supervise.handle import ModelHandle
from edged.supervise.ledger import MemoryLedger
from edged.supervise.model import ModelProgress, ModelStatus, RequestRow, Stream, Submission
from edged.supervise.spec import ModelSpec

SHUTTING_DOWN = "the server is shutting down"
UNLOADING = "the model is being unloaded"
CANCELLED = "cancelled by an operator"


class Fleet:
    """Implements `model.Models`."""

    def __init__(self, specs: Sequence[ModelSpec], default: str, clock: Clock) -> None:
        """Must be made on a running event loop; starts nothing. `default` is one of the names."""
        self._changed = asyncio.Event()
        ledger = MemoryLedger()
        self._handles = {
            spec.name: ModelHandle(spec, ledger, clock, self._notify) for spec in specs
        }
        assert len(self._handles) == len(specs), "two models have one name"
        assert default in self._handles, f"the default model {default!r} is not configured"
        self._default = default
        self._is_draining = False

    # ── Requests ─────────────────────────────────────────────────────────────────────────────────

    def submit(self, model: str, submission: Submission) -> Stream:
        self._check_not_draining()
        handle = self._handle(model)
        if any(other.knows(submission.request_id) for other in self._all()):
            detail = f"request {submission.request_id} exists already"
            raise EdgedError(Reason.DUPLICATE_REQUEST, detail)
        return handle.submit(submission)

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
            detail = f"{which} with {request_id_prefix!r}; one was expected"
            raise EdgedError(Reason.UNKNOWN_REQUEST, detail)
        handle, request_id = (exact or found)[0]
        handle.cancel(request_id, CANCELLED)
        return request_id

    @property
    def num_in_flight(self) -> int:
        return sum(handle.num_in_flight for handle in self._all())

    # ── Models ───────────────────────────────────────────────────────────────────────────────────

    def status(self) -> tuple[ModelStatus, ...]:
        return tuple(
            handle.status(is_default=handle.name == self._default) for handle in self._all()
        )

    def progress(self) -> tuple[ModelProgress, ...]:
        """By what the daemon's own watchdog judges it."""
        return tuple(handle.progress() for handle in self._all())

    async def wait_for_change(self) -> None:
        await self._changed.wait()

    async def load(self, model: str) -> None:
        self._check_not_draining()
        self._handle(model).load()

    async def unload(self, model: str) -> None:
        handle = self._handle(model)
        await handle.retire(handle.drain_s, UNLOADING)

    async def drain(self, drain_s: float) -> None:
        """No zombie and no child is left behind."""
        self._is_draining = True
        self._notify()
        await asyncio.gather(*(handle.retire(drain_s, SHUTTING_DOWN) for handle in self._all()))

    # ── Inside ───────────────────────────────────────────────────────────────────────────────────

    def _all(self) -> list[ModelHandle]:
        return list(self._handles.values())

    def _handle(self, model: str) -> ModelHandle:
        handle = self._handles.get(model or self._default)
        if handle is None:
            names = ", ".join(repr(name) for name in self._handles)
            detail = f"there is no model {model!r}; configured are: {names}"
            raise EdgedError(Reason.UNKNOWN_MODEL, detail)
        return handle

    def _check_not_draining(self) -> None:
        if self._is_draining:
            raise EdgedError(Reason.DRAINING, SHUTTING_DOWN)

    def _notify(self) -> None:
        """Wake everybody who waits now; who comes later waits for the next change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
