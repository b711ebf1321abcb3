"""Holds the house to its own rules: sizes, and that what the documents name exists."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MODULES = sorted(
    path
    for package in ("edged", "backends")
    for path in (ROOT / package).rglob("*.py")
    if "v1" not in path.relative_to(ROOT).parts
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SCRIPTS = sorted(
    path
    for path in (ROOT / "scripts").iterdir()
    if path.suffix == ".py" or (path.is_file() and "python" in path.read_text().split("\n")[0])
)
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("edged/**/*.md"), *ROOT.glob("backends/*.md")]
    if ".venv" not in path.parts
)
NO_MODULES = ("edged.sock", "edged.backends", "edged.tokens")
NAMES_IN_SOURCE = {
    name
    for path in [*MODULES, *ROOT.glob("proto/edged/v1/*.proto")]
    for name in re.findall(r"\b(?:class|def|message|service|rpc|enum) (\w+)", path.read_text())
} | {
    name
    for path in MODULES
    for name in re.findall(r"^([A-Z][A-Z_0-9]+)\b.*=", path.read_text(), re.MULTILINE)
}


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*MODULES, *TESTS, *EXAMPLES, *SCRIPTS], ids=_relative)
def test_a_module_has_one_job(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_MODULE_LINES, "a long module is a sign of two jobs"
    tree = ast.parse(text)
    if path.name != "__init__.py":
        assert ast.get_docstring(tree), "a module begins by saying what it decides or owns"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert num_lines <= MAX_FUNCTION_LINES, f"{node.name} has {num_lines} lines"


def _quoted(document: Path) -> Iterator[str]:
    """What a document puts between backticks, outside blocks of code."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


def _exists(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=_relative)
def test_what_a_document_names_exists(document: Path) -> None:
    missing = []
    for name in _quoted(document):
        if re.fullmatch(
            r"(\./)?(edged|backends|examples|scripts|tests|proto|systemd|\.ci)/[\w./-]+", name
        ):
            beside = (ROOT / name, document.parent / name)
            missing += [name] if not any(place.exists() for place in beside) else []
        elif re.fullmatch(r"(edged|backends)(\.[A-Za-z_]\w*)+", name) and "edged.v1." not in name:
            missing += [name] if not _exists(name) and name not in NO_MODULES else []
        elif re.fullmatch(r"([A-Z][a-z0-9]+){2,}(\.\w+)?", name):
            missing += [name] if name.split(".")[0] not in NAMES_IN_SOURCE else []
    assert not missing, f"{_relative(document)} names what does not exist: {missing}"


def test_no_path_of_one_machine_is_in_the_tree() -> None:
    pattern = re.compile(r"(^|[\s\"'(=])/(root|home|work)/\w")
    found = [
        f"{_relative(path)}: {line.strip()}"
        for folder in ("edged", "backends", "examples", "scripts", "tests", "proto", "systemd")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in {".pyc", ".gguf"} and path != Path(__file__)
        for line in path.read_text(errors="ignore").splitlines()
        if pattern.search(line)
    ]
    assert not found
