"""One request as the daemon remembers it: enough to go on with it on another engine.

Theory of operation: what was submitted, the prompt's ids once an engine reported them, and every
token that was delivered. `submit` builds the command for the next engine from these, so the answer
goes on exactly where it stopped: the draw of token n depends on the tokens before it alone. Tokens
are kept as 32-bit numbers, and the text of a prompt only until its ids are known.
"""

from array import array
from dataclasses import replace

from edged.core.types import PastService, RequestId
from edged.engine.wire import Delta, Submit, TokensPrompt
from edged.supervise.exits import EngineGarbageError
from edged.supervise.model import Submission


class Replay:
    """Pure: no clock, no I/O."""

    def __init__(self, submission: Submission) -> None:
        self._submission = submission
        self._prompt_token_ids: array[int] | None = None
        self._generated = array("I")
        self._first_scheduled_s: float | None = None
        self._first_token_s: float | None = None
        self._last_token_s: float | None = None
        self._num_preemptions = 0
        self._num_engine_losses = 0
        self._promised: bool | None = None

    @property
    def request_id(self) -> RequestId:
        return self._submission.request_id

    @property
    def submission(self) -> Submission:
        """As it was made; the prompt is empty token ids once the engine reported them."""
        return self._submission

    @property
    def has_run(self) -> bool:
        """Whether it was in a step of an engine, as far as is known."""
        return self._first_scheduled_s is not None or self.num_generated_tokens > 0

    @property
    def is_admitted(self) -> bool:
        """Whether an engine ever admitted it."""
        return self._prompt_token_ids is not None

    @property
    def num_prompt_tokens(self) -> int:
        """0 until it was admitted."""
        return 0 if self._prompt_token_ids is None else len(self._prompt_token_ids)

    @property
    def num_generated_tokens(self) -> int:
        return len(self._generated)

    @property
    def past(self) -> PastService:
        return PastService(
            first_scheduled_s=self._first_scheduled_s,
            first_token_s=self._first_token_s,
            last_token_s=self._last_token_s,
            num_preemptions=self._num_preemptions,
            num_engine_losses=self._num_engine_losses,
            promised=self._promised,
        )

    def admit(self, prompt_token_ids: tuple[int, ...], promised: bool | None = None) -> None:
        """An engine reported the prompt's ids; a later engine is given them, and what the first one
        promised.

        Raises:
            EngineGarbageError: there is a number that is no token id. Nothing is remembered.
        """
        if self._prompt_token_ids is None:
            self._prompt_token_ids = _compact(prompt_token_ids)
            self._promised = promised
            self._submission = replace(self._submission, prompt=TokensPrompt(()))

    def schedule(self, at_s: float) -> None:
        """An engine computed something for it, at this moment or earlier."""
        if self._first_scheduled_s is None:
            self._first_scheduled_s = at_s

    def preempt(self) -> None:
        self._num_preemptions += 1

    def lose_engine(self) -> None:
        self._num_engine_losses += 1

    def take(self, delta: Delta) -> bool:
        """Remember what a delta delivers; False for a duplicate, which is to be dropped.

        Raises:
            EngineGarbageError: it leaves a gap, or overlaps in part, so that its text cannot be
                told apart, or has a number that is no token id. Nothing is remembered.
        """
        expected = len(self._generated)
        end = delta.index + len(delta.token_ids)
        if delta.token_ids and end <= expected:
            return False
        if delta.index != expected:
            raise EngineGarbageError(
                f"tokens {delta.index} to {end} of request {self.request_id} came after "
                f"{expected} tokens"
            )
        self._generated.extend(_compact(delta.token_ids))
        if delta.token_ids:
            self._last_token_s = delta.at_s
            if self._first_token_s is None:
                self._first_token_s = delta.at_s
                self.schedule(delta.at_s)
        return True

    def submit(self) -> Submit:
        """The command that makes an engine go on with this request."""
        submission = self._submission
        prompt = submission.prompt
        if self._prompt_token_ids is not None:
            prompt = TokensPrompt(tuple(self._prompt_token_ids))
        return Submit(
            request_id=submission.request_id,
            client_id=submission.client_id,
            prompt=prompt,
            sampling=submission.sampling,
            service=submission.service,
            stop=submission.stop,
            arrival_s=submission.arrival_s,
            deadline_s=submission.deadline_s,
            generated_token_ids=tuple(self._generated),
            past=self.past,
            expected_tokens=submission.expected_tokens,
            on_unattainable=submission.on_unattainable,
        )


def _compact(token_ids: tuple[int, ...]) -> "array[int]":
    try:
        return array("I", token_ids)
    except OverflowError as error:
        raise EngineGarbageError("a token id is outside [0, 2³²)") from error
