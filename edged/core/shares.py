"""Which tiers are owed time: the guarantee `min_share` behind a strict order.

Theory of operation: while a tier has work it earns `min_share` of every second and pays for the
seconds it is served. Once its credit reaches one quantum the tier is *owed*: until the credit is
spent its sequences rank with the most urgent band, and slots and cells that become free are kept
for its first waiting one. Being owed evicts nobody, and the quantum keeps tiers from trading places
at every step. So a tier with work is served again at the latest `quantum_s / min_share` seconds,
plus the longest step and the wait for room, after it was served last (I9).
"""

from collections.abc import Iterable, Mapping

from edged.core.types import SloTier, TierSpec


class TierShares:
    """Mutable; owned by the scheduler."""

    def __init__(self, tiers: Iterable[TierSpec], quantum_s: float) -> None:
        self._min_share = {spec.tier: spec.min_share for spec in tiers if spec.min_share > 0}
        self._quantum_s = quantum_s
        self._credit_s = dict.fromkeys(self._min_share, 0.0)
        self._owed: frozenset[SloTier] = frozenset()

    @property
    def owed(self) -> frozenset[SloTier]:
        return self._owed

    def account(
        self, elapsed_s: float, served_s: Mapping[SloTier, float], busy: frozenset[SloTier]
    ) -> None:
        """After a step: `elapsed_s` passed, each tier was served `served_s` of it, and the tiers
        in `busy` have work left."""
        owed = set(self._owed)
        for tier, share in self._min_share.items():
            if tier not in busy:
                self._credit_s[tier] = 0.0
                owed.discard(tier)
                continue
            credit = self._credit_s[tier] + share * elapsed_s - served_s.get(tier, 0.0)
            self._credit_s[tier] = min(max(credit, 0.0), 2 * self._quantum_s)
            if credit >= self._quantum_s:
                owed.add(tier)
            elif credit <= 0:
                owed.discard(tier)
        self._owed = frozenset(owed)
