"""Which tiers are owed time: the guarantee `min_share` behind a strict order.

Theory of operation: while a tier has work it earns `min_share` of every second and pays for the
seconds it is served. Once its credit reaches one quantum the tier is *owed*: until the credit is
spent only what was promised its targets goes before its sequences, and slots and cells that will
soon be free are kept for its first waiting one. Being owed evicts nobody, and the quantum keeps
tiers from trading places at every step. So a tier with work is served again at the latest
`quantum_s / min_share` seconds, plus the longest step, what is promised and due, and the wait for
room, after it was served last (I9).
"""

from collections.abc import Iterable, Mapping, Sequence

from edged.core.queue import WaitingQueue
from edged.core.sequence import Sequence as SchedulerSequence
from edged.core.types import SloTier, TierSpec


class TierShares:
    """Mutable; owned by the scheduler."""

    def __init__(self, tiers: Iterable[TierSpec], quantum_s: float) -> None:
        self._min_share = {spec.tier: spec.min_share for spec in tiers if spec.min_share > 0}
        self._quantum_s = quantum_s
        self._credit_s = dict.fromkeys(self._min_share, 0.0)
        self.owed: frozenset[SloTier] = frozenset()

    def set_tiers(self, tiers: Iterable[TierSpec]) -> None:
        """Other shares from now on; what was earned by then stays earned."""
        self._min_share = {spec.tier: spec.min_share for spec in tiers if spec.min_share > 0}
        self._credit_s = {tier: self._credit_s.get(tier, 0.0) for tier in self._min_share}
        self.owed = frozenset(tier for tier in self.owed if tier in self._min_share)

    def account(
        self,
        elapsed_s: float,
        served_tokens: Mapping[SloTier, int],
        running: Sequence[SchedulerSequence],
        queue: WaitingQueue,
    ) -> None:
        """After a step that took `elapsed_s` and computed so many tokens of some tiers; `running`
        and `queue` hold the work that is left."""
        for tier, share in self._min_share.items():
            served = served_tokens.get(tier, 0)
            if served and len(served_tokens) == 1 and not self.owed and not self._credit_s[tier]:
                continue  # it has all the time there is
            if not (served or queue.has(tier) or any(seq.tier is tier for seq in running)):
                self._credit_s[tier] = 0.0
                self._set_owed(tier, False)
                continue
            served_s = elapsed_s * served / sum(served_tokens.values()) if served else 0.0
            credit_s = self._credit_s[tier] + share * elapsed_s - served_s
            self._credit_s[tier] = min(max(credit_s, 0.0), 2 * self._quantum_s)
            if credit_s >= self._quantum_s:
                self._set_owed(tier, True)
            elif credit_s <= 0 and self.owed:
                self._set_owed(tier, False)

    def _set_owed(self, tier: SloTier, is_owed: bool) -> None:
        if is_owed != (tier in self.owed):
            self.owed ^= {tier}
