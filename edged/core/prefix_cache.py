"""Beginnings whose KV is kept for others: which there are, who counts on them, what goes first.

Theory of operation. As soon as a sequence's prompt is computed, and again when it leaves its slot,
the tree of beginnings knows what the slot holds. A sequence that waits *claims* the longest
beginning of its own that some slot holds: those tokens count as computed, as if they had been
swapped out, and when it gets a slot it shares their cells. A slot that a sequence leaves is
*cached*, if there is a cache slot for it: it keeps its KV until its cells or its slot are needed.
Cached cells are free for every sequence that runs: the cache never costs one a cell.

The cached slot that is worth least goes first, where its value is

    prefill seconds saved · (1 + times used) / (seconds since it was last used + 60) / cells freed

and those that somebody claims go last. Who loses a claim claims again, or computes it all.

| what | unit |
|---|---|
| a beginning, a claim | tokens, `MIN_TOKENS` or more |
| value | 1 / cell |
"""

from collections.abc import Hashable, Iterator

from edged.core.cost import StepCostModel
from edged.core.kv import KvBudget
from edged.core.policy import SchedulerConfig
from edged.core.prefix import PrefixTree, Tokens
from edged.core.sequence import Sequence, by_rank
from edged.core.types import PrefixSharing, SlotId

MIN_TOKENS = 16
"""Shorter beginnings are not worth a slot."""
_FORGOTTEN_S = 60.0
"""Somebody who has used it once comes again after a while, as far as is known."""


class _Kept:
    """What is known of a slot in the tree."""

    __slots__ = ("claimers", "last_used_s", "num_tokens", "num_uses", "space")

    def __init__(self, space: Hashable, num_tokens: int, now_s: float) -> None:
        self.space = space
        self.num_tokens = num_tokens
        self.num_uses = 0
        self.last_used_s = now_s
        self.claimers: dict[Sequence, None] = {}


class PrefixCache:
    """Mutable; owned by the scheduler. It does nothing where there are no cache slots."""

    def __init__(
        self,
        kv: KvBudget,
        cost: StepCostModel,
        config: SchedulerConfig,
        to_clear: list[SlotId],
    ) -> None:
        """Slots that it gives up outside of a plan are added to `to_clear`."""
        self.is_on = kv.geometry.num_cache_slots > 0
        self._kv = kv
        self._cost = cost
        self._sharing = config.prefix_sharing
        self._to_clear = to_clear
        self._tree: PrefixTree[SlotId] = PrefixTree()
        self._kept: dict[SlotId, _Kept] = {}
        self._waiting: PrefixTree[Sequence] = PrefixTree()

    # ── Sequences that wait ──────────────────────────────────────────────────────────────────────

    def arrive(self, seq: Sequence) -> None:
        """A sequence begins to wait; it holds no KV, or a snapshot. Called before it is queued."""
        if not self.is_on or seq.snapshot_bytes:
            return
        tokens = tuple(seq.token_ids)
        self._waiting.insert(self._space(seq), tokens, seq)
        self._claim(seq, tokens)

    def leave(self, seq: Sequence) -> None:
        """It waits no more; called after it left the queue. Its claim, if any, is over."""
        if seq in self._waiting:
            self._waiting.remove(seq)
        self._unclaim(seq)

    def reclaim(self, seq: Sequence) -> None:
        """Look again for one that is out of the queue for that."""
        self._unclaim(seq)
        self._claim(seq, tuple(seq.token_ids))

    def follows(self, seq: Sequence, running: list[Sequence]) -> bool:
        """Whether a more urgent one is about to compute more of a beginning than it claims, so that
        it had better wait for that."""
        if not self.is_on or seq.snapshot_bytes:
            return False
        space, least = self._space(seq), max(seq.num_computed_tokens, MIN_TOKENS) + MIN_TOKENS
        return any(
            one.first_token_s is None
            and not one.is_decoding
            and by_rank(one) < by_rank(seq)
            and self._space(one) == space
            and one.token_ids[:least] == seq.token_ids[:least]
            and min(one.num_prompt_tokens, len(seq.token_ids)) > least
            for one in running
        )

    def use(self, seq: Sequence, slot: SlotId, now_s: float) -> int:
        """`slot`, which was just taken, gets what the sequence claims; returns how many tokens."""
        if seq.claim is None:
            return 0
        kept = self._kept[seq.claim]
        kept.num_uses += 1
        kept.last_used_s = now_s
        self._kv.share(seq.claim, slot, seq.num_computed_tokens)
        return seq.num_computed_tokens

    # ── Slots that hold something ────────────────────────────────────────────────────────────────

    def publish(self, seq: Sequence, now_s: float) -> list[Sequence]:
        """The prompt of a running sequence is computed; returns those that wait and gain by it, to
        be taken out of the queue for `reclaim`."""
        num_tokens, slot = seq.num_prompt_tokens, seq.slot
        assert slot is not None, f"I1: {seq.seq_id} runs without a slot"
        if not self.is_on or num_tokens < MIN_TOKENS or slot in self._kept:
            return []
        tokens = tuple(seq.token_ids[:num_tokens])
        self._keep(slot, self._space(seq), tokens, now_s)
        return self._gaining(self._space(seq), tokens)

    def retire(self, seq: Sequence, now_s: float) -> list[Sequence]:
        """A sequence leaves its slot for good, which is cached, or given up if what it holds is of
        no use; returns those that wait and are affected, as `publish` does."""
        slot, num_tokens = seq.slot, seq.num_computed_tokens
        assert slot is not None, f"I1: {seq.seq_id} runs without a slot"
        if not self.is_on or num_tokens < MIN_TOKENS:
            return self._give_up(slot)
        space, tokens = self._space(seq), tuple(seq.token_ids[:num_tokens])
        affected = self._forget(slot)
        num_held, _ = next(self._tree.match(space, tokens), (0, None))
        if num_held == num_tokens:  # by another slot
            return affected + self._give_up(slot)
        for other in self._within(space, tokens):
            affected += self._give_up(other)
        self._kv.cache(slot, num_tokens)
        self._keep(slot, space, tokens, now_s)
        while len(self._kv.cached) > self._kv.geometry.num_cache_slots:
            affected += self._give_up(self.by_value(now_s)[0])
        affected += self._gaining(space, tokens)
        return list(dict.fromkeys(affected))

    def drop(self, slot: SlotId) -> list[Sequence]:
        """A slot is given back; returns those that claimed it, as `publish` does."""
        affected = self._forget(slot)
        self._kv.release(slot)
        return affected

    def _give_up(self, slot: SlotId) -> list[Sequence]:
        self._to_clear.append(slot)
        return self.drop(slot)

    def by_value(self, now_s: float) -> list[SlotId]:
        """The cached slots, the one that is worth least first."""
        return sorted(self._kv.cached, key=lambda slot: self._value(slot, now_s))

    def check(self, running: list[Sequence]) -> None:
        """Assert that the tree knows what slots hold, and claims what they claim."""
        self._tree.check()
        self._waiting.check()
        slots = {seq.slot for seq in running}
        cached = set(self._kv.cached)
        assert len(cached) <= self._kv.geometry.num_cache_slots, "more is kept than there is room"
        assert cached <= set(self._kept) <= cached | slots, "the cache knows other slots"
        for slot, kept in self._kept.items():
            assert kept.num_tokens <= self._kv.cells[slot], f"I2: slot {slot} holds less than kept"
            for seq in kept.claimers:
                assert seq.claim == slot, f"{seq.seq_id} claims {seq.claim}, not {slot}"
                assert MIN_TOKENS <= seq.num_computed_tokens <= kept.num_tokens, "a claim too long"

    # ── Inside ───────────────────────────────────────────────────────────────────────────────────

    def _space(self, seq: Sequence) -> Hashable:
        return seq.request.client_id if self._sharing is PrefixSharing.CLIENT else None

    def _keep(self, slot: SlotId, space: Hashable, tokens: Tokens, now_s: float) -> None:
        self._tree.insert(space, tokens, slot)
        self._kept[slot] = _Kept(space, len(tokens), now_s)

    def _forget(self, slot: SlotId) -> list[Sequence]:
        """Take a slot out of the tree; returns those that claimed it."""
        kept = self._kept.pop(slot, None)
        if kept is None:
            return []
        self._tree.remove(slot)
        return list(kept.claimers)

    def _claim(self, seq: Sequence, tokens: Tokens) -> None:
        """The last token is computed in any case, for what is drawn after it."""
        for num_common, slots in self._tree.match(self._space(seq), tokens):
            num_tokens = min(num_common, len(tokens) - 1)
            if num_tokens < MIN_TOKENS:
                return
            slot = min(slots)
            seq.claim, seq.num_computed_tokens = slot, num_tokens
            self._kept[slot].claimers[seq] = None
            return

    def _unclaim(self, seq: Sequence) -> None:
        """Where it holds nothing of its own, nothing is computed then."""
        if seq.claim is None:
            return
        kept = self._kept.get(seq.claim)
        if kept is not None:
            kept.claimers.pop(seq, None)
        seq.claim = None
        if seq.slot is None:
            seq.num_computed_tokens = 0

    def _gaining(self, space: Hashable, tokens: Tokens) -> list[Sequence]:
        """Those that wait and find more in `tokens` than they claim."""
        gaining: dict[Sequence, None] = {}
        for num_common, waiting in self._waiting.match(space, tokens):
            if num_common < MIN_TOKENS:
                break
            for seq in sorted(waiting, key=lambda one: one.seq_id):
                num_tokens = min(num_common, len(seq.token_ids) - 1)
                if seq not in gaining and num_tokens > seq.num_computed_tokens:
                    gaining[seq] = None
        return list(gaining)

    def _within(self, space: Hashable, tokens: Tokens) -> Iterator[SlotId]:
        """Cached slots that hold a beginning of `tokens` and no more."""
        found: set[SlotId] = set()
        for num_common, slots in self._tree.match(space, tokens):
            found |= {slot for slot in slots if self._kept[slot].num_tokens <= num_common}
        cached = self._kv.cached
        return (slot for slot in cached if slot in found)

    def _value(self, slot: SlotId, now_s: float) -> tuple[bool, float]:
        kept = self._kept[slot]
        saved_s = self._cost.prefill_cost_s(0, kept.num_tokens)
        rate = (1 + kept.num_uses) / (now_s - kept.last_used_s + _FORGOTTEN_S)
        return bool(kept.claimers), saved_s * rate / max(1, self._kv.freed_by(slot))
