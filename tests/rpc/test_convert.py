"""What a valid request is, field by field: every rule at its limit and just over it."""

import math
from dataclasses import replace

import grpc
import pytest

from edged.core.types import RequestId, SamplingParams, ServiceLevel, SloTier
from edged.engine.wire import ChatMessage, ChatPrompt, TextPrompt, TokensPrompt
from edged.errors import EdgedError, Reason
from edged.rpc.convert import Call, Tiers, caller_address, to_prompt, to_submission
from edged.v1 import inference_pb2 as pb
from tests.rpc.front import TIERS, Front, text_request, told_by

CALL = Call(
    request_id=RequestId("abcdef"), seed=77, peer="ipv4:10.0.0.9:5000", remaining_s=None, now_s=100
)
NAN, INF = math.nan, math.inf


def sampling(**fields: object) -> pb.GenerateRequest:
    return text_request(sampling=pb.Sampling(**fields))


def targets(**fields: float) -> pb.GenerateRequest:
    return text_request(targets=pb.Targets(**fields))


def tokens(*ids: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=ids)))


def chat(*messages: tuple[str, str]) -> pb.GenerateRequest:
    turns = [pb.ChatMessage(role=role, content=content) for role, content in messages]
    return pb.GenerateRequest(prompt=pb.Prompt(chat=pb.ChatPrompt(messages=turns)))


def violations_of(request: pb.GenerateRequest, tiers: Tiers = TIERS) -> dict[str, str]:
    with pytest.raises(EdgedError) as caught:
        to_submission(request, CALL, tiers)
    assert caught.value.reason == Reason.INVALID_ARGUMENT
    for violation in caught.value.violations:
        assert f"{violation.field}: {violation.description}" in caught.value.detail
    return {violation.field: violation.description for violation in caught.value.violations}


def test_absent_fields_take_the_defaults_of_the_proto() -> None:
    submission = to_submission(text_request(), CALL, TIERS)
    assert submission.sampling == SamplingParams(
        max_tokens=None,
        temperature=0.8,
        top_k=40,
        top_p=0.95,
        min_p=0.05,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        seed=77,
        stop_token_ids=(),
        logit_bias=(),
        ignore_eos=False,
        logprobs=None,
    )
    assert submission.stop == ()
    assert submission.service == ServiceLevel(SloTier.STANDARD, 5.0, 0.2)
    assert submission.client_id == "10.0.0.9"
    assert submission.request_id == "abcdef"
    assert submission.arrival_s == 100
    assert submission.deadline_s is None


def test_every_field_reaches_the_submission() -> None:
    request = pb.GenerateRequest(
        prompt=pb.Prompt(text="Hi"),
        sampling=pb.Sampling(
            max_tokens=9,
            temperature=0.5,
            top_k=7,
            top_p=0.25,
            min_p=0.125,
            repetition_penalty=1.5,
            presence_penalty=-0.5,
            frequency_penalty=0.75,
            seed=2**64 - 1,
            stop=["END", "é"],
            stop_token_ids=[5, 2**32 - 1],
            logprobs=3,
            logit_bias={8: -1.5, 3: 100},
            ignore_eos=True,
        ),
        tier=pb.TIER_BATCH,
        targets=pb.Targets(ttft_s=0.5, tpot_s=0.25, deadline_s=30),
        client="my-app_1.0",
    )
    submission = to_submission(request, CALL, TIERS)
    assert submission.prompt == TextPrompt("Hi")
    assert submission.sampling == SamplingParams(
        max_tokens=9,
        temperature=0.5,
        top_k=7,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=0.75,
        seed=2**64 - 1,
        stop_token_ids=(5, 2**32 - 1),
        logit_bias=((3, 100.0), (8, -1.5)),
        ignore_eos=True,
        logprobs=3,
    )
    assert submission.stop == ("END", "é")
    assert submission.service == ServiceLevel(SloTier.BATCH, 0.5, 0.25)
    assert submission.client_id == "my-app_1.0"
    assert submission.deadline_s == 130


def test_zero_is_a_value_and_not_an_absence() -> None:
    zeros = sampling(temperature=0, top_k=0, min_p=0, seed=0, logprobs=0)
    params = to_submission(zeros, CALL, TIERS).sampling
    assert (params.temperature, params.top_k, params.min_p) == (0, 0, 0)
    assert (params.seed, params.logprobs) == (0, 0)


@pytest.mark.parametrize(
    "request_",
    [
        sampling(max_tokens=1),
        sampling(max_tokens=2**32 - 1),
        sampling(temperature=1000),
        sampling(top_k=2**32 - 1),
        sampling(top_p=1e-6),
        sampling(top_p=1),
        sampling(min_p=1),
        sampling(repetition_penalty=1e-6),
        sampling(presence_penalty=-2),
        sampling(presence_penalty=2),
        sampling(frequency_penalty=-2),
        sampling(frequency_penalty=2),
        sampling(stop=["x"] * 16),
        sampling(stop=["x" * 256]),
        sampling(stop=["é" * 128]),
        sampling(stop_token_ids=range(64)),
        sampling(logprobs=20),
        sampling(logit_bias=dict.fromkeys(range(256), 1.0)),
        sampling(logit_bias={1: -100, 2: 100}),
        tokens(*range(10)),
        tokens(*[7] * 1_048_576),
        chat(*[("user", "")] * 4096),
        chat(("r" * 64, "x")),
        text_request(""),
        text_request(client="x" * 64),
    ],
)
def test_values_at_their_limits_are_taken(request_: pb.GenerateRequest) -> None:
    assert to_submission(request_, CALL, TIERS)


@pytest.mark.parametrize(
    ("request_", "field", "description"),
    [
        (pb.GenerateRequest(), "prompt", "is not set; expected one of text, token_ids, chat"),
        (tokens(), "prompt.token_ids.ids", "has 0 token ids; expected 1 to 1048576"),
        (
            tokens(*[7] * 1_048_577),
            "prompt.token_ids.ids",
            "has 1048577 token ids; expected 1 to 1048576",
        ),
        (chat(), "prompt.chat.messages", "has 0 messages; expected 1 to 4096"),
        (
            chat(*[("user", "x")] * 4097),
            "prompt.chat.messages",
            "has 4097 messages; expected 1 to 4096",
        ),
        (
            chat(("system", "x"), ("user", "x"), ("", "x")),
            "prompt.chat.messages[2].role",
            "has 0 characters; expected 1 to 64",
        ),
        (
            chat(("r" * 65, "x")),
            "prompt.chat.messages[0].role",
            "has 65 characters; expected 1 to 64",
        ),
        (sampling(max_tokens=0), "sampling.max_tokens", "is 0; expected at least 1"),
        (
            sampling(temperature=-0.5),
            "sampling.temperature",
            "is -0.5; expected a finite number ≥ 0",
        ),
        (
            sampling(temperature=NAN),
            "sampling.temperature",
            "is nan; expected a finite number ≥ 0",
        ),
        (
            sampling(temperature=INF),
            "sampling.temperature",
            "is inf; expected a finite number ≥ 0",
        ),
        (sampling(top_p=0), "sampling.top_p", "is 0; expected a number in (0, 1]"),
        (sampling(top_p=1.5), "sampling.top_p", "is 1.5; expected a number in (0, 1]"),
        (sampling(top_p=NAN), "sampling.top_p", "is nan; expected a number in (0, 1]"),
        (sampling(top_p=INF), "sampling.top_p", "is inf; expected a number in (0, 1]"),
        (sampling(min_p=-0.25), "sampling.min_p", "is -0.25; expected a number in [0, 1]"),
        (sampling(min_p=1.25), "sampling.min_p", "is 1.25; expected a number in [0, 1]"),
        (sampling(min_p=NAN), "sampling.min_p", "is nan; expected a number in [0, 1]"),
        (
            sampling(repetition_penalty=0),
            "sampling.repetition_penalty",
            "is 0; expected a finite number > 0",
        ),
        (
            sampling(repetition_penalty=NAN),
            "sampling.repetition_penalty",
            "is nan; expected a finite number > 0",
        ),
        (
            sampling(repetition_penalty=INF),
            "sampling.repetition_penalty",
            "is inf; expected a finite number > 0",
        ),
        (
            sampling(presence_penalty=2.5),
            "sampling.presence_penalty",
            "is 2.5; expected a number in [-2, 2]",
        ),
        (
            sampling(presence_penalty=NAN),
            "sampling.presence_penalty",
            "is nan; expected a number in [-2, 2]",
        ),
        (
            sampling(frequency_penalty=-2.5),
            "sampling.frequency_penalty",
            "is -2.5; expected a number in [-2, 2]",
        ),
        (
            sampling(frequency_penalty=INF),
            "sampling.frequency_penalty",
            "is inf; expected a number in [-2, 2]",
        ),
        (
            sampling(stop=["x"] * 17),
            "sampling.stop",
            "has 17 strings; expected at most 16",
        ),
        (
            sampling(stop=["x", ""]),
            "sampling.stop[1]",
            "has 0 bytes; expected 1 to 256",
        ),
        (
            sampling(stop=["é" * 129]),
            "sampling.stop[0]",
            "has 258 bytes; expected 1 to 256",
        ),
        (
            sampling(stop_token_ids=range(65)),
            "sampling.stop_token_ids",
            "has 65 token ids; expected at most 64",
        ),
        (sampling(logprobs=21), "sampling.logprobs", "is 21; expected 0 to 20"),
        (
            sampling(logit_bias=dict.fromkeys(range(257), 1.0)),
            "sampling.logit_bias",
            "has 257 entries; expected at most 256",
        ),
        (
            sampling(logit_bias={7: 100.5}),
            "sampling.logit_bias[7]",
            "is 100.5; expected a number in [-100, 100]",
        ),
        (
            sampling(logit_bias={7: NAN}),
            "sampling.logit_bias[7]",
            "is nan; expected a number in [-100, 100]",
        ),
        (targets(ttft_s=0), "targets.ttft_s", "is 0; expected a finite number > 0"),
        (targets(ttft_s=NAN), "targets.ttft_s", "is nan; expected a finite number > 0"),
        (targets(tpot_s=-1), "targets.tpot_s", "is -1; expected a finite number > 0"),
        (targets(tpot_s=INF), "targets.tpot_s", "is inf; expected a finite number > 0"),
        (targets(deadline_s=0), "targets.deadline_s", "is 0; expected a finite number > 0"),
        (targets(deadline_s=INF), "targets.deadline_s", "is inf; expected a finite number > 0"),
        (targets(deadline_s=NAN), "targets.deadline_s", "is nan; expected a finite number > 0"),
        (
            text_request(tier=9),
            "tier",
            "is 9; expected one of 1 (interactive), 2 (standard), 3 (batch)",
        ),
        (
            text_request(client="my app"),
            "client",
            "is 'my app'; expected 0 to 64 characters out of A-Z a-z 0-9 . _ -",
        ),
        (
            text_request(client="x" * 65),
            "client",
            f"is '{'x' * 40}'… (65 characters); expected 0 to 64 characters out of "
            "A-Z a-z 0-9 . _ -",
        ),
        (
            text_request(client="app\n"),
            "client",
            "is 'app\\n'; expected 0 to 64 characters out of A-Z a-z 0-9 . _ -",
        ),
    ],
)
def test_a_value_that_breaks_a_rule_is_named(
    request_: pb.GenerateRequest, field: str, description: str
) -> None:
    assert violations_of(request_) == {field: description}


def test_a_tier_that_is_not_configured_is_refused() -> None:
    tiers = replace(TIERS, specs=TIERS.specs[1:])
    told = violations_of(text_request(tier=pb.TIER_INTERACTIVE), tiers)
    assert told == {"tier": "is 1; expected one of 2 (standard), 3 (batch)"}


@pytest.mark.parametrize(
    ("own", "service"),
    [
        (pb.Targets(), ServiceLevel(SloTier.INTERACTIVE, 1.0, 0.1)),
        (pb.Targets(ttft_s=3), ServiceLevel(SloTier.INTERACTIVE, 3.0, 0.1)),
        (pb.Targets(tpot_s=4), ServiceLevel(SloTier.INTERACTIVE, 1.0, 4.0)),
    ],
)
def test_own_targets_are_put_over_those_of_the_tier(own: pb.Targets, service: ServiceLevel) -> None:
    request = text_request(tier=pb.TIER_INTERACTIVE, targets=own)
    assert to_submission(request, CALL, TIERS).service == service


@pytest.mark.parametrize(
    ("own_s", "remaining_s", "deadline_s"),
    [(None, None, None), (5, None, 105), (None, 7, 107), (5, 7, 105), (8, 7, 107), (8, 0, 100)],
)
def test_the_nearer_deadline_holds(
    own_s: float | None, remaining_s: float | None, deadline_s: float | None
) -> None:
    request = text_request(targets=pb.Targets(deadline_s=own_s))
    call = replace(CALL, remaining_s=remaining_s)
    assert to_submission(request, call, TIERS).deadline_s == deadline_s


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:192.168.1.5:50123", "192.168.1.5"),
        ("ipv6:[::1]:50123", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50123", "fe80::1%eth0"),
        ("unix:", "local"),
        ("unix:/run/edged/edged.sock", "local"),
        ("unix-abstract:edged", "local"),
    ],
)
def test_a_caller_is_named_by_its_address_without_the_port(peer: str, client: str) -> None:
    assert caller_address(peer) == client
    assert to_submission(text_request(), replace(CALL, peer=peer), TIERS).client_id == client


def test_the_three_forms_of_a_prompt() -> None:
    assert to_prompt(pb.Prompt(text="Hi")) == TextPrompt("Hi")
    assert to_prompt(tokens(3, 4).prompt) == TokensPrompt((3, 4))
    assert to_prompt(chat(("user", "Hi"), ("assistant", "")).prompt) == ChatPrompt(
        (ChatMessage("user", "Hi"), ChatMessage("assistant", ""))
    )


async def test_all_violations_are_told_together(front: Front) -> None:
    request = pb.GenerateRequest(
        sampling=pb.Sampling(temperature=-1, top_p=2), tier=9, client="a b"
    )
    told = await told_by(front.inference.Generate(request))
    assert (told.code, told.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        Reason.INVALID_ARGUMENT,
    )
    assert list(told.violations) == [
        "prompt",
        "sampling.temperature",
        "sampling.top_p",
        "tier",
        "client",
    ]
    assert front.models.submitted.empty()


@pytest.mark.parametrize("method", ["Tokenize", "CountTokens"])
async def test_a_prompt_to_tokenize_is_checked_too(front: Front, method: str) -> None:
    request = {"Tokenize": pb.TokenizeRequest(), "CountTokens": pb.CountTokensRequest()}[method]
    told = await told_by(getattr(front.inference, method)(request))
    assert told.violations == {"prompt": "is not set; expected one of text, token_ids, chat"}
