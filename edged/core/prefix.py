"""Who holds the KV of which beginning: a radix tree over token ids.

Theory of operation: an edge of the tree carries the tokens that all below it go on with, and a node
knows who holds the KV of all tokens from the root to it. A holder comes in with its tokens and goes
out again; what only it held goes with it, and nodes that no longer branch are joined, so that the
tree is the same whatever came and went before. Each space of names has a root of its own: what one
client asked is not found from the prompts of another, unless they are to share.

| operation | time |
|---|---|
| insert, remove, match | tokens of the path, and branches on it |
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

HolderT = TypeVar("HolderT", bound=Hashable)

Tokens = tuple[int, ...]
_BLOCK = 64
"""Tokens that are compared at once."""


class _Node(Generic[HolderT]):
    __slots__ = ("children", "holders", "parent", "tokens")

    def __init__(
        self, tokens: Tokens, holders: set[HolderT], parent: "_Node[HolderT] | None"
    ) -> None:
        self.tokens = tokens
        """From its parent to it; none for a root."""
        self.holders = holders
        """Those that hold all tokens from the root to it, and maybe more; a root knows none."""
        self.parent = parent
        self.children: dict[int, _Node[HolderT]] = {}
        """By their first token."""


class PrefixTree(Generic[HolderT]):
    """Mutable; whoever owns it says who holds what."""

    def __init__(self) -> None:
        self._roots: dict[Hashable, _Node[HolderT]] = {}
        self._ends: dict[HolderT, tuple[Hashable, _Node[HolderT]]] = {}

    def __contains__(self, holder: HolderT) -> bool:
        return holder in self._ends

    def __len__(self) -> int:
        """Holders."""
        return len(self._ends)

    @property
    def num_tokens(self) -> int:
        """On all edges: of beginnings that several hold, each counts once."""
        return sum(len(node.tokens) for node in self._nodes())

    def insert(self, space: Hashable, tokens: Tokens, holder: HolderT) -> None:
        """`holder`, which is not in the tree, holds the KV of `tokens`, of which there are some."""
        assert holder not in self._ends, f"{holder} is in the tree already"
        assert tokens, f"{holder} holds nothing"
        node = self._roots.setdefault(space, _Node((), set(), None))
        at = 0
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                child = _Node(tokens[at:], set(), node)
                node.children[tokens[at]] = child
                at = len(tokens)
            else:
                num_common = _num_common(child.tokens, tokens, at)
                if num_common < len(child.tokens):
                    child = _split(child, num_common)
                at += num_common
            child.holders.add(holder)
            node = child
        self._ends[holder] = (space, node)

    def remove(self, holder: HolderT) -> None:
        """Forget a holder and what only it held."""
        space, node = self._ends.pop(holder)
        while node.parent is not None:
            parent = node.parent
            node.holders.remove(holder)
            if node.holders:
                _join(node)
            else:
                del parent.children[node.tokens[0]]
            node = parent
        if not node.children:
            del self._roots[space]

    def match(self, space: Hashable, tokens: Tokens) -> Iterator[tuple[int, set[HolderT]]]:
        """How many of the first tokens are held, and by whom; the most first, then fewer and fewer
        that more and more hold. The sets are the tree's own."""
        found: list[tuple[int, set[HolderT]]] = []
        node, at = self._roots.get(space), 0
        while node is not None and at < len(tokens):
            node = node.children.get(tokens[at])
            if node is None:
                break
            num_common = _num_common(node.tokens, tokens, at)
            at += num_common
            found.append((at, node.holders))
            if num_common < len(node.tokens):
                break
        return reversed(found)

    def num_alone(self, holder: HolderT) -> int:
        """How many of its tokens, from the end, nobody else holds."""
        _, node = self._ends[holder]
        num_tokens = 0
        while node.parent is not None and len(node.holders) == 1:
            num_tokens += len(node.tokens)
            node = node.parent
        return num_tokens

    def check(self) -> None:
        """Assert that the tree is what its holders make of it, and no more."""
        for space, root in self._roots.items():
            assert root.children, f"space {space!r} is empty"
        seen: set[HolderT] = set()
        for node in self._nodes():
            assert node.tokens, "an edge without tokens"
            assert node.holders, "a node that nobody holds"
            seen |= node.holders
            below: set[HolderT] = set()
            for first, child in node.children.items():
                assert child.parent is node, "a child of another parent"
                assert child.tokens[0] == first, "a child under another token"
                assert child.holders <= node.holders, "held below, not above"
                below |= child.holders
            ends = {one for one in node.holders if self._ends[one][1] is node}
            assert below | ends == node.holders, "held above, neither below nor ended"
            assert ends or len(node.children) > 1, "a node that neither ends nor branches"
        assert seen == set(self._ends), "holders that the tree does not know"

    def _nodes(self) -> Iterator[_Node[HolderT]]:
        """All but the roots."""
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two begin with alike."""
    return _num_common(tuple(one), tuple(other), 0)


def _num_common(edge: Tokens, tokens: Tokens, start: int) -> int:
    """How many tokens of an edge those from `start` on begin with."""
    most = min(len(edge), len(tokens) - start)
    at = 0
    while at < most and edge[at : at + _BLOCK] == tokens[start + at : start + at + _BLOCK]:
        at += _BLOCK
    while at < most and edge[at] == tokens[start + at]:
        at += 1
    return min(at, most)


def _split(node: _Node[HolderT], num_tokens: int) -> _Node[HolderT]:
    """Put a node into a node's edge, after so many tokens; returns it."""
    parent = node.parent
    assert parent is not None, "a root has no edge"
    upper = _Node(node.tokens[:num_tokens], set(node.holders), parent)
    parent.children[node.tokens[0]] = upper
    node.tokens = node.tokens[num_tokens:]
    node.parent = upper
    upper.children[node.tokens[0]] = node
    return upper


def _join(node: _Node[HolderT]) -> None:
    """Take a node out of the way to its only child, if nobody ends there."""
    if len(node.children) != 1:
        return
    [child] = node.children.values()
    if len(child.holders) < len(node.holders):
        return
    assert node.parent is not None, "a root is in nobody's way"
    node.parent.children[node.tokens[0]] = child
    child.tokens = node.tokens + child.tokens
    child.parent = node.parent
