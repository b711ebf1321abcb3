"""The tree of beginnings agrees with a plain list of who holds what, whatever comes and goes."""

import random
from itertools import takewhile

from hypothesis import given, settings
from hypothesis import strategies as st

from edged.core.prefix import PrefixTree, Tokens

CLIENTS = ("alice", "bob")


def num_common(one: Tokens, other: Tokens) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class Held:
    """A tree, and beside it what each holder put into it."""

    def __init__(self) -> None:
        self.tree: PrefixTree[int] = PrefixTree()
        self.paths: dict[int, tuple[str, Tokens]] = {}
        self.num_inserted = self.num_removed = self.num_found = 0

    def insert(self, client: str, tokens: Tokens) -> None:
        number = self.num_inserted
        self.num_inserted += 1
        self.tree.insert(client, tokens, number)
        self.paths[number] = (client, tokens)

    def remove(self, pick: int) -> None:
        if self.paths:
            holder = sorted(self.paths)[pick % len(self.paths)]
            self.tree.remove(holder)
            del self.paths[holder]
            self.num_removed += 1

    def compare(self, client: str, tokens: Tokens) -> None:
        """What is found for a prompt: for each number of tokens all that hold so many of it."""
        commons = {
            holder: num_common(held, tokens)
            for holder, (owner, held) in self.paths.items()
            if owner == client
        }
        found = list(self.tree.match(client, tokens))
        assert [length for length, _ in found] == sorted({n for n, _ in found}, reverse=True)
        assert max(commons.values(), default=0) == (found[0][0] if found else 0)
        for length, holders in found:
            assert holders == {one for one, common in commons.items() if common >= length}
        self.num_found += bool(found)
        for holder, (owner, held) in list(self.paths.items())[:2]:
            others = (
                one for key, (who, one) in self.paths.items() if key != holder and who == owner
            )
            shared = max((num_common(held, one) for one in others), default=0)
            assert self.tree.num_alone(holder) == len(held) - shared

    def count(self) -> int:
        """Beginnings of any length that somebody holds."""
        return len(
            {
                (owner, held[:n])
                for owner, held in self.paths.values()
                for n in range(1, 1 + len(held))
            }
        )


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(CLIENTS),
            st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple),
            st.integers(0, 50),
        ),
        max_size=60,
    )
)
@settings(deadline=None)
def test_what_is_found_is_what_is_held(
    operations: list[tuple[bool, str, Tokens, int]],
) -> None:
    held = Held()
    for inserts, client, tokens, pick in operations:
        if inserts:
            held.insert(client, tokens)
        else:
            held.remove(pick)
        held.compare(client, tokens)
        held.tree.check()
    assert held.tree.num_tokens == held.count()
    assert len(held.tree) == len(held.paths)


def test_a_hundred_thousand_operations() -> None:
    draw = random.Random(5)
    held = Held()
    for _ in range(100_000):
        client = draw.choice(CLIENTS)
        tokens = tuple(draw.randrange(3) for _ in range(draw.randint(1, 8)))
        if draw.randrange(20) < len(held.paths):
            held.remove(draw.randrange(1000))
        else:
            held.insert(client, tokens)
        held.compare(client, tokens)
        held.tree.check()
        assert held.tree.num_tokens == held.count()
        assert len(held.tree) == len(held.paths)


def test_long_prompts_over_a_long_time() -> None:
    """Prompts go on where others ended, as conversations do, over edges of hundreds of tokens."""
    draw = random.Random(7)
    held = Held()
    for _ in range(4_000):
        client = draw.choice(CLIENTS)
        tokens: Tokens = ()
        if held.paths and draw.random() < 0.8:
            client, before = held.paths[draw.choice(list(held.paths))]
            tokens = before[: draw.randint(0, len(before))]
        tokens += tuple(draw.randrange(3) for _ in range(draw.randint(1, 200)))
        held.compare(client, tokens)
        held.insert(client, tokens)
        while len(held.paths) > 30:
            held.remove(draw.randrange(1000))
        held.tree.check()
    assert held.num_removed > 3_000
    assert held.num_found > 3_000
    while held.paths:
        held.remove(0)
    assert (len(held.tree), held.tree.num_tokens) == (0, 0)
