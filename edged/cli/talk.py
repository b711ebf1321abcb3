"""Where prompts come from: the command line, a pipe, or a person who talks."""

import sys
from contextlib import suppress

from edged.cli.exits import CommandError, ExitCode
from edged.cli.generate import Answer, Asker, Conversation, Prompt, Turn
from edged.cli.output import note, warn

MAX_PROMPT_BYTES = 16 * 1024 * 1024
PROMPT_MARK = "> "

_HELP = "/clear forgets the conversation, /exit or end of input ends it"


def prompt_of(text: str, *, system: str | None, raw: bool) -> Prompt:
    """The prompt of `edgectl run`: "-" reads stdin.

    Raises:
        CommandError: stdin is not UTF-8, or longer than 16 MiB.
    """
    if text == "-":
        text = _decoded(sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1))
    if not text:
        raise CommandError("the prompt is empty", ExitCode.USAGE)
    if raw:
        return text
    return (*_opening(system), Turn("user", text))


def chat(asker: Asker, *, system: str | None) -> None:
    """Talk until /exit or the end of input. Each turn carries the whole conversation.

    When a person types, an error or an interrupt ends the turn but not the conversation, and an
    answer that was interrupted is kept as far as it came. From a pipe, both end the command.
    """
    is_person = sys.stdin.isatty()
    if is_person:
        note(_HELP)
    conversation = _opening(system)
    while (line := _read_line(is_person)) is not None:
        text = line.strip()
        if text == "/exit":
            return
        if text == "/clear":
            conversation = _opening(system)
            note("conversation forgotten")
        elif text:
            conversation = _turn(asker, (*conversation, Turn("user", text)), is_person)


def _turn(asker: Asker, conversation: Conversation, is_person: bool) -> Conversation:
    """The conversation after its next answer; without its last question if there was none."""
    answer = Answer()
    try:
        asker.ask(conversation, answer)
    except KeyboardInterrupt:
        if not is_person:
            raise
    except CommandError as error:
        if not is_person:
            raise
        warn("edgectl", error.sentence)
        return conversation[:-1]
    return (*conversation, Turn("assistant", answer.text)) if answer.text else conversation[:-1]


def _opening(system: str | None) -> Conversation:
    return (Turn("system", system),) if system else ()


def _read_line(is_person: bool) -> str | None:
    """The next line; None at the end of input."""
    if is_person and sys.stdout.isatty():
        with suppress(ImportError):  # without it there is no line editing, and nothing is lost
            import readline  # noqa: F401, PLC0415  # importing it is what makes input() edit lines
        try:
            return input(PROMPT_MARK)
        except EOFError:
            return None
    if is_person:
        # stdout is for data alone when it goes elsewhere.
        print(PROMPT_MARK, end="", file=sys.stderr, flush=True)
    return _decoded(sys.stdin.buffer.readline(MAX_PROMPT_BYTES + 1)) or None


def _decoded(content: bytes) -> str:
    if len(content) > MAX_PROMPT_BYTES:
        raise CommandError(f"the prompt is longer than {MAX_PROMPT_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CommandError(f"the prompt is not UTF-8, at byte {error.start}") from None
