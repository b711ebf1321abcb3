"""Who is to blame for a lost engine, and in which order suspects are tried.

Theory of operation: a loss that a request can have caused makes suspects of the requests in the
step that was executing, and of those whose submission the engine had not answered (their text may
have been what it fell over). If that is nobody, everyone on the engine that was in a step before
is a suspect: what only waited has done nothing. Each suspect is blamed once, and then tried: run
with nothing else on the engine, until it has delivered `TRIAL_TOKENS` new tokens or has ended. So
the next loss has one suspect, and whoever is the only suspect of a loss and was blamed before has
taken down two engines: it is convicted.

An innocent request is therefore convicted never because of a neighbour, whatever the neighbours do,
and while a trial goes on everybody else waits, and no text is tokenized for anybody else: a second
crash beside somebody would prove nothing.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from edged.core.types import RequestId

TRIAL_TOKENS = 2
"""One that the replay's prefill ends with, and one that a decode step draws."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a loss means for the requests that were on the engine."""

    suspects: frozenset[RequestId]
    """Blamed once more, and to be tried; without the convicted one."""
    convicted: RequestId | None


NOBODY = Verdict(frozenset(), None)


def judge(
    num_blames: Mapping[RequestId, int],
    *,
    executing: Set[RequestId],
    unanswered: Set[RequestId],
    has_questions: bool,
    is_blamable: bool,
) -> Verdict:
    """Who is blamed for a loss.

    `num_blames` has every request that the engine has worked on, with how often it was blamed
    before. With `has_questions` the engine had texts to tokenize that belong to no request: it may
    have fallen over one of these, so nobody is convicted.
    """
    if not is_blamable or not num_blames:
        return NOBODY
    present = num_blames.keys()
    suspects = frozenset((executing | unanswered) & present) or frozenset(present)
    if len(suspects) == 1 and not has_questions:
        (only,) = suspects
        if num_blames[only] > 0:
            return Verdict(frozenset(), only)
    return Verdict(suspects, None)


class Trials:
    """Suspects that are still to be tried, one at a time."""

    def __init__(self) -> None:
        self._waiting: list[RequestId] = []
        self._tried: RequestId | None = None
        self._num_missing_tokens = 0

    @property
    def are_over(self) -> bool:
        return not self._waiting

    @property
    def tried(self) -> RequestId | None:
        """Whose trial goes on."""
        return self._tried

    @property
    def first(self) -> RequestId:
        """Who is tried next. There is one unless the trials are over."""
        return self._waiting[0]

    def summon(self, request_ids: Iterable[RequestId]) -> None:
        """Add suspects, in the order in which they are to be tried."""
        self._waiting.extend(i for i in request_ids if i not in self._waiting)

    def begin(self) -> None:
        """The first suspect is on the engine now, alone."""
        self._tried = self.first
        self._num_missing_tokens = TRIAL_TOKENS

    def interrupt(self) -> None:
        """The engine is lost: whoever was being tried will be tried again."""
        self._tried = None

    def deliver(self, request_id: RequestId, num_tokens: int) -> None:
        """New tokens, which may end the request's trial, in its favour."""
        if request_id == self._tried:
            self._num_missing_tokens -= num_tokens
            if self._num_missing_tokens <= 0:
                self.dismiss(request_id)

    def dismiss(self, request_id: RequestId) -> None:
        """The request has passed, was convicted or has ended; nothing if it is no suspect."""
        if request_id == self._tried:
            self._tried = None
        if request_id in self._waiting:
            self._waiting.remove(request_id)
