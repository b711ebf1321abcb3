"""`edged`: what it says of its configuration. Serving is tested end to end elsewhere."""

import json
import tomllib
from pathlib import Path

import pytest

from edged.cli.edged import model_flags
from edged.config import Flag
from tests.cli.program import Program


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "edged.toml"
    path.write_text('[engine]\nkv_type = "f16"\n')
    return path


def test_config_show_prints_the_effective_settings_with_their_origins(
    edged: Program, file: Path
) -> None:
    done = edged.run(
        *("config", "show", "--origin", "--config", str(file)), EDGED_ENGINE__MAX_SEQUENCES="4"
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert f'kv_type = "f16"  # file {file}' in lines
    assert "max_sequences = 4  # variable EDGED_ENGINE__MAX_SEQUENCES" in lines
    assert tomllib.loads(done.stdout)["models"]["embedded"]["path"] == "embedded"


def test_config_show_takes_the_flags_of_serve(edged: Program) -> None:
    flags = ("--model", "a=/a.gguf", "--kv-type", "q4_0", "--listen", "")
    shown = edged.run("config", "show", "--origin", *flags).stdout.splitlines()
    assert 'listen = ""  # flag --listen' in shown
    assert 'kv_type = "q4_0"  # flag --kv-type' in shown
    assert 'path = "/a.gguf"  # flag --model' in shown


def test_config_show_finds_the_file_of_the_variable(edged: Program, file: Path) -> None:
    done = edged.run("config", "show", EDGED_CONFIG=str(file))
    assert 'kv_type = "f16"' in done.stdout.splitlines()


def test_config_show_as_json_tells_value_origin_and_meaning(edged: Program, file: Path) -> None:
    shown = json.loads(edged.run("config", "show", "--json", "--config", str(file)).stdout)
    assert shown["file"] == str(file)
    (kv_type,) = (row for row in shown["settings"] if row["key"] == "engine.kv_type")
    assert kv_type == {
        "key": "engine.kv_type",
        "value": "f16",
        "origin": {"kind": "file", "name": str(file)},
        "description": "Type of the KV cache, K and V alike: f16, q8_0 or q4_0.",
    }


def test_config_check_accepts_a_good_file(edged: Program, file: Path) -> None:
    done = edged.run("config", "check", str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{file}: ok, 1 model(s): embedded\n"


def test_listening_without_tls_and_tokens_is_asked_for_by_a_flag(edged: Program) -> None:
    for flags, value in (((), "false"), (("--insecure",), "true"), (("--no-insecure",), "false")):
        assert f"\ninsecure = {value}\n" in edged.run("config", "show", *flags).stdout


def test_config_check_tells_every_error_in_a_line(edged: Program, file: Path) -> None:
    file.write_text('[engine]\nkv_type = "f32"\nkvtype = 1\n')
    done = edged.run("config", "check", str(file), EDGED_SERVER__NONSENSE="is not the file's")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"edged: file {file}: engine.kv_type = \"f32\": expected 'f16', 'q8_0' or 'q4_0'",
        f"edged: file {file}: engine.kvtype: unknown key; did you mean engine.kv_type?",
    ]


def test_config_reference_is_the_markdown_table(edged: Program) -> None:
    assert edged.run("config", "reference").stdout.startswith("| key | default | meaning |\n")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--kv-type", "q5"), 2, "flag --kv-type: engine.kv_type = \"q5\": expected 'f16'"),
        (("--model", "a=/x", "--model", "a=/y"), 2, "--model: two models are named 'a'"),
        (("--model", "/dir/my model.gguf"), 2, 'flag --model: models."my model": expected a'),
        (("--config", "/nonexistent.toml"), 1, "there is no file '/nonexistent.toml'"),
        (("--listen", "", "--socket", ""), 2, 'server.listen = "" (flag --listen), '),
    ],
)
def test_serve_refuses_what_it_cannot_use(
    edged: Program, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = edged.run("serve", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"edged: {sentence}")


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("chat=/m/x.gguf", "chat", "/m/x.gguf"),
        ("embedded", "embedded", "embedded"),
        ("small=embedded", "small", "embedded"),
        ("/m/Qwen2.5-0.5B.gguf", "Qwen2.5-0.5B", "/m/Qwen2.5-0.5B.gguf"),
        ("./a=b.gguf", "a=b", "./a=b.gguf"),
    ],
)
def test_a_model_may_be_named_or_take_the_name_of_its_file(text: str, name: str, path: str) -> None:
    assert model_flags([text]) == [Flag(("models", name, "path"), path, "--model")]


def test_edged_refuses_to_run_without_its_assertions(edged: Program) -> None:
    done = edged.run("version", PYTHONOPTIMIZE="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "python -O" in done.stderr


def test_version_is_printed(edged: Program) -> None:
    text = edged.run("version").stdout
    assert text.startswith("edged ")
    version = json.loads(edged.run("version", "--json").stdout)["version"]
    assert text == f"edged {version}\n"
