"""Holds the documents to the code: tables equal what the code says, examples run as they stand."""

import asyncio
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from edged.cli import show
from edged.cli.edgectl import app as edgectl
from edged.cli.edged import app as edged
from edged.cli.exits import ExitCode
from edged.config import Settings, load_settings
from edged.config.layers import show_key, show_value
from edged.config.load import value_at
from edged.config.reference import reference_markdown
from edged.core.types import SloTier
from edged.engine.wire import ChatPrompt
from edged.errors import OF_CLIENTS, EdgedError, Reason
from edged.rpc.convert import Tiers
from edged.rpc.convert_admin import to_tier
from edged.rpc.status import CODES
from edged.startup import tier_specs
from edged.v1 import access_pb2, admin_pb2, inference_pb2
from tests.rpc.fakes import GATE_TIMEOUT_S, admitted, delta, finished
from tests.rpc.front import Front, running_front

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("edged/**/*.md"), *ROOT.glob("backends/*.md")])
DEFAULT_ADDRESS = "127.0.0.1:7411"
SERVICES = {
    name: service
    for protocol in (inference_pb2, admin_pb2, access_pb2)
    for name, service in protocol.DESCRIPTOR.services_by_name.items()
}


# ── Reading documents ────────────────────────────────────────────────────────────────────────────


def section(heading: str) -> str:
    """The README from a heading to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", README, re.MULTILINE)
    assert found, f"README has no section {heading!r}"
    rest = README[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", _without_blocks(rest), re.MULTILINE)
    return rest[: end.start()] if end else rest


def _without_blocks(text: str) -> str:
    """The same length, with the lines of code blocks blanked: they may begin with #."""
    return re.sub(r"```.*?```", lambda found: " " * len(found[0]), text, flags=re.DOTALL)


def table(text: str) -> list[list[str]]:
    """The cells of the first table in a text, without its head and without backticks."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines, "there is a table"
    _head, _rule, *rows = lines[0].splitlines()
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code in one language; "" has commands alone, "text" what they print too."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for its_language, block in found if its_language == language]


def default_settings() -> Settings:
    return load_settings((), {}, candidates=()).settings


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────


def test_the_reference_is_what_edged_prints() -> None:
    marked = re.search(r"<!-- reference -->\n(.*)<!-- end of reference -->", README, re.DOTALL)
    assert marked
    assert marked[1] == reference_markdown(), "paste what `edged config reference` prints"


def test_the_limits_have_the_defaults_of_the_configuration() -> None:
    settings = default_settings()
    told = {key: default for key, default, _ in table(section("Limits"))}
    assert told == {key: show_value(value_at(settings, tuple(key.split(".")))) for key in told}


def test_every_setting_that_limits_is_among_the_limits() -> None:
    loaded = load_settings((), {}, candidates=())
    keys = {show_key(key) for key in loaded.origins if key[0] != "models"}
    limiting = {key for key in keys if re.search(r"\.max_(?!step_s)|_timeout_s$|\.stall_s$", key)}
    assert limiting <= {key for key, _, _ in table(section("Limits"))}


def test_the_errors_are_those_of_the_one_table() -> None:
    rows = table(section("Errors"))
    assert len(rows) == len(Reason), "each reason once"
    assert {reason: code for code, reason, _ in rows} == {
        reason.value: code.name for reason, code in CODES.items()
    }


def test_the_methods_are_those_of_the_protocol() -> None:
    assert [(service, method) for service, method, _ in table(section("Services"))] == [
        (name, method.name) for name, service in SERVICES.items() for method in service.methods
    ]


def test_the_events_are_those_of_the_protocol() -> None:
    events = inference_pb2.GenerateResponse.DESCRIPTOR.oneofs_by_name["event"].fields
    assert {event for event, _ in table(section("Events"))} == {field.name for field in events}


def test_the_tiers_are_printed_with_their_defaults() -> None:
    settings = default_settings()
    specs = tier_specs(settings)
    tiers = Tiers(specs, SloTier(settings.server.default_tier))
    printed = show.tiers([to_tier(spec, tiers) for spec in specs], colour=False)
    assert [line.rstrip() for line in printed.splitlines()] in [
        [line.rstrip() for line in block.splitlines()] for block in blocks(README, "text")
    ]
    assert [tier for tier, *_ in table(section("Tiers"))] == list(SloTier)


def test_the_commands_are_those_of_edgectl() -> None:
    told = {command.split()[1] for command, _ in table(section("edgectl"))}
    assert told == set(get_command(edgectl).commands)


def test_the_exit_codes_are_those_of_the_commands() -> None:
    _commands, _, codes = section("edgectl").partition("| exit code |")
    told = [int(code) for code, _ in table("| exit code |" + codes)]
    assert told == list(ExitCode)


# ── Commands and examples ────────────────────────────────────────────────────────────────────────


def _commands() -> Iterator[str]:
    """Each use of edged and edgectl in the README, up to a pipe or redirection."""
    shown = "".join(block for block in blocks(README, "text") if block.startswith("$ "))
    typed = "".join(re.findall(r"^(?:\$ |> +).*\n", shown.replace("\\\n>", ""), re.MULTILINE))
    lines = typed + "".join(blocks(README, ""))
    lines += "\n".join(re.findall(r"`((?:edged|edgectl) [^`\n]+)`", README))
    lines = re.sub(r'"[^"\n]*"', "TEXT", lines)
    for line in re.findall(r"^(?:\$ |> +)?(?:[A-Z_]+=\S+ )?((?:edged|edgectl) .*)", lines, re.M):
        yield re.split(r" [>|&]", line)[0]


@pytest.mark.parametrize("line", sorted(set(_commands())))
def test_a_command_in_the_readme_exists_with_its_options(line: str) -> None:
    program, *rest = line.split()
    command = get_command(edgectl if program == "edgectl" else edged)
    words = iter(rest)
    for word in words:
        if word.startswith("--"):
            option = next((one for one in command.params if word in one.opts), None)
            assert option or word == "--help", f"{command.name} has no {word}"
            if option and not getattr(option, "is_flag", False):
                next(words, "")
        elif not word.startswith("-") and word.islower() and hasattr(command, "commands"):
            assert word in command.commands, f"{command.name} has no command {word}"
            command = command.commands[word]


def test_the_readme_shows_commands_at_all() -> None:
    assert len(set(_commands())) > 20


def test_the_example_of_a_configuration_is_valid(tmp_path: Path) -> None:
    [example] = blocks(section("Configuration"), "toml")
    file = tmp_path / "config.toml"
    file.write_text(example)
    settings = load_settings((), {"HOME": "/home"}, file).settings
    assert list(settings.models) == ["chat", "complete"]
    assert settings.models["complete"].path == str(
        tmp_path / tomllib.loads(example)["models"]["complete"]["path"]
    )
    assert settings.models["chat"].engine.context_tokens == 32768
    assert settings.models["complete"].engine.context_tokens == 8192


def test_the_variables_named_are_variables_of_settings() -> None:
    named = set(re.findall(r"`(EDGED_\w+__\w+)`", README))
    assert len(named) >= 3
    keys = {show_key(key).upper() for key in load_settings((), {}, candidates=()).origins}
    for variable in named:
        assert variable.removeprefix("EDGED_").replace("__", ".") in keys


async def run_example(code: str, front: Front) -> str:
    """What an example prints that talks to `front` in place of the usual address, which it names
    or, with the client library, means."""
    assert DEFAULT_ADDRESS in code or "Client()" in code or "Client(client=" in code
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code.replace(DEFAULT_ADDRESS, front.target)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "EDGED_HOST": front.target},
    )
    output, errors = await asyncio.wait_for(process.communicate(), GATE_TIMEOUT_S)
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.parametrize("place", [0, 2], ids=["library", "stubs"])
async def test_an_example_streams_an_answer(place: int) -> None:
    code = blocks(section("Use it from an app"), "python")[place]
    async with running_front() as front:
        running = asyncio.create_task(run_example(code, front))
        asked = asyncio.create_task(front.models.next_stream())
        await asyncio.wait((running, asked), return_when=asyncio.FIRST_COMPLETED)
        assert asked.done(), f"the example ended without asking: {await running}"
        stream = asked.result()
        stream.put(admitted(stream), delta(0, "Par"), delta(1, "is"), finished(stream))
        assert await running == "Paris"
    submission = stream.submission
    assert isinstance(submission.prompt, ChatPrompt)
    assert submission.service.tier is SloTier.INTERACTIVE
    assert submission.client_id == "my-app"
    assert submission.sampling.max_tokens == 60


async def test_the_example_of_an_error_prints_its_reason() -> None:
    _library, code, _stubs, _health = blocks(section("Use it from an app"), "python")
    shown, *_ = blocks(section("Use it from an app"), "text")
    async with running_front() as front:
        detail = shown.strip().removeprefix("NotFoundError UNKNOWN_MODEL ")
        front.models.refusal = EdgedError(Reason.UNKNOWN_MODEL, detail)
        assert await run_example(code, front) == shown


async def test_the_example_of_health_and_reflection_prints_what_is_shown() -> None:
    [code] = blocks(section("Health and reflection"), "python")
    [shown] = blocks(section("Health and reflection"), "text")
    async with running_front() as front:
        front.server.set_serving(True)
        assert await run_example(code, front) == shown


# ── Between documents ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = document if not file else (document.parent / file)
        assert linked.exists(), f"{target} is no file"
        headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
        assert not anchor or anchor in anchors, f"{target} is no heading"


def test_the_changelog_has_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## \[{re.escape(version)}\] - ", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_protocol_tells_the_errors_as_the_readme_does() -> None:
    protocol = (ROOT / "proto" / "edged" / "v1" / "inference.proto").read_text()
    told = {
        (code, reason)
        for code, reasons in re.findall(r"^// \| ([A-Z_]+) \| ([A-Z_, ]+) \|$", protocol, re.M)
        for reason in reasons.split(", ")
    }
    readme = {(code, reason) for code, reason, _ in table(section("Errors"))}
    assert told == {(code, reason) for code, reason in readme if reason not in OF_CLIENTS}
