"""The text of an answer: any split of any bytes, with stop strings, equals the whole answer."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from edged.engine.text_stream import TextStream


def whole_answer(data: bytes, stop: Sequence[str]) -> tuple[str, str | None]:
    """What the stream has to say: the text before the stop string that is complete first."""
    text = data.decode(errors="replace")
    found = [(text.find(each) + len(each), -len(each), each) for each in stop if each in text]
    if not found:
        return text, None
    end, _, first = min(found)
    return text[: end - len(first)], first


def streamed(pieces: Sequence[bytes], stop: Sequence[str] = ()) -> tuple[list[str], str | None]:
    """The text that each piece completed, what the flush gave, and the stop string."""
    stream = TextStream(pieces.__getitem__, stop)
    texts = [stream.push(token_id) for token_id in range(len(pieces))]
    texts.append(stream.flush())
    return texts, stream.stop_string


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(at)]


cut_lists = st.lists(st.integers(min_value=0, max_value=400), max_size=60)
# A small alphabet, so that stop strings are met, overlap and nearly match all the time.
crowded_text = st.text(alphabet="abé😀", max_size=60)
crowded_stop = st.lists(st.text(alphabet="abé😀", min_size=1, max_size=6), max_size=16)


@given(text=st.text(max_size=100), cuts=cut_lists)
def test_any_split_of_any_text_comes_out_whole(text: str, cuts: list[int]) -> None:
    texts, stop_string = streamed(split(text.encode(), cuts))
    assert "".join(texts) == text
    assert stop_string is None
    assert texts[-1] == ""


@given(data=st.binary(max_size=60), cuts=cut_lists)
@example(data=b"\xf0\x9f\x98", cuts=[1, 2])
@example(data=b"a\xc3(\xe2\x82", cuts=[2, 4])
def test_invalid_bytes_become_what_the_decoder_of_the_whole_makes_of_them(
    data: bytes, cuts: list[int]
) -> None:
    assert "".join(streamed(split(data, cuts))[0]) == data.decode(errors="replace")


@given(text=crowded_text, stop=crowded_stop, cuts=cut_lists)
def test_any_split_ends_at_the_stop_string_that_is_complete_first(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    texts, stop_string = streamed(split(text.encode(), cuts), stop)
    assert ("".join(texts), stop_string) == whole_answer(text.encode(), stop)


@given(data=st.binary(max_size=40), cuts=cut_lists)
def test_stop_strings_are_met_in_replaced_bytes_too(data: bytes, cuts: list[int]) -> None:
    stop = ["\ufffd\ufffd", "\ufffda"]
    texts, stop_string = streamed(split(data, cuts), stop)
    assert ("".join(texts), stop_string) == whole_answer(data, stop)


@given(text=crowded_text, stop=crowded_stop, cuts=cut_lists, at=st.integers(0, 60))
def test_a_replay_holds_back_what_the_first_stream_held_back(
    text: str, stop: list[str], cuts: list[int], at: int
) -> None:
    pieces = split(text.encode(), cuts)
    texts, stop_string = streamed(pieces, stop)
    replay = TextStream(pieces.__getitem__, stop)
    for token_id in range(min(at, len(pieces))):
        replay.push(token_id)
    rest = [replay.push(token_id) for token_id in range(min(at, len(pieces)), len(pieces))]
    assert [*rest, replay.flush()] == texts[min(at, len(pieces)) :]
    assert replay.stop_string == stop_string


@given(text=crowded_text, stop=crowded_stop.filter(bool), cuts=cut_lists)
def test_no_more_is_held_back_than_may_begin_a_stop_string(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    pieces = split(text.encode(), cuts)
    stream = TextStream(pieces.__getitem__, stop)
    released = seen = b""
    for token_id, piece in enumerate(pieces):
        seen += piece
        released += stream.push(token_id).encode()
        if stream.stop_string is not None:
            return
        held = seen.decode(errors="ignore")[len(released.decode()) :]
        assert held == "" or any(each.startswith(held) for each in stop)


def test_a_character_is_held_until_its_last_byte() -> None:
    texts, _ = streamed([bytes([value]) for value in "a😀".encode()])
    assert texts == ["a", "", "", "", "😀", ""]


def test_text_that_may_begin_a_stop_string_is_held_and_released() -> None:
    texts, stop_string = streamed([b"one <", b"/", b"b> two </", b"a>three"], ["</a>"])
    assert texts == ["one ", "", "</b> two ", "", ""]
    assert stop_string == "</a>"


def test_nothing_follows_a_stop_string() -> None:
    texts, _ = streamed([b"x STOP y", b"z", b"STOP"], ["STOP"])
    assert texts == ["x ", "", "", ""]


def test_held_text_comes_with_the_flush() -> None:
    texts, stop_string = streamed([b"the ST", b"O"], ["STOP"])
    assert texts == ["the ", "", "STO"]
    assert stop_string is None


def test_of_two_stop_strings_that_end_together_the_longer_is_met() -> None:
    assert streamed([b"xabc"], ["bc", "abc", "c"])[1] == "abc"


def test_a_control_token_completes_nothing() -> None:
    assert streamed([b"a", b"", b"b"])[0] == ["a", "", "b", ""]
