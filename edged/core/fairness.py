"""Fairness between clients: whose turn it is, and who had how much of late.

Turns are start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). A request is stamped with
the virtual time at which its turn begins: now, or the end of its client's last turn in the tier,
which is as much later as that request is work; not before what it has waiting. Stamps are served in
order, and virtual time is the stamp served last.
So clients with work advance at the same rate, one that was idle has saved nothing up, and the order
within a client stays that of arrival. A stamp is given once, so that queues stay sorted; what a
request turns out to be is settled with its client's next stamps.
"""

from math import exp

from edged.core.types import ClientId, SeqId, SloTier

MAX_CLIENTS = 1024
"""Clients that are remembered although they have no work."""
_LOAD_S = 60.0
"""Seconds over which work is averaged."""
_FORGOTTEN_S = 1e-4
_LEAST_WEIGHT = 0.1


class _Turn:
    __slots__ = ("client", "has_begun", "num_tokens", "start")

    def __init__(self, client: tuple[SloTier, ClientId], start: float, num_tokens: float) -> None:
        self.client = client
        self.start = start
        self.num_tokens = num_tokens
        self.has_begun = False


class Turns:
    """Mutable; owned by a policy. Virtual time is in tokens."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: dict[tuple[SloTier, ClientId], float] = {}
        self._turns: dict[SeqId, _Turn] = {}
        self._waiting: dict[tuple[SloTier, ClientId], dict[SeqId, None]] = {}
        """Of each client, those whose turn has not begun, in order."""

    def __len__(self) -> int:
        """Sequences that have not ended."""
        return len(self._turns)

    @property
    def num_clients(self) -> int:
        return len(self._ends)

    def join(self, seq_id: SeqId, tier: SloTier, client_id: ClientId, num_tokens: float) -> None:
        """A request comes, of so many tokens as far as is known."""
        client = tier, client_id
        start = end = max(self._now, self._ends.get(client, 0.0))
        waiting = self._waiting.setdefault(client, {})
        if waiting:
            start = max(start, self._turns[next(reversed(waiting))].start)
        waiting[seq_id] = None
        self._ends[client] = end + num_tokens
        self._turns[seq_id] = _Turn(client, start, num_tokens)
        if len(self._ends) > MAX_CLIENTS + 2 * len(self._turns):
            with_work = {turn.client for turn in self._turns.values()}
            self._ends = {one: end for one, end in self._ends.items() if one in with_work}

    def order(self, seq_id: SeqId) -> float:
        """When its turn begins; 0 if it has begun."""
        turn = self._turns.get(seq_id)
        return 0.0 if turn is None or turn.has_begun else turn.start

    def begin(self, seq_id: SeqId, *, in_turn: bool) -> None:
        """It is being served; out of turn, if not because it was the next."""
        turn = self._turns.get(seq_id)
        if turn is not None and not turn.has_begun:
            turn.has_begun = True
            self._waits_no_more(seq_id, turn)
            if in_turn:
                self._now = max(self._now, turn.start)

    def leave(self, seq_id: SeqId, num_tokens: float) -> None:
        """It has ended, and was of so many tokens: its client has that much less or more to come,
        and nothing of what was never begun."""
        turn = self._turns.pop(seq_id, None)
        if turn is not None and turn.client in self._ends:
            actual = num_tokens if turn.has_begun else 0.0
            self._ends[turn.client] += actual - turn.num_tokens
        if turn is not None and not turn.has_begun:
            self._waits_no_more(seq_id, turn)

    def _waits_no_more(self, seq_id: SeqId, turn: _Turn) -> None:
        waiting = self._waiting[turn.client]
        del waiting[seq_id]
        if not waiting:
            del self._waiting[turn.client]


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

    def weight(self, client_id: ClientId, work_s: float) -> float:
        """1 for a client that has its part with so much more work, more for one that has more; at
        least 0.1."""
        total_s = work_s + sum(self._work_s.values())
        if total_s <= 0:
            return 1.0
        part = (work_s + self._work_s.get(client_id, 0.0)) / total_s
        num_clients = len(self._work_s.keys() | {client_id})
        return max(_LEAST_WEIGHT, num_clients * part)

    def _kept(self, now_s: float) -> float:
        return exp((self._at_s - now_s) / _LOAD_S)
