"""Who computes how many tokens in one step, most urgent first.

Theory of operation. Within a band decodes come first, row by row, then prefills. Each sequence that
gets in lowers the step time that those behind it may use (`Policy.tolerance`), so a prefill shrinks
to what the decodes in front of it leave, and less urgent work is parked in place when nothing is
left. The first sequence always gets in, and so does some of the first prefill of the most urgent
band, so a step always makes progress (I7) and no prompt waits for all answers.
"""

from collections.abc import Mapping
from math import inf

from edged.core.placement import Placement, PlannerView
from edged.core.plan import YIELDS_TO_NOBODY, Chunk
from edged.core.sequence import Sequence
from edged.core.types import SloTier

_FIRST_ROW, _OWED_ROW, _ROW_BEHIND, _PREFILLS = range(4)
"""Of a band: its decodes, by row, and its prefills. In the first band, decodes of tiers that are
owed time are between the rows, one of them in any case."""


class Allocation:
    """The chunks of one step, most urgent first; scratch of one plan."""

    def __init__(
        self, view: PlannerView, owed: frozenset[SloTier], placement: Placement, now_s: float
    ) -> None:
        self._view = view
        self._owed = owed
        self._placement = placement
        self._now_s = now_s
        self.chunks: list[Chunk] = []
        self._head: Sequence | None = None
        """The most urgent sequence with a chunk."""
        self._head_s: float | None = None
        """Step seconds that its band tolerates for equals; None until others share the step."""
        self._used_s = view.cost.base_s
        self._decode_s = view.cost.decode_s
        self._cell_s = view.cost.cell_s
        self._tokens_left = view.max_step_tokens
        self._cells_left = placement.free_cells
        self._outer_s = inf
        """Step seconds that more urgent bands tolerate."""
        self._inner_s = inf
        """Step seconds that the band's sequences so far tolerate for their equals."""
        self._next_outer_s = inf
        """Step seconds that everybody so far tolerates for less urgent bands."""
        self._others_part = inf
        """What everybody so far tolerates that less urgent bands add, as a part of the step."""
        self._has_prefill = False

    def run(self) -> None:
        """In a band decodes come first, row by row, then prefills, each by urgency."""
        bands: dict[int, tuple[list[Sequence], ...]] = {}
        for seq in self._placement.running:
            band, row, _ = seq.rank
            place = _FIRST_ROW if row == 0 else _ROW_BEHIND
            if self._owed and seq.tier in self._owed and not seq.is_kept_in_time:
                band, place = 0, _OWED_ROW
            if len(seq.token_ids) - seq.num_computed_tokens > 1:
                place = _PREFILLS
            if band not in bands:
                bands[band] = ([], [], [], [])
            bands[band][place].append(seq)
        for place, band in enumerate(sorted(bands)):
            if place == 1:
                self._head_s = self._inner_s
            self._outer_s = min(self._next_outer_s, self._used_s * (1.0 + self._others_part))
            self._inner_s = inf
            # The first one that does not fit ends its row: a smaller one that came later does not
            # get ahead of it, step after step.
            first, owed, behind, prefills = bands[band]
            if self._add_decodes(first, self._outer_s):
                self._add_decodes(owed, self._inner_s, least=1)
                self._add_decodes(behind, min(self._outer_s, self._next_outer_s))
            for seq in prefills:
                if not self._add_prefill(seq, is_head=place == 0 and not self._has_prefill):
                    break

    def yields_to(self) -> Mapping[SloTier, float]:
        """Whose arrival cuts the step short. A tier that is owed time gets it: nobody's does."""
        if self._owed or self._head is None:
            return YIELDS_TO_NOBODY
        spare_s = 0.0 if self._head_s is None else self._head_s - self._used_s
        return self._view.policy.yields_to(self._head, spare_s)

    def _add_decodes(self, decodes: list[Sequence], limit_s: float, *, least: int = 0) -> bool:
        """As many as get into a step of `limit_s`, and `least` in any case; whether all did. A
        decode is parked only for the sake of a more urgent band or row: its equals share the step.
        One loop over local names, since most of planning's time goes here."""
        slots, growths = self._placement.slots, self._placement.growth
        tolerance, now_s, chunks = self._view.policy.tolerance, self._now_s, self.chunks
        decode_s, cell_s = self._decode_s, self._cell_s
        used_s = self._used_s
        equals_s, others_s, part = self._inner_s, self._next_outer_s, self._others_part
        num_chunks, tokens_left, cells_left = len(chunks), self._tokens_left, self._cells_left
        for seq in decodes:
            known, seq_id, slot = seq.token_ids, seq.seq_id, seq.slot
            added_s = decode_s + cell_s * len(known)
            # A sequence that is placed in this step gets all its cells with its slot.
            growth = 0 if slot is None else growths[seq_id]
            is_too_long = used_s + added_s > limit_s and len(chunks) - num_chunks >= least
            if is_too_long or growth > cells_left or not tokens_left:
                break
            if slot is None:
                slot = slots[seq_id]
            chunks.append(Chunk(seq_id, slot, len(known) - 1, (known[-1],), seq.sampling))
            used_s += added_s
            tokens_left -= 1
            cells_left -= growth
            for_equals_s, for_others_s, others_part = tolerance(seq, now_s)
            equals_s = for_equals_s if for_equals_s < equals_s else equals_s
            others_s = for_others_s if for_others_s < others_s else others_s
            part = others_part if others_part < part else part
        if decodes and len(chunks) > num_chunks:
            self._head = self._head or decodes[0]
        self._used_s, self._tokens_left, self._cells_left = used_s, tokens_left, cells_left
        self._inner_s, self._next_outer_s, self._others_part = equals_s, others_s, part
        return len(chunks) - num_chunks == len(decodes)

    def _add_prefill(self, seq: Sequence, *, is_head: bool) -> bool:
        start, missing = seq.num_computed_tokens, seq.num_missing_tokens
        most = min(missing, self._tokens_left)
        cost = self._view.cost
        bounds = self._view.policy.prefill_bounds(seq)
        limit_s = min(self._outer_s, self._inner_s, bounds.step_s)
        num_tokens = cost.prefill_tokens_within(limit_s - self._used_s, start, most)
        if is_head and num_tokens < most:
            least_s = bounds.least_part * self._used_s
            num_tokens = max(num_tokens, 1, cost.prefill_tokens_within(least_s, start, most))
        if num_tokens == 0:
            return False
        self._has_prefill = True
        return self._add(seq, num_tokens, cost.prefill_cost_s(start, num_tokens))

    def _add(self, seq: Sequence, num_tokens: int, added_s: float) -> bool:
        seq_id, slot = seq.seq_id, seq.slot
        if slot is None:
            # A sequence that is placed in this step gets all its cells with its slot.
            slot, growth = self._placement.slots[seq_id], 0
        else:
            growth = self._placement.growth[seq_id]
        if num_tokens > self._tokens_left or growth > self._cells_left:
            return False
        start, known = seq.num_computed_tokens, seq.token_ids
        end = start + num_tokens
        sampling = seq.sampling if end == len(known) else None
        self.chunks.append(Chunk(seq_id, slot, start, tuple(known[start:end]), sampling))
        self._used_s += added_s
        self._tokens_left -= num_tokens
        self._cells_left -= growth
        self._head = self._head or seq
        for_equals_s, for_others_s, others_part = self._view.policy.tolerance(seq, self._now_s)
        self._inner_s = min(self._inner_s, for_equals_s)
        self._next_outer_s = min(self._next_outer_s, for_others_s)
        self._others_part = min(self._others_part, others_part)
        return True
