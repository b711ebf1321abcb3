"""What an engine process answers: tokens, their text, where it stops, and from where it goes on."""

from dataclasses import replace

from backends.sim.tokenizer import ByteTokenizer
from edged.core.types import FinishReason, RequestId, SamplingParams
from edged.engine.wire import ChatMessage, ChatPrompt, Tokenize, Tokenized, TokensPrompt
from tests.engine.process import (
    R,
    deltas,
    engine_process,
    expected_tokens,
    finished,
    submit,
    text,
    token_ids,
)


def decoded(tokens: list[int]) -> str:
    return b"".join(map(ByteTokenizer().piece, tokens)).decode(errors="replace")


def test_a_request_is_admitted_streamed_and_finished() -> None:
    sampling = SamplingParams(max_tokens=40, seed=3)
    with engine_process() as engine:
        engine.ready()
        admitted = engine.admitted(submit(prompt="hello", sampling=sampling))
        assert admitted.request_id == R
        assert bytes(admitted.prompt_token_ids[1:]) == b"hello"
        assert admitted.position == 0
        items = engine.answer(R)
    expected = expected_tokens(admitted.prompt_token_ids, sampling)
    assert token_ids(items) == expected
    assert text(items) == decoded(expected)
    assert deltas(items)[0].index == 0
    times_s = [delta.at_s for delta in deltas(items)]
    assert times_s == sorted(times_s)
    event = finished(items).event
    assert event.reason is FinishReason.LENGTH
    assert (event.num_prompt_tokens, event.num_generated_tokens) == (6, 40)
    assert event.timings.ttft_s is not None


def test_several_requests_stream_at_once_and_undisturbed() -> None:
    names = [RequestId(f"r{i}") for i in range(8)]
    with engine_process() as engine:
        engine.ready()
        commands = [submit(name, prompt=name, max_tokens=30) for name in names]
        for each in commands:
            engine.send(each)
        streams = engine.items(*names)
    for each in commands:
        prompt = ByteTokenizer().encode(each.request_id, add_special=True, parse_special=False)
        assert token_ids(streams[each.request_id]) == expected_tokens(tuple(prompt), each.sampling)


def test_a_chat_goes_through_the_models_template() -> None:
    with engine_process() as engine:
        engine.ready()
        chat = ChatPrompt((ChatMessage("user", "Hi"),))
        admitted = engine.admitted(submit(prompt=chat))
        engine.send(Tokenize(5, chat))
        tokenized = engine.receive()
        while not isinstance(tokenized, Tokenized):
            tokenized = engine.receive()
    rendered = "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ids = ByteTokenizer().encode(rendered, add_special=False, parse_special=True)
    assert admitted.prompt_token_ids == tuple(ids)
    assert tokenized == Tokenized(5, tuple(ids))


def test_a_stop_string_spread_over_tokens_ends_the_answer_before_it() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit("probe", max_tokens=200))
        whole = text(engine.answer(RequestId("probe")))
        stop = whole[100:104]
        before = whole[: whole.index(stop)]
        engine.admitted(submit(max_tokens=200, stop=("never met", stop)))
        items = engine.answer(R)
        assert engine.inspect().requests == ()
    end = finished(items)
    assert text(items) == before
    assert end.stop_string == stop
    assert end.event.reason is FinishReason.STOP
    assert end.event.num_generated_tokens == len(token_ids(items))
    assert decoded(token_ids(items)) == before + stop


def test_a_stop_string_completed_by_the_last_token_allowed_is_a_stop() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit("probe", max_tokens=20))
        tokens = token_ids(engine.answer(RequestId("probe")))
        # The character that is used for the first time as late as possible.
        last = max((token for token in tokens if token < 128), key=tokens.index)
        engine.admitted(submit(max_tokens=tokens.index(last) + 1, stop=(chr(last),)))
        items = engine.answer(R)
    assert finished(items).stop_string == chr(last)
    assert finished(items).event.reason is FinishReason.STOP


def test_held_text_comes_with_the_end_when_no_stop_string_follows() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit("probe", max_tokens=20))
        whole = text(engine.answer(RequestId("probe")))
        engine.admitted(submit(max_tokens=20, stop=(whole[-1] + "\x01",)))
        items = engine.answer(R)
    assert text(items) == whole
    assert deltas(items)[-1].token_ids == ()
    assert deltas(items)[-1].index == 20
    assert finished(items).event.reason is FinishReason.LENGTH


def test_logprobs_come_with_their_tokens() -> None:
    sampling = SamplingParams(max_tokens=5, logprobs=2)
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit(sampling=sampling))
        items = engine.answer(R)
    for delta in deltas(items):
        (logprob,) = delta.logprobs
        assert logprob.token_id == delta.token_ids[0]
        assert logprob.piece == ByteTokenizer().piece(logprob.token_id)
        assert len(logprob.top) == 2


def test_a_replay_goes_on_from_the_token_it_had_reached() -> None:
    with engine_process() as engine:
        engine.ready()
        admitted = engine.admitted(submit("first", max_tokens=60))
        first = engine.answer(RequestId("first"))
        tokens = token_ids(first)
        stop = (decoded(tokens)[40:43],)
        replayed = submit(
            prompt=TokensPrompt(admitted.prompt_token_ids),
            max_tokens=60,
            generated=tuple(tokens[:25]),
        )
        engine.admitted(replayed)
        items = engine.answer(R)
        done = submit("done", prompt=replayed.prompt, stop=stop, generated=tuple(tokens[:59]))
        engine.admitted(done)
        ended = engine.answer(done.request_id)
    assert deltas(items)[0].index == 25
    assert token_ids(items) == tokens[25:]
    assert text(first).endswith(text(items))
    assert deltas(ended) == []
    assert finished(ended).stop_string == stop[0]


def test_sampling_is_used_as_given() -> None:
    sampling = replace(SamplingParams(max_tokens=10), temperature=0.0, seed=1)
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit("one", sampling=sampling))
        one = token_ids(engine.answer(RequestId("one")))
        engine.admitted(submit("two", sampling=replace(sampling, seed=2)))
        assert token_ids(engine.answer(RequestId("two"))) == one
