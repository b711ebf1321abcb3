"""What programs ask for becomes the request of the protocol."""

import asyncio
from typing import Any

import pytest

from edged.client import AsyncClient, Message, Targets, Text, Tokens
from edged.client.asking import Options, to_prompt, to_request
from edged.client.errors import BadRequestError
from edged.core.types import OnUnattainable, SloTier
from edged.engine.wire import ChatMessage, ChatPrompt, TextPrompt, TokensPrompt
from edged.v1 import inference_pb2 as pb
from tests.rpc.fakes import admitted, finished
from tests.rpc.front import Front


def request(prompt: Any = "Hi", **options: Any) -> pb.GenerateRequest:
    return to_request(prompt, options, "my-app")  # type: ignore[arg-type]  # wrong ones too


def chat(*turns: tuple[str, str]) -> pb.Prompt:
    messages = [pb.ChatMessage(role=role, content=content) for role, content in turns]
    return pb.Prompt(chat=pb.ChatPrompt(messages=messages))


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ("Hi", chat(("user", "Hi"))),
        (Text("Once"), pb.Prompt(text="Once")),
        (Tokens([1, 2]), pb.Prompt(token_ids=pb.TokenIds(ids=[1, 2]))),
        ([Message("system", "Be brief."), Message("user", "Hi")],
         chat(("system", "Be brief."), ("user", "Hi"))),
        ([{"role": "user", "content": "Hi"}, Message("assistant", "Ho")],
         chat(("user", "Hi"), ("assistant", "Ho"))),
        ((Message("user", "Hi"),), chat(("user", "Hi"))),
    ],
)  # fmt: skip
def test_a_prompt_has_four_forms(given: Any, prompt: pb.Prompt) -> None:
    assert to_prompt(given) == prompt


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (5, "is a int; expected a string, a list of messages, Text or Tokens"),
        (None, "is a NoneType"),
        (b"Hi", "is a bytes"),
        (Message("user", "Hi"), "is a Message"),
        (["Hi"], "'Hi' is no message; expected a role and a content, both strings"),
        ([{"role": "user"}], "is no message"),
        ([{"role": "user", "content": "Hi", "name": "me"}], "is no message"),
        ([{"role": "user", "content": 5}], "is no message"),
        (Tokens([-1]), "has a part of the wrong kind"),
        (Tokens(["a"]), "has a part of the wrong kind"),  # type: ignore[list-item]  # wrong on purpose
        (Text(5), "has a part of the wrong kind"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_what_is_no_prompt_is_told(given: Any, told: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        to_prompt(given)
    assert told in raised.value.detail
    assert [one.field for one in raised.value.violations] == ["prompt"]


def test_every_option_reaches_its_field() -> None:
    made = request(
        model="chat",
        tier="batch",
        targets=Targets(ttft_s=1, tpot_s=0.5, ttlt_s=9),
        on_unattainable="reject",
        expected_tokens=7,
        max_tokens=5,
        temperature=0.5,
        top_k=3,
        top_p=0.5,
        min_p=0.25,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        seed=2**63,
        stop=["\n", "END"],
        stop_token_ids=[2],
        logprobs=4,
        logit_bias={5: -1.0},
        ignore_eos=True,
    )
    assert made == pb.GenerateRequest(
        model="chat",
        prompt=chat(("user", "Hi")),
        tier=pb.TIER_BATCH,
        client="my-app",
        targets=pb.Targets(ttft_s=1, tpot_s=0.5, ttlt_s=9),
        on_unattainable=pb.ON_UNATTAINABLE_REJECT,
        expected_tokens=7,
        sampling=pb.Sampling(
            max_tokens=5,
            temperature=0.5,
            top_k=3,
            top_p=0.5,
            min_p=0.25,
            repetition_penalty=1.5,
            presence_penalty=0.5,
            frequency_penalty=0.25,
            seed=2**63,
            stop=["\n", "END"],
            stop_token_ids=[2],
            logprobs=4,
            logit_bias={5: -1.0},
            ignore_eos=True,
        ),
    )


def test_everything_that_can_be_asked_has_an_option() -> None:
    fields = {*pb.Sampling.DESCRIPTOR.fields_by_name, *pb.GenerateRequest.DESCRIPTOR.fields_by_name}
    assert {*Options.__annotations__} == fields - {"prompt", "sampling"} | {"deadline_s"}


def test_what_is_left_out_or_none_is_left_to_the_daemon() -> None:
    nothing = pb.GenerateRequest(prompt=chat(("user", "Hi")), client="my-app")
    for made in (request(), request(**dict.fromkeys(Options.__annotations__))):
        assert made.sampling == pb.Sampling()
        assert made.targets == pb.Targets()
        made.ClearField("sampling")
        made.ClearField("targets")
        assert made == nothing


def test_one_stop_string_is_one_stop_string() -> None:
    assert list(request(stop="END").sampling.stop) == ["END"]


def test_a_request_may_name_another_program() -> None:
    assert request(client="editor").client == "editor"


@pytest.mark.parametrize("tier", SloTier)
def test_a_tier_is_named_by_text_or_by_itself(tier: SloTier) -> None:
    assert request(tier=tier).tier == request(tier=tier.value).tier != pb.TIER_UNSPECIFIED


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tier": "urgent"}, "tier: is 'urgent'; expected interactive, standard, batch"),
        ({"on_unattainable": "wait"}, "is 'wait'; expected best_effort, reject"),
        ({"max_tokens": -1}, "options: one is of the wrong kind"),
        ({"max_tokens": "5"}, "options: one is of the wrong kind"),
        ({"stop": 5}, "options: one is of the wrong kind"),
        ({"targets": 5}, "options: one is of the wrong kind"),
        ({"model": 5}, "options: one is of the wrong kind"),
        ({"max_token": 5}, "max_token: is no option of a request"),
    ],
)
def test_an_option_of_the_wrong_kind_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequestError, match=told):
        request(**options)


@pytest.mark.parametrize("deadline_s", [0, -1.0])
def test_a_deadline_that_has_passed_is_told_before_anybody_is_asked(deadline_s: float) -> None:
    client = AsyncClient("127.0.0.1:1")
    with pytest.raises(BadRequestError, match=r"deadline_s: is .*; expected more than 0"):
        client.generate("Hi", deadline_s=deadline_s)


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ("Hi", ChatPrompt((ChatMessage("user", "Hi"),))),
        (Text("Once"), TextPrompt("Once")),
        (Tokens([5, 6]), TokensPrompt((5, 6))),
    ],
)
async def test_a_daemon_understands_it(front: Front, given: Any, prompt: object) -> None:
    async with AsyncClient(front.target, client="my-app") as client:
        stream = client.generate(
            given, tier="interactive", on_unattainable=OnUnattainable.REJECT, deadline_s=60
        )
        reading = asyncio.create_task(stream.answer())
        played = await front.models.next_stream()
        played.put(admitted(played), finished(played))
        await reading
    submission = played.submission
    assert submission.prompt == prompt
    assert submission.client_id == "my-app"
    assert submission.service.tier is SloTier.INTERACTIVE
    assert submission.on_unattainable is OnUnattainable.REJECT
    assert submission.deadline_s is not None
    assert 30 < submission.deadline_s - submission.arrival_s <= 61
