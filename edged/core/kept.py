"""KV that outlives the sequence that computed it, or waits for it: in a slot, in host memory, on
disk."""

from typing import TYPE_CHECKING

from edged.core.prefix import Tokens
from edged.core.types import FileId, SlotId, SnapshotId

if TYPE_CHECKING:
    from edged.core.sequence import Sequence


class Kept:
    """Mutable; owned by the holdings. It is in a slot or in host memory, not in both, and may be on
    disk besides or alone."""

    __slots__ = (
        "claimers",
        "file",
        "last_used_s",
        "num_uses",
        "number",
        "owner",
        "slot",
        "snapshot",
        "space",
        "tokens",
    )

    def __init__(self, number: int, space: str | None, tokens: Tokens, now_s: float) -> None:
        self.number = number
        """Older ones have smaller ones."""
        self.space = space
        """The client whose it is, as others do not find it; None serves all."""
        self.tokens = tokens
        self.slot: SlotId | None = None
        """A cached slot, or that of a running sequence."""
        self.snapshot: SnapshotId | None = None
        self.file: FileId | None = None
        """A copy of it, or all that there is."""
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
