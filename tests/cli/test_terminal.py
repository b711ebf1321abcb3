"""edgectl on a terminal: colour, redrawing, progress bars, and a person who talks."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edged.v1 import admin_pb2
from tests.cli.fake_daemon import REQUEST_ID, WAIT_S, FakeDaemon, admitted, delta, finished, model
from tests.cli.program import Program
from tests.cli.terminal import Terminal

Opened = Callable[..., Terminal]


@pytest.fixture
def on_terminal(edgectl: Program) -> Iterator[Opened]:
    terminals: list[Terminal] = []

    def opened(*arguments: str, **environ: str) -> Terminal:
        terminals.append(Terminal(edgectl, arguments, environ))
        return terminals[-1]

    yield opened
    for terminal in terminals:
        terminal.close()


def test_a_terminal_gets_colour_unless_it_is_not_wanted(on_terminal: Opened) -> None:
    coloured = on_terminal("models")
    assert coloured.exit_code() == 0
    assert re.search(r"\x1b\[[0-9;]*32mready", coloured.shown)
    plain = on_terminal("models", NO_COLOR="1")
    assert plain.exit_code() == 0
    assert "\x1b" not in plain.shown
    assert "ready" in plain.shown


def test_watching_redraws_the_screen(on_terminal: Opened, daemon: FakeDaemon) -> None:
    daemon.watched = [daemon.status, daemon.status]
    terminal = on_terminal("status", "--watch")
    assert terminal.exit_code() == 0
    assert terminal.shown.count("\x1b[2J") == 2


def test_a_model_that_loads_is_shown_as_a_bar(on_terminal: Opened, daemon: FakeDaemon) -> None:
    states = [
        model(state=admin_pb2.MODEL_STATE_LOADING, load_progress=part) for part in (0.25, 0.5)
    ]
    daemon.loading = [*states, model()]
    terminal = on_terminal("models", "load", "tiny")
    assert terminal.exit_code() == 0
    assert "loading tiny" in terminal.shown
    assert "tiny is ready" in terminal.shown


def test_an_answer_cannot_move_the_cursor(on_terminal: Opened, daemon: FakeDaemon) -> None:
    daemon.answers = [admitted(), delta(0, "\x1b[2J\x9bdone"), finished()]
    terminal = on_terminal("run", "Hi")
    assert terminal.exit_code() == 0
    assert "\x1b" not in terminal.shown
    assert "done" in terminal.shown


def test_a_person_may_interrupt_an_answer_and_talk_on(
    on_terminal: Opened, daemon: FakeDaemon
) -> None:
    daemon.holds = True
    daemon.answers = [admitted(), delta(0, "Hello")]
    terminal = on_terminal("chat")
    terminal.read_until("> ")
    terminal.type("One\n")
    terminal.read_until("Hello")
    terminal.type("\x03")
    terminal.read_until("> ", times=2)
    assert daemon.cancelled.wait(WAIT_S)
    assert daemon.cancel_ids == [REQUEST_ID]
    daemon.holds = False
    daemon.answers = [admitted(), delta(0, "Again"), finished()]
    terminal.type("Two\n")
    terminal.read_until("Again")
    kept = [turn.content for turn in daemon.asked[1].prompt.chat.messages]
    assert kept == ["One", "Hello", "Two"]
    terminal.read_until("> ", times=3)
    terminal.type("/exit\n")
    assert terminal.exit_code() == 0


def test_an_interrupt_at_the_prompt_leaves(on_terminal: Opened) -> None:
    terminal = on_terminal("chat")
    terminal.read_until("> ")
    terminal.interrupt_until_it_leaves()
    assert terminal.exit_code() == 130
    assert "Traceback" not in terminal.shown


def test_the_end_of_input_leaves_in_peace(on_terminal: Opened) -> None:
    terminal = on_terminal("chat")
    terminal.read_until("> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def test_an_error_does_not_end_a_persons_conversation(
    on_terminal: Opened, daemon: FakeDaemon, environ: dict[str, str]
) -> None:
    daemon.answers = []
    terminal = on_terminal("chat")
    terminal.read_until("> ")
    terminal.type("One\n")
    terminal.read_until("without saying why")
    daemon.answers = [admitted(), delta(0, "Again"), finished()]
    terminal.read_until("> ", times=2)
    terminal.type("Two\n")
    terminal.read_until("Again")
    assert len(daemon.asked[1].prompt.chat.messages) == 1
    assert not Path(environ["HOME"], ".python_history").exists()
