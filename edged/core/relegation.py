"""Those whose targets gave way to others', and the turn that each of them has at the latest.

Theory of operation. Whoever is relegated is served when nobody needs the engine more, and in an
overload that may be never. So a small share of the engine is kept for them: it is saved up while
anybody is in the line, and whoever has been in it longest has its turn, before all others, when the
savings are what its prefill costs. Nobody passes anybody in the line, so whoever joins it knows
when its turn comes at the latest: when the share has done the work in front and its own.
"""

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from edged.core.sequence import Sequence
from edged.core.types import SeqId


class _Member(NamedTuple):
    seq: Sequence
    work_s: float
    turn_s: float


class Relegated:
    """Mutable; owned by a policy."""

    def __init__(self, share: float) -> None:
        """`share`: the part of the engine's time that is theirs."""
        self._share = share
        self._line: dict[SeqId, _Member] = {}
        self._called: dict[SeqId, float] = {}
        """Those that had their turn, and when it was to come."""
        self._work_s = 0.0
        self._saved_s = 0.0
        self._since_s = 0.0
        self.num_turns = 0

    def __contains__(self, seq_id: SeqId) -> bool:
        """Whether it is in the line still."""
        return seq_id in self._line

    def has_turn(self, seq_id: SeqId) -> bool:
        return seq_id in self._called

    def turn_s(self, seq_id: SeqId) -> float | None:
        """Moment at which it has its turn at the latest; None if it was not relegated."""
        member = self._line.get(seq_id)
        return self._called.get(seq_id) if member is None else member.turn_s

    def join(self, seq: Sequence, work_s: float, now_s: float) -> None:
        """`work_s`: of its prefill. Nothing, where it has joined before."""
        if seq.seq_id in self._line or seq.seq_id in self._called:
            return
        if not self._line:
            self._saved_s, self._work_s, self._since_s = 0.0, 0.0, now_s
        self._work_s += work_s
        wait_s = (self._work_s - self._saved_s) / self._share if self._share else inf
        self._line[seq.seq_id] = _Member(seq, work_s, now_s + wait_s)

    def leave(self, seq_id: SeqId) -> None:
        self._called.pop(seq_id, None)
        member = self._line.pop(seq_id, None)
        if member is not None:
            self._work_s -= member.work_s

    def earn(self, now_s: float, left_s: Callable[[Sequence], float]) -> Sequence | None:
        """The engine has worked until now. Whose turn it is, if anybody's. `left_s`: of a prefill,
        in seconds of work."""
        if not self._line:
            return None
        self._saved_s += self._share * (now_s - self._since_s)
        self._since_s = now_s
        member = next(iter(self._line.values()))
        work_s = min(left_s(member.seq), member.work_s)
        if self._saved_s < work_s:
            return None
        self._saved_s -= work_s
        seq_id = member.seq.seq_id
        self.leave(seq_id)
        self._called[seq_id] = member.turn_s
        self.num_turns += 1
        return member.seq
