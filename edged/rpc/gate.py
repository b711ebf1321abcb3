"""How many calls of one kind are served at once; one more is refused at once, never queued."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from edged.errors import EdgedError, Reason
from edged.rpc.access.caller import Door, current_caller

RETRY_AFTER_S = 1.0


class CallGate:
    """Counts calls in progress. Used on one event loop."""

    def __init__(self, what: str, max_calls: int) -> None:
        assert max_calls >= 1, f"a gate for {max_calls} calls lets nobody in"
        self._what = what
        self._max_calls = max_calls
        self._num_calls = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold one place.

        Raises:
            EdgedError: QUEUE_FULL; all places are taken.
        """
        if self._num_calls >= self._max_calls:
            raise EdgedError(
                Reason.QUEUE_FULL,
                f"{self._num_calls} {self._what} calls are being served, the most this server "
                "takes at once; try again when one has ended",
                retry_after_s=RETRY_AFTER_S,
            )
        self._num_calls += 1
        try:
            yield
        finally:
            self._num_calls -= 1


class DoorGates:
    """One gate for each door, so that nobody at one door takes the places of another."""

    def __init__(self, what: str, max_calls: int, max_network_calls: int) -> None:
        self._gates = {
            door: CallGate(what, max_network_calls if door is Door.NETWORK else max_calls)
            for door in Door
        }

    def entered(self) -> AbstractContextManager[None]:
        """Hold one place at the door of the call that is being answered. Raises as `CallGate`."""
        return self._gates[current_caller().door].entered()
