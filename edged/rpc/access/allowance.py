"""Decides how often and how much at once a caller may generate, as its grant says."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from edged.clock import Clock
from edged.errors import EdgedError, Reason
from edged.node.trust.bucket import RateBucket
from edged.rpc.access.caller import Caller

CONCURRENCY_RETRY_S = 1.0
MAX_BUCKETS = 4096
"""Callers whose rate is remembered; of more, the one that came first begins anew."""


class Allowance:
    """Counts what each caller has begun and has open. Used on one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._num_open: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, RateBucket]] = {}

    @contextmanager
    def generating(self, caller: Caller) -> Iterator[None]:
        """Hold one of the caller's places.

        Raises:
            EdgedError: CONCURRENCY_LIMITED, it has as many open as it may; RATE_LIMITED, it has
                begun as many of late.
        """
        self._check_concurrency(caller)
        self._check_rate(caller)
        self._num_open[caller.key] += 1
        try:
            yield
        finally:
            self._num_open[caller.key] -= 1
            if not self._num_open[caller.key]:
                del self._num_open[caller.key]

    def _check_concurrency(self, caller: Caller) -> None:
        most, num_open = caller.grant.max_concurrent_requests, self._num_open[caller.key]
        if most is not None and num_open >= most:
            raise EdgedError(
                Reason.CONCURRENCY_LIMITED,
                f"{caller.grant.name!r} has {num_open} requests open, the most it may at once; try "
                "again when one has ended",
                retry_after_s=CONCURRENCY_RETRY_S,
            )

    def _check_rate(self, caller: Caller) -> None:
        per_minute = caller.grant.max_requests_per_minute
        if per_minute is None:
            return
        now_s = self._clock.now_s()
        wait_s = self._bucket(caller.key, per_minute, now_s).take(now_s)
        if wait_s is not None:
            raise EdgedError(
                Reason.RATE_LIMITED,
                f"{caller.grant.name!r} may begin {per_minute:g} requests per minute; the next in "
                f"{wait_s:.3g} s",
                retry_after_s=wait_s,
            )

    def _bucket(self, key: str, per_minute: float, now_s: float) -> RateBucket:
        """A token whose rate was changed begins anew."""
        known = self._buckets.get(key)
        if known is not None and known[0] == per_minute:
            return known[1]
        if known is None and len(self._buckets) >= MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        bucket = RateBucket(per_minute, now_s)
        self._buckets[key] = (per_minute, bucket)
        return bucket
