"""Beginnings whose KV is kept for others, and who counts on them.

Theory of operation. As soon as a sequence's prompt is computed, and again when it leaves its slot,
the tree of beginnings knows what the slot holds. A sequence that waits *claims* the longest
beginning of its own that is kept, if having it costs less than computing it: those tokens count as
computed, and when it gets a slot it takes or shares the cells, or its slot is filled from host
memory. A slot that a sequence leaves is *cached*, if there is a cache slot for it: it keeps its KV
until its cells or its slot are needed. Cached cells are free for every sequence that runs: the
cache never costs one a cell.

Where slots cannot hold cells together, a slot begins with a copy of what a running one holds; what
has left its slot is in host memory there.

A preempted sequence owns its KV, *parked* in its slot or *swapped* in host memory, and claims it
like any other. Who loses a claim claims again, or computes it all.

| what | unit |
|---|---|
| a beginning, a claim | tokens, `MIN_TOKENS` or more, but for an owner's |
"""

from edged.core.holdings import MIN_TOKENS, Holdings
from edged.core.kept import Kept
from edged.core.policy import SchedulerConfig
from edged.core.prefix import PrefixTree, Tokens, common_length
from edged.core.sequence import Sequence, by_rank
from edged.core.types import PreemptMode, PrefixSharing, SlotId, SnapshotId


class PrefixCache:
    """Mutable; owned by the scheduler. Without `config.caches_prefixes` it keeps only what
    preempted sequences own. What returns sequences returns those that wait and gain or lose by it,
    to be taken out of the queue for `reclaim`."""

    def __init__(self, holdings: Holdings, config: SchedulerConfig, *, can_copy: bool) -> None:
        """`can_copy`: whether a slot can begin with a copy of another, where none share cells."""
        self._holdings = holdings
        self._kv = holdings.kv
        self._cost = holdings.cost
        self._sharing = config.prefix_sharing
        self.is_on = config.caches_prefixes
        self.can_share = self.is_on and self._kv.shares_cells
        self._publishes = self.can_share or (self.is_on and can_copy)
        """Whether what a running sequence has computed serves others."""
        self._waiting: PrefixTree[Sequence] = PrefixTree()

    # ── Sequences that wait ──────────────────────────────────────────────────────────────────────

    def arrive(self, seq: Sequence) -> None:
        """A sequence begins to wait, with KV of its own or without. Called before it is queued."""
        if not self.is_on or seq.claim is not None:
            return
        tokens = tuple(seq.token_ids)
        self._waiting.insert(self._space(seq), tokens, seq)
        self._claim(seq, tokens)

    def leave(self, seq: Sequence) -> None:
        """It waits no more; called after it left the queue. Its claim, if any, is over, and what it
        owned stays for others, if they could want it."""
        if seq in self._waiting:
            self._waiting.remove(seq)
        kept = seq.claim
        self._unclaim(seq)
        if kept is not None and kept.owner is seq:
            kept.owner = None
            if kept.slot is not None and kept.slot == seq.slot:
                if kept not in self._holdings.tree:
                    self._holdings.forget(kept)
            elif not kept.claimers and (seq.slot is not None or kept not in self._holdings.tree):
                self._holdings.give_up(kept)

    def reclaim(self, seq: Sequence) -> None:
        """Look again for one that is out of the queue for that."""
        self._unclaim(seq)
        tokens = tuple(seq.token_ids)
        if self.is_on and seq not in self._waiting:  # it had KV of its own
            self._waiting.insert(self._space(seq), tokens, seq)
        self._claim(seq, tokens)

    def follows(self, seq: Sequence, running: list[Sequence]) -> bool:
        """Whether one that is more urgent, or as urgent and under way, is about to compute more of
        a beginning than it claims, so that it had better wait for that."""
        if not self._publishes or seq.has_kv:
            return False
        space, least = self._space(seq), max(seq.num_computed_tokens, MIN_TOKENS) + MIN_TOKENS
        return any(
            one.first_token_s is None
            and not one.is_decoding
            and _goes_ahead(one, seq)
            and self._space(one) == space
            and one.token_ids[:least] == seq.token_ids[:least]
            and min(one.num_prompt_tokens, len(seq.token_ids)) > least
            and self._is_worth_waiting(one, seq)
            for one in running
        )

    def _is_worth_waiting(self, one: Sequence, seq: Sequence) -> bool:
        """Whether the rest of the prompt of `one` takes at most twice what computing what they have
        in common would."""
        common = common_length(one.token_ids[: one.num_prompt_tokens], seq.token_ids)
        done, start = one.num_computed_tokens, seq.num_computed_tokens
        rest_s = self._cost.prefill_cost_s(done, one.num_prompt_tokens - done)
        return rest_s <= 2 * self._cost.prefill_cost_s(start, common - start)

    def start(self, seq: Sequence, slot: SlotId, now_s: float) -> int:
        """A sequence that waits gets `slot`, with what it claims; returns how many tokens of that
        somebody else has computed."""
        kept = seq.claim
        if kept is not None and kept.slot == slot:
            self._kv.adopt(slot, seq.seq_id)
        else:
            self._kv.take(slot, seq.seq_id)
            if kept is not None and kept.slot is not None:
                self._kv.share(kept.slot, slot, seq.num_computed_tokens)
        if kept is None or kept.owner is seq:
            return 0
        kept.use(now_s)
        return seq.num_computed_tokens

    # ── Sequences that run, and leave their slots ────────────────────────────────────────────────

    def publish(self, seq: Sequence, now_s: float) -> list[Sequence]:
        """The prompt of a running sequence is computed."""
        num_tokens, slot = seq.num_prompt_tokens, seq.slot
        assert slot is not None, f"I1: {seq.seq_id} runs without a slot"
        kept = self._holdings.by_slot.get(slot)
        held = 0 if kept is None else kept.num_tokens
        if not self._publishes or num_tokens < MIN_TOKENS or held >= num_tokens:
            return []
        tokens = tuple(seq.token_ids[:num_tokens])
        self._holdings.keep(slot, self._space(seq), tokens, now_s)
        return self._gaining(self._space(seq), tokens)

    def retire(self, seq: Sequence, now_s: float) -> list[Sequence]:
        """A sequence leaves its slot for good, which is cached, or given up if what it holds is of
        no use."""
        slot, num_tokens = seq.slot, seq.num_computed_tokens
        assert slot is not None, f"I1: {seq.seq_id} runs without a slot"
        if not self.is_on or num_tokens < MIN_TOKENS:
            return self._holdings.give_up_slot(slot)
        space, tokens = self._space(seq), tuple(seq.token_ids[:num_tokens])
        own = self._holdings.by_slot.get(slot)
        others = self._within(space, tokens, own)
        if any(one.slot is not None and one.num_tokens == num_tokens for one in others):
            return self._holdings.give_up_slot(slot)
        affected: list[Sequence] = []
        self._kv.cache(slot, num_tokens)
        kept = self._holdings.keep(slot, space, tokens, now_s)
        is_running = self._holdings.is_running
        replaced = [one for one in others if one.owner is None and not is_running(one)]
        kept.num_uses += sum(one.num_uses for one in replaced)
        if self._kv.geometry.idle_cells_cost:
            affected += self._holdings.move_down(kept, now_s) or []
        affected += self._move_surplus(now_s)
        if kept in self._holdings.tree:  # else there was no room for it
            for other in replaced:
                affected += self._holdings.give_up(other) if other in self._holdings.tree else []
        affected += self._gaining(space, tokens)
        return list(dict.fromkeys(affected))

    def preempt(
        self, seq: Sequence, mode: PreemptMode, snapshot: SnapshotId | None, now_s: float
    ) -> tuple[PreemptMode, list[Sequence]]:
        """A sequence leaves its slot and is to go on; returns what has become of its KV. One that
        was to be saved, and could not be, is to be recomputed."""
        slot, num_tokens = seq.slot, seq.num_computed_tokens
        assert slot is not None, f"I1: {seq.seq_id} runs without a slot"
        seq.slot = None
        if mode is PreemptMode.SWAP and snapshot is None:
            mode = PreemptMode.RECOMPUTE
        if mode is PreemptMode.RECOMPUTE:
            seq.num_computed_tokens = 0
            return mode, self._holdings.drop(slot)
        if mode is PreemptMode.PARK:
            self._kv.cache(slot, num_tokens)
        tokens = tuple(seq.token_ids[:num_tokens])
        kept = self._holdings.keep(slot, self._space(seq), tokens, now_s)
        if snapshot is not None:
            self._holdings.move(kept, snapshot)
        kept.owner = seq
        kept.claimers[seq] = None
        seq.claim = kept
        return mode, self._move_surplus(now_s)

    def check(self) -> None:
        self._waiting.check()

    # ── Inside ───────────────────────────────────────────────────────────────────────────────────

    def _space(self, seq: Sequence) -> str | None:
        return seq.request.client_id if self._sharing is PrefixSharing.CLIENT else None

    def _move_surplus(self, now_s: float) -> list[Sequence]:
        """Of the cached slots, keep as many as there are cache slots, and those worth most."""
        holdings = self._holdings
        affected: list[Sequence] = []
        while len(self._kv.cached) > self._kv.geometry.num_cache_slots:
            affected += holdings.leave_cells(holdings.by_value(now_s)[0], now_s)
        return affected

    def _claim(self, seq: Sequence, tokens: Tokens) -> None:
        """What saves most time. The last token is computed in any case, for what is drawn after
        it."""
        best: tuple[float, int, Kept] | None = None
        num_claimed = 0
        for num_common, all_kept in self._holdings.tree.match(self._space(seq), tokens):
            num_tokens = min(num_common, len(tokens) - 1)
            saved_s = self._cost.prefill_cost_s(0, num_tokens)
            if num_tokens < MIN_TOKENS or (best is not None and saved_s <= best[0]):
                break
            for kept in all_kept:
                gain_s = saved_s - self._holdings.fetch_s(kept, num_tokens)
                if gain_s >= 0 and (best is None or (gain_s, -kept.number) > best[:2]):
                    best = gain_s, -kept.number, kept
                    num_claimed = num_tokens
        if best is not None:
            kept = best[2]
            seq.claim, seq.num_computed_tokens = kept, num_claimed
            kept.claimers[seq] = None

    def _unclaim(self, seq: Sequence) -> None:
        """Where it holds nothing of its own, nothing is computed then."""
        if seq.claim is None:
            return
        seq.claim.claimers.pop(seq, None)
        seq.claim = None
        if seq.slot is None:
            seq.num_computed_tokens = 0

    def _gaining(self, space: str | None, tokens: Tokens) -> list[Sequence]:
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

    def _within(self, space: str | None, tokens: Tokens, own: Kept | None) -> list[Kept]:
        """What else is kept of a beginning of `tokens` and no more; the oldest first."""
        found: set[Kept] = set()
        for num_common, all_kept in self._holdings.tree.match(space, tokens):
            found |= {kept for kept in all_kept if kept.num_tokens <= num_common}
        return sorted(found - {own}, key=lambda kept: kept.number)


def _goes_ahead(one: Sequence, seq: Sequence) -> bool:
    """Whether a running one will have computed what it has in common with one that waits before
    that could."""
    is_under_way = one.num_computed_tokens > seq.num_computed_tokens + MIN_TOKENS
    return by_rank(one) < by_rank(seq) or (is_under_way and one.rank.band <= seq.rank.band)
