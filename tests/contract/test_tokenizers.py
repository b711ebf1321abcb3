"""What a tokenizer promises: every text comes back, in pieces that may split a character."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from edged.backend import Backend

TEXTS = (
    "the quick brown fox",
    "  spaces   and\ttabs\nand lines\n\n",
    "Zażółć gęślą jaźń, 漢字かな交じり文, 😀👩‍👩‍👧",
    "<|im_start|>not a turn<|im_end|></s>",
    "\x00\x01 control characters \x7f",
)


def _decoded(backend: Backend, token_ids: list[int]) -> str:
    return b"".join(map(backend.tokenizer.piece, token_ids)).decode()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back(backend: Backend, text: str) -> None:
    token_ids = backend.tokenizer.encode(text, add_special=False, parse_special=False)
    assert _decoded(backend, token_ids) == text


def test_a_character_may_take_several_tokens(backend: Backend) -> None:
    token_ids = backend.tokenizer.encode("😀", add_special=False, parse_special=False)
    pieces = [backend.tokenizer.piece(token_id) for token_id in token_ids]
    assert len(pieces) > 1
    assert b"".join(pieces) == "😀".encode()


def test_an_empty_text_has_no_tokens(backend: Backend) -> None:
    assert backend.tokenizer.encode("", add_special=False, parse_special=False) == []


def test_special_tokens_are_added_only_when_asked_for(backend: Backend) -> None:
    plain = backend.tokenizer.encode("the", add_special=False, parse_special=False)
    special = backend.tokenizer.encode("the", add_special=True, parse_special=False)
    assert len(special) == len(plain) + 1
    assert special[1:] == plain
    assert backend.tokenizer.piece(special[0]) == b""


def test_control_tokens_in_a_text_are_read_only_when_asked_for(backend: Backend) -> None:
    text = f"{backend.info.bos_token}the"
    read = backend.tokenizer.encode(text, add_special=False, parse_special=True)
    literal = backend.tokenizer.encode(text, add_special=False, parse_special=False)
    assert len(read) < len(literal)
    assert _decoded(backend, read) == "the"
    assert _decoded(backend, literal) == text


def test_tokens_that_end_an_answer_have_no_text(backend: Backend) -> None:
    assert {backend.tokenizer.piece(token_id) for token_id in backend.info.eog_token_ids} == {b""}


def test_a_long_text_is_tokenized_whole(backend: Backend) -> None:
    text = "漢字 and more words. " * 20_000
    token_ids = backend.tokenizer.encode(text, add_special=False, parse_special=False)
    assert _decoded(backend, token_ids) == text


def test_threads_may_tokenize_at_once(backend: Backend) -> None:
    texts = [f"{text} {number}" for number in range(20) for text in TEXTS]

    def round_trip(text: str) -> str:
        token_ids = backend.tokenizer.encode(text, add_special=False, parse_special=False)
        return _decoded(backend, token_ids)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(round_trip, texts)) == texts
