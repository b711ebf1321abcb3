"""One answer on its way out: the engine's events become what the stream carries.

Theory of operation: a stop string is found here, in text, after the engine has drawn the token that
completes it. The answer ends there: the tokens drawn until the engine hears of it are dropped, and
the finish counts delivered tokens only. So is it for a replay, whose old tokens pass silently.
"""

from collections.abc import Callable
from dataclasses import replace

from edged.core.types import FinishEvent, FinishReason, SampledToken, TokenEvent
from edged.engine.text_stream import TextStream
from edged.engine.wire import Delta, DeltaLogprob, Finished, Submit, TopLogprob

Piece = Callable[[int], bytes]
"""The bytes of a token, by its id."""


class Answer:
    """The text state of one request; owned by the I/O thread."""

    def __init__(self, submit: Submit, prompt_token_ids: tuple[int, ...], piece: Piece) -> None:
        self.request_id = submit.request_id
        self.prompt_token_ids = prompt_token_ids
        self.is_ending = False
        """The engine was asked to end the request."""
        self._piece = piece
        self._stream = TextStream(piece, submit.stop)
        for token_id in submit.generated_token_ids:
            self._stream.push(token_id)
        self._num_delivered = len(submit.generated_token_ids)

    @property
    def is_complete(self) -> bool:
        """A stop string was met: the engine is to end the request with STOP."""
        return self._stream.stop_string is not None

    def take(self, event: TokenEvent, at_s: float) -> Delta | None:
        """What a drawn token adds; None once the answer is complete."""
        if self._stream.stop_string is not None:
            return None
        assert event.token_index == self._num_delivered, (
            f"I4: token {event.token_index} of {self.request_id} follows "
            f"{self._num_delivered} tokens"
        )
        self._num_delivered += 1
        token = event.token
        text = self._stream.push(token.token_id)
        logprobs = () if token.logprob is None else (self._logprob(token, token.logprob),)
        return Delta(self.request_id, event.token_index, (token.token_id,), text, logprobs, at_s)

    def end(self, event: FinishEvent, at_s: float) -> tuple[Delta | None, Finished]:
        """The text that was held back, if any, and the finish."""
        text = self._stream.flush()
        stop_string = self._stream.stop_string
        if stop_string is not None:
            event = replace(
                event,
                reason=FinishReason.STOP,
                num_generated_tokens=self._num_delivered,
                detail="",
            )
        delta = Delta(self.request_id, self._num_delivered, (), text, (), at_s) if text else None
        return delta, Finished(event, stop_string)

    def _logprob(self, token: SampledToken, logprob: float) -> DeltaLogprob:
        top = tuple(
            TopLogprob(one.token_id, one.logprob, self._piece(one.token_id)) for one in token.top
        )
        return DeltaLogprob(token.token_id, logprob, self._piece(token.token_id), top)
