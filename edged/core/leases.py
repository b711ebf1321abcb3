"""Cells that batch answers hold ahead of what they need, so that they need not ask at each token.

Theory of operation. A lease is what a slot has reserved beyond the tokens that are known. An answer
of the batch tier renews it when it is used up, by as many cells as are to spare: beside what all
that run need for their next token. Where there are not enough for a whole lease it goes on token by
token, as all others do, and who does not fit yields before the step (`edged.core.placement`): in a
step cells never run out. What of leases is not used yet is free to others: it is taken back before
KV that is kept is dropped for a step, and before anybody yields.
"""

from collections.abc import Collection, Iterable

from edged.core.kv import KvBudget
from edged.core.sequence import Sequence
from edged.core.types import SlotId, SloTier


def unused_lease(kv: KvBudget, seq: Sequence) -> int:
    """Cells that a running sequence holds and has no tokens for."""
    assert seq.slot is not None, f"I1: {seq.seq_id} runs without a slot"
    return max(0, kv.cells[seq.slot] - len(seq.token_ids))


def take_back_leases(kv: KvBudget, running: Iterable[Sequence], slots: Collection[SlotId]) -> None:
    """As a plan says."""
    if slots:
        for seq in running:
            if seq.slot is not None and seq.slot in slots:
                kv.trim(seq.slot, kv.cells[seq.slot] - unused_lease(kv, seq))


def renew_leases(kv: KvBudget, running: Iterable[Sequence], lease_tokens: int) -> None:
    """After a step; most urgent first."""
    spare, cells = kv.empty_cells, kv.cells
    due: list[Sequence] = []
    for seq in running:
        assert seq.slot is not None, f"I1: {seq.seq_id} runs without a slot"
        missing = len(seq.token_ids) - cells[seq.slot]
        if missing > 0:
            spare -= missing
            if seq.tier is SloTier.BATCH:
                due.append(seq)
    for seq in due:
        assert seq.slot is not None
        num_tokens = len(seq.token_ids)
        # The last token's KV is never computed.
        end = min(num_tokens + lease_tokens, seq.num_prompt_tokens + seq.max_tokens) - 1
        if end - num_tokens <= spare:
            spare -= end - num_tokens
            kv.reserve(seq.slot, end)
