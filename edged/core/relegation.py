"""Those who may have to wait for ever, and the turn that each of them has at the latest.

Theory of operation. Whoever has no targets, or is relegated, is served when nobody needs the engine
more, and in an overload that may be never. So a small share of the engine is kept for them: what
they do not get anyway is saved up while anybody is in the line, and whoever has been in it longest
has its turn, before all others, when the savings are what its prefill costs, or the rest of its
answer. Nobody passes anybody in the line, so
whoever joins it knows when its turn comes at the latest: when the share has done the work in front
and its own.

Who may be in time after all is *excused*: it keeps its place, and its part of the savings, for the
case that it may not.
"""

from collections.abc import Callable
from math import inf

from edged.core.plan import StepPlan
from edged.core.sequence import Sequence
from edged.core.types import SeqId

_ROUNDING_S = 1e-9
_ASKED_AGAIN_S = 0.5
"""Whether a turn breaks a promise takes a look at all of them, too long for every step."""


class _Member:
    __slots__ = ("is_excused", "seq", "turn_s", "work_s")

    def __init__(self, seq: Sequence, work_s: float, turn_s: float) -> None:
        self.seq = seq
        self.work_s = work_s
        self.turn_s = turn_s
        self.is_excused = False


class Line:
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
        self._asked_again_s = 0.0
        self.num_turns = 0

    def __contains__(self, seq_id: SeqId) -> bool:
        """Whether it is in the line, and not excused."""
        member = self._line.get(seq_id)
        return member is not None and not member.is_excused

    def __len__(self) -> int:
        """Those in the line, and those that had their turn."""
        return len(self._line) + len(self._called)

    def has_turn(self, seq_id: SeqId) -> bool:
        return seq_id in self._called

    def turn_s(self, seq_id: SeqId) -> float | None:
        """Moment at which it has its turn at the latest; None if it is not in the line."""
        member = self._line.get(seq_id)
        if member is None or member.is_excused:
            return self._called.get(seq_id)
        return member.turn_s

    def wait_s(self, work_s: float) -> float:
        """Seconds to the turn of one that joined now, at most."""
        saved_s = self._saved_s if self._line else 0.0
        missing_s = max(0.0, self._work_s + work_s - saved_s)
        return missing_s / self._share if self._share else inf

    def join(self, seq: Sequence, work_s: float, now_s: float) -> None:
        """`work_s`: what its turn costs at most. Where it has joined before, it has its place."""
        member = self._line.get(seq.seq_id)
        if member is not None:
            member.is_excused = False
            return
        if seq.seq_id in self._called:
            return
        if not self._line:
            self._saved_s, self._work_s, self._since_s = 0.0, 0.0, now_s
        self._line[seq.seq_id] = _Member(seq, work_s, now_s + self.wait_s(work_s))
        self._work_s += work_s

    def excuse(self, seq_id: SeqId) -> None:
        """It may be in time after all."""
        self._line[seq_id].is_excused = True

    def leave(self, seq_id: SeqId) -> None:
        self._called.pop(seq_id, None)
        member = self._line.pop(seq_id, None)
        if member is not None:
            self._work_s -= member.work_s

    def save(self, now_s: float, served_s: float = 0.0) -> None:
        """The engine has worked until now, so long for those in the line."""
        if self._line:
            saved_s = self._saved_s + self._share * (now_s - self._since_s) - served_s
            self._saved_s = max(0.0, min(saved_s, max(self._saved_s, self._work_s)))
            self._since_s = now_s

    def part(self, plan: StepPlan) -> float:
        """Of a step's tokens, those of sequences in the line."""
        if not self._line or not plan.chunks:
            return 0.0
        num_tokens = [len(chunk.token_ids) for chunk in plan.chunks]
        in_line = (
            num
            for num, chunk in zip(num_tokens, plan.chunks, strict=True)
            if chunk.seq_id in self._line
        )
        return sum(in_line) / sum(num_tokens)

    def next(self, left_s: Callable[[Sequence], float]) -> Sequence | None:
        """Whose turn it is, if anybody's. `left_s`: what its turn costs now."""
        if self._since_s < self._asked_again_s:
            return None
        needed_s = 0.0
        for member in self._line.values():
            needed_s += min(left_s(member.seq), member.work_s)
            if self._saved_s + _ROUNDING_S < needed_s:
                return None
            if not member.is_excused:
                return member.seq
        return None

    def postpone(self, left_s: float) -> None:
        """Whose turn it is cannot have it now: to be asked again when it could be done already."""
        self._asked_again_s = self._since_s + max(left_s, _ASKED_AGAIN_S)

    def call(self, seq_id: SeqId, left_s: float) -> None:
        """It has its turn, and what that costs is spent."""
        member = self._line[seq_id]
        self._saved_s -= min(left_s, member.work_s)
        self.leave(seq_id)
        self._called[seq_id] = member.turn_s
        self.num_turns += 1
