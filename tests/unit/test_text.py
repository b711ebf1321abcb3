"""Prompts to token ids: what each form does with control tokens, BOS, limits of the vocabulary."""

from dataclasses import replace

import pytest

from backends.sim import SimBackend, SimModel
from backends.sim.tokenizer import BOS_ID, TURN_END_ID, TURN_START_ID
from edged.backend import BackendConfig
from edged.clock import ManualClock
from edged.core.types import SamplingParams
from edged.engine.text import PromptEncoder
from edged.engine.wire import ChatMessage, ChatPrompt, TextPrompt, TokensPrompt
from edged.errors import InvalidRequestError

CHAT = ChatPrompt((ChatMessage("user", "Hi"),))


def encoder(*, chat_template: str | None = None, vocab_size: int = 300) -> PromptEncoder:
    """Of the simulated model, with another template if one is given."""
    config = BackendConfig(model_path="", context_tokens=64, max_sequences=1)
    backend = SimBackend(config, ManualClock(), model=SimModel(vocab_size=vocab_size))
    info = backend.info
    if chat_template is not None:
        info = replace(info, chat_template=chat_template)
    return PromptEncoder(backend.tokenizer, info)


def test_plain_text_gets_the_bos_and_its_control_tokens_are_ordinary_characters() -> None:
    text = "<|im_start|>é"
    assert encoder().encode(TextPrompt(text)) == (BOS_ID, *text.encode())


def test_a_chat_is_rendered_and_its_control_tokens_are_read() -> None:
    assert encoder().encode(CHAT) == (
        BOS_ID,
        TURN_START_ID,
        *b"user\nHi",
        TURN_END_ID,
        *b"\n",
        TURN_START_ID,
        *b"assistant\n",
    )


def test_a_template_without_bos_gets_one() -> None:
    token_ids = encoder(chat_template="{{ messages[0].content }}").encode(CHAT)
    assert token_ids == (BOS_ID, *b"Hi")


def test_token_ids_are_taken_as_they_are() -> None:
    assert encoder().encode(TokensPrompt((5, 0, 299))) == (5, 0, 299)


@pytest.mark.parametrize("token_id", [300, -1, 2**40])
def test_a_token_outside_the_vocabulary_is_refused_with_both_numbers(token_id: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        encoder().encode(TokensPrompt((5, token_id)))
    assert caught.value.detail == (
        f"prompt.token_ids.ids: token {token_id} at position 1 is not in [0, 300)"
    )
    assert caught.value.violations[0].field == "prompt.token_ids.ids"


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (TextPrompt(""), "prompt.text"),
        (TokensPrompt(()), "prompt.token_ids.ids"),
        (ChatPrompt(()), "prompt.chat"),
    ],
)
def test_an_empty_prompt_is_refused(
    prompt: TextPrompt | TokensPrompt | ChatPrompt, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        encoder().encode(prompt)
    assert caught.value.violations[0].field == field


def test_sampling_may_only_name_tokens_of_the_vocabulary() -> None:
    valid = SamplingParams(stop_token_ids=(299,), logit_bias=((0, 1.0),))
    encoder().check_sampling(valid)
    with pytest.raises(InvalidRequestError, match=r"sampling\.stop_token_ids: token 300"):
        encoder().check_sampling(replace(valid, stop_token_ids=(1, 300)))
    with pytest.raises(InvalidRequestError, match=r"sampling\.logit_bias: token 300"):
        encoder().check_sampling(replace(valid, logit_bias=((300, 1.0),)))
