"""What the end of an engine process means."""

import signal

import pytest

from edged.supervise.exits import (
    MAX_CAUSE_CHARACTERS,
    Loss,
    LossKind,
    exit_loss,
    stall_loss,
    telling_line,
)

ASSERT = "/src/ggml/src/ggml-cpu/ops.cpp:42: GGML_ASSERT(n > 0) failed"


@pytest.mark.parametrize(
    ("exit_code", "output", "cause"),
    [
        (
            -signal.SIGABRT,
            f"load\n{ASSERT}\nbacktrace",
            "crashed (SIGABRT): ops.cpp:42: GGML_ASSERT(n > 0) failed",
        ),
        (-signal.SIGSEGV, "llama_model_loader: done\n", "crashed (SIGSEGV)"),
        (
            -signal.SIGSEGV,
            "Fatal Python error: Segmentation fault\n\nThread 0x1\n  File x\n",
            "crashed (SIGSEGV): Fatal Python error: Segmentation fault",
        ),
        (
            -signal.SIGABRT,
            "terminate called\n  what():  vector::at\n",
            "crashed (SIGABRT): what():  vector::at",
        ),
        (
            70,
            "Traceback (most recent call last):\n  File x\nedged.x.BadError: no\nafter\n",
            "exited with code 70: edged.x.BadError: no",
        ),
        (3, "something odd\n\n", "exited with code 3: something odd"),
        (0, "", "exited with code 0"),
    ],
)
def test_end_by_itself_is_a_crash_with_the_line_that_says_why(
    exit_code: int, output: str, cause: str
) -> None:
    assert exit_loss(exit_code, output) == Loss(LossKind.CRASHED, cause)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_signal_that_somebody_else_sent_blames_nobody(number: signal.Signals) -> None:
    loss = exit_loss(-number, ASSERT)
    assert loss.kind is LossKind.KILLED
    assert not loss.is_blamable
    assert f"({number.name})" in loss.cause
    assert "GGML" not in loss.cause


def test_sentence_says_that_it_happened_while_loading() -> None:
    cause = exit_loss(-signal.SIGABRT, ASSERT, is_loading=True).cause
    assert cause.startswith("crashed while loading (SIGABRT): ops.cpp:42: GGML_ASSERT")


def test_stall_blames_unless_the_process_was_stopped() -> None:
    assert stall_loss(30.0, is_stopped=False).is_blamable
    assert not stall_loss(30.0, is_stopped=True).is_blamable


def test_signal_without_a_name_has_its_number() -> None:
    assert "signal 45" in exit_loss(-45, "").cause


def test_line_is_cleaned_and_cut() -> None:
    line = telling_line("\x1b[31m/a/b/c.cpp:1: GGML_ASSERT(" + "x" * 1000 + ")")
    assert line.startswith("[31mc.cpp:1: GGML_ASSERT(")
    assert len(line) == MAX_CAUSE_CHARACTERS
    assert line.endswith("…")
