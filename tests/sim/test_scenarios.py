"""Each file in `scenarios/` is one scheduling promise, with the trace that keeps it."""

from pathlib import Path

import pytest

from tests.sim.scenario import SEPARATOR, parse, run

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    scenario, expected = parse(text)
    trace = run(scenario)
    if request.config.getoption("--rewrite"):
        path.write_text(text.partition(SEPARATOR + "\n")[0] + SEPARATOR + "\n" + trace)
        return
    assert trace == expected
