"""Fairness between clients: whose turn it is, and who had how much of late.

Turns are start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). A request is stamped with
the virtual time at which its turn begins: now, or the end of its client's last turn in the tier,
which is as much later as that request is work. Stamps are served in order, and virtual time is the
stamp served last.
So clients with work advance at the same rate, one that was idle has saved nothing up, and the order
within a client stays that of arrival. A stamp is given once, so that queues stay sorted.
"""

from math import exp

from edged.core.types import ClientId, SloTier

MAX_CLIENTS = 1024
"""Clients that are remembered although they have no work."""
_LOAD_S = 60.0
"""Seconds over which work is averaged."""
_FORGOTTEN_S = 1e-4
_LEAST_WEIGHT = 0.1


class Turns:
    """Mutable; owned by a policy. Virtual time is in tokens."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: dict[tuple[SloTier, ClientId], float] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def stamp(self, tier: SloTier, client_id: ClientId, num_tokens: float) -> float:
        """When the turn of a request of so many tokens begins."""
        key = (tier, client_id)
        start = max(self._now, self._ends.get(key, 0.0))
        self._ends[key] = start + num_tokens
        if len(self._ends) > MAX_CLIENTS:
            self._ends = {one: end for one, end in self._ends.items() if end > self._now}
        return start

    def serve(self, stamp: float) -> None:
        """A request with that stamp is being served."""
        self._now = max(self._now, stamp)


class Loads:
    """Work that each client brought, as a part of what all did. Mutable; owned by a policy."""

    def __init__(self) -> None:
        self._work_s: dict[ClientId, float] = {}
        """As of `_at_s`, forgotten with time."""
        self._at_s = 0.0

    def __len__(self) -> int:
        return len(self._work_s)

    def add(self, client_id: ClientId, work_s: float, now_s: float) -> None:
        kept = self._kept(now_s)
        self._at_s = now_s
        self._work_s = {one: kept * s for one, s in self._work_s.items() if kept * s > _FORGOTTEN_S}
        if client_id in self._work_s or len(self._work_s) < MAX_CLIENTS:
            self._work_s[client_id] = self._work_s.get(client_id, 0.0) + work_s

    def weight(self, client_id: ClientId) -> float:
        """1 for a client that had its part, more for one that had more; at least 0.1."""
        total_s = sum(self._work_s.values())
        if total_s <= 0:
            return 1.0
        part = self._work_s.get(client_id, 0.0) / total_s
        num_clients = len(self._work_s.keys() | {client_id})
        return max(_LEAST_WEIGHT, num_clients * part)

    def _kept(self, now_s: float) -> float:
        return exp((self._at_s - now_s) / _LOAD_S)
