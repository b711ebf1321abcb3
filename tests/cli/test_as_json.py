"""The JSON of edgectl."""

from edged.cli.as_json import as_json, enum_name, event_as_json
from edged.cli.columns import Column, Style, Styled, laid_out
from edged.v1 import admin_pb2, inference_pb2


def test_counts_of_64_bits_are_numbers() -> None:
    assert as_json(admin_pb2.KvStatus(bytes_per_token=2**40))["bytes_per_token"] == 2**40


def test_absent_and_zero_are_different() -> None:
    assert as_json(admin_pb2.RequestInfo())["position"] is None
    assert as_json(admin_pb2.RequestInfo(position=0))["position"] == 0


def test_messages_and_lists_are_nested() -> None:
    delta = inference_pb2.TokenDelta(
        logprobs=[
            inference_pb2.PositionLogprobs(
                chosen=inference_pb2.TokenLogprob(token_id=3, logprob=-0.5, piece=b"\xff")
            )
        ]
    )
    assert as_json(delta)["logprobs"] == [
        {"chosen": {"token_id": 3, "logprob": -0.5, "piece": "/w=="}, "top": []}
    ]


def test_enum_values_lose_the_name_of_their_enum() -> None:
    assert enum_name(admin_pb2.ModelState.DESCRIPTOR, admin_pb2.MODEL_STATE_READY) == "ready"
    cause = inference_pb2.PreemptionCause.DESCRIPTOR
    assert enum_name(cause, inference_pb2.PREEMPTION_CAUSE_ENGINE_LOST) == "engine_lost"


def test_an_enum_value_of_a_newer_daemon_is_told_as_its_number() -> None:
    assert enum_name(admin_pb2.ModelState.DESCRIPTOR, 99) == "99"


def test_an_event_of_a_newer_daemon_is_none() -> None:
    assert event_as_json(inference_pb2.GenerateResponse(), "event") is None


def test_columns_are_as_wide_as_their_content_and_colour_adds_no_width() -> None:
    columns = (Column("NAME"), Column("N", is_number=True))
    rows = [["a", "1"], [Styled("bbbbbb", Style.RED), "234"]]
    plain = laid_out(columns, rows, colour=False)
    assert plain == "NAME      N\na         1\nbbbbbb  234\n"
    coloured = laid_out(columns, rows, colour=True)
    assert "\x1b[31mbbbbbb\x1b[0m  234\n" in coloured


def test_text_of_others_cannot_colour_a_column() -> None:
    assert "\x1b" not in laid_out((Column("NAME"),), [["\x1b[31mred"]], colour=False)
