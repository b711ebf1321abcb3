"""KV that outlives the sequence that computed it, or waits for it: in a slot, or in host memory."""

from collections.abc import Hashable
from typing import TYPE_CHECKING

from edged.core.prefix import Tokens
from edged.core.types import SlotId, SnapshotId

if TYPE_CHECKING:
    from edged.core.sequence import Sequence


class Kept:
    """Mutable; owned by the prefix cache. It is in one place at a time."""

    __slots__ = (
        "claimers",
        "last_used_s",
        "num_uses",
        "number",
        "owner",
        "slot",
        "snapshot",
        "space",
        "tokens",
    )

    def __init__(self, number: int, space: Hashable, tokens: Tokens, now_s: float) -> None:
        self.number = number
        """Older ones have smaller ones."""
        self.space = space
        """Whose it is: others do not find it."""
        self.tokens = tokens
        self.slot: SlotId | None = None
        """A cached slot, or that of a running sequence."""
        self.snapshot: SnapshotId | None = None
        self.owner: Sequence | None = None
        """The preempted sequence that goes on with it; while it has one it is not given up."""
        self.claimers: dict[Sequence, None] = {}
        """Those that wait and count on it, its owner too."""
        self.num_uses = 0
        self.last_used_s = now_s

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def use(self, now_s: float) -> None:
        """It has saved somebody from computing it."""
        self.num_uses += 1
        self.last_used_s = now_s
