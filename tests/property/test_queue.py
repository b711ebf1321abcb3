"""The queue agrees with a plain model, whatever is done."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edged.core.queue import WaitingQueue
from edged.core.sequence import Sequence
from edged.core.types import Rank, SeqId, SloTier
from tests.factories import TIERS, request


@given(
    st.lists(
        st.tuples(st.sampled_from(SloTier), st.floats(0, 10), st.booleans(), st.booleans()),
        min_size=1,
        max_size=50,
    ),
    st.sets(st.sampled_from(SloTier)),
)
@settings(deadline=None)
def test_the_queue_is_in_order_and_knows_every_place(
    arrivals: list[tuple[SloTier, float, bool, bool]], owed: set[SloTier]
) -> None:
    queue = WaitingQueue(TIERS)
    waiting: list[Sequence] = []
    for number, (tier, arrival_s, leaves, promised) in enumerate(arrivals):
        wanted = request(f"r{number}", tier=tier, arrival_s=arrival_s)
        seq = Sequence(SeqId(number), wanted, max_tokens=4, stop_token_ids=frozenset())
        seq.rank = Rank(list(SloTier).index(tier), 0, arrival_s)
        seq.promised = promised
        queue.add(seq)
        waiting.append(seq)
        if leaves:
            queue.remove(waiting.pop(number // 2 % len(waiting)))
    ordered = sorted(waiting, key=lambda seq: (seq.rank, seq.seq_id))
    assert list(queue.in_order(frozenset())) == ordered
    assert [queue.position(seq) for seq in ordered] == list(range(len(ordered)))
    assert len(queue) == len(waiting)
    lifted = list(queue.in_order(frozenset(owed)))
    kept = [seq for seq in ordered if seq.is_kept_in_time] if owed else []
    rest = [seq for seq in ordered if seq not in kept]
    heads = [next((seq for seq in rest if seq.tier is tier), None) for tier in SloTier]
    first = [seq for seq in heads if seq is not None and seq.tier in owed]
    assert lifted == [*kept, *first, *(seq for seq in rest if seq not in first)]
