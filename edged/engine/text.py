"""A prompt of any form becomes token ids, checked against the model's vocabulary."""

from typing import assert_never

from edged.backend import BackendInfo, Tokenizer
from edged.core.types import SamplingParams
from edged.engine.template import ChatTemplate
from edged.engine.wire import ChatPrompt, Prompt, TextPrompt, TokensPrompt
from edged.errors import InvalidRequestError


class PromptEncoder:
    """Holds one model's tokenizer and chat template; keeps no state, any thread may call it."""

    def __init__(self, tokenizer: Tokenizer, info: BackendInfo) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = info.vocab_size
        self._bos_token = info.bos_token
        self._template = ChatTemplate(
            info.chat_template, bos_token=info.bos_token, eos_token=info.eos_token
        )

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt, at least one.

        Control tokens are read in a rendered chat only: in plain text they are ordinary
        characters. A chat template that writes the BOS itself gets no second one.

        Raises:
            InvalidRequestError: naming prompt.text, prompt.token_ids.ids or prompt.chat.
        """
        match prompt:
            case TextPrompt(text):
                if not text:
                    raise InvalidRequestError("prompt.text", "is empty; text is needed")
                token_ids = self._tokenizer.encode(text, add_special=True, parse_special=False)
                return _not_empty("prompt.text", token_ids)
            case TokensPrompt(token_ids=given):
                check_token_ids("prompt.token_ids.ids", given, self._vocab_size)
                return _not_empty("prompt.token_ids.ids", given)
            case ChatPrompt(messages):
                text = self._template.render(messages)
                has_bos = bool(self._bos_token) and text.startswith(self._bos_token)
                token_ids = self._tokenizer.encode(
                    text, add_special=not has_bos, parse_special=True
                )
                return _not_empty("prompt.chat", token_ids)
            case _:
                assert_never(prompt)

    def check_sampling(self, sampling: SamplingParams) -> None:
        """Hold the token ids in sampling parameters to the vocabulary.

        Raises:
            InvalidRequestError: naming sampling.stop_token_ids or sampling.logit_bias.
        """
        check_token_ids("sampling.stop_token_ids", sampling.stop_token_ids, self._vocab_size)
        biased = tuple(token_id for token_id, _ in sampling.logit_bias)
        check_token_ids("sampling.logit_bias", biased, self._vocab_size)


def check_token_ids(field: str, token_ids: tuple[int, ...], vocab_size: int) -> None:
    """Raises InvalidRequestError: names the first id that is not in [0, vocab_size)."""
    if not token_ids or (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        return
    position, token_id = next(
        (position, token_id)
        for position, token_id in enumerate(token_ids)
        if not 0 <= token_id < vocab_size
    )
    raise InvalidRequestError(
        field, f"token {token_id} at position {position} is not in [0, {vocab_size})"
    )


def _not_empty(field: str, token_ids: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    if not token_ids:
        raise InvalidRequestError(field, "has no tokens; at least one is needed")
    return tuple(token_ids)
