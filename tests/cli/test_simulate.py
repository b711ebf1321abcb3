"""`edged simulate`, as a user types it."""

import json
from pathlib import Path

import pytest

from edged.core.types import SloTier
from tests.cli.program import Program


@pytest.fixture
def edged(environ: dict[str, str]) -> Program:
    return Program("edged", environ)


def test_a_table_has_a_line_for_each_policy_and_load(edged: Program) -> None:
    done = edged.run(
        *("simulate", "--jobs", "30", "--rate", "2", "--load", "1,3", "--policies", "fcfs,edf")
    )
    assert done.returncode == 0
    table, work, tiers = done.stdout.split("\n\n")
    heading, *lines = table.splitlines()
    assert heading.split()[:3] == ["POLICY", "RATE", "VIOLATED"]
    assert [line.split()[:2] for line in lines] == [
        ["fcfs", "2"],
        ["edf", "2"],
        ["fcfs", "6"],
        ["edf", "6"],
    ]
    heading, *lines = work.splitlines()
    assert heading.split()[:3] == ["POLICY", "RATE", "PROMISED"]
    assert len(lines) == 4
    heading, *lines = tiers.splitlines()
    assert heading.split()[2:6] == ["TIER", "TTFT", "P50", "TTFT"]
    assert len(lines) == 4 * len(SloTier)
    assert "simulating edf at 6 requests/s" in done.stderr


def test_a_picture_is_drawn_beside_the_table(edged: Program, tmp_path: Path) -> None:
    path = tmp_path / "policies.png"
    named = ("simulate", "--jobs", "10", "--policies", "fcfs,sjf-oracle", "--load", "1,2")
    done = edged.run(*named, "--plot", str(path))
    assert done.returncode == 0
    assert path.stat().st_size > 1000
    for place in (tmp_path / "no" / "where.png", tmp_path / "picture.pdf", tmp_path):
        done = edged.run(*named, "--plot", str(place))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith("expected FILE.png in a directory that exists\n")
        assert "simulating" not in done.stderr


def test_what_does_not_fit_is_left_out_and_that_is_told(edged: Program, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{number},{100 if number % 2 else 1000},5\n" for number in range(20))
    trace.write_text("seconds,ContextTokens,GeneratedTokens\n" + rows)
    named = ("simulate", "--trace", str(trace), "--policies", "fcfs", "--seeds", "2")
    done = edged.run(*named, "--kv-tokens", "500", "--load", "1,2")
    assert done.returncode == 0
    told = "10 of 20 requests do not fit into the device's 500 KV tokens and are left out\n"
    assert done.stderr.count(told) == 1
    done = edged.run(*named, "--kv-tokens", "100")
    assert done.returncode == 1
    assert "0 of 20 requests fit into the device's 100 KV tokens" in done.stderr


def test_a_trace_without_time_between_its_requests_has_no_rate(
    edged: Program, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,ContextTokens,GeneratedTokens\n" + 3 * "5,10,10\n")
    done = edged.run("simulate", "--trace", str(trace))
    assert (done.returncode, done.stdout) == (1, "")
    assert "all its requests come at the same moment" in done.stderr


def test_json_has_every_run_with_every_measure(edged: Program, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{number},50,5\n" for number in range(20))
    trace.write_text("seconds,ContextTokens,GeneratedTokens\n" + rows)
    mix = ("--tier", "interactive=1,ttft=2", "--tier", "batch=1,ttlt=60")
    named = ("--trace", str(trace), "--policies", "strict", "--seeds", "3")
    told = json.loads(edged.run("simulate", "--json", *named, *mix).stdout)
    (row,) = told["rows"]
    assert (row["policy"], row["rate"], len(row["runs"])) == ("strict", 1.0, 3)
    for run in row["runs"]:
        assert run["violated"] == 0.0
        assert set(run["tiers"]) == {"interactive", "batch"}
        assert len(run["tiers"]["batch"]["ttlt_s"]) == len(row["percentiles"])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--policies", "best"), 2, "--policies: 'best': expected some of slo, strict, fcfs"),
        (("--policies", "slo,slo"), 2, "--policies: 'slo': expected once"),
        (("--policies", ","), 2, "--policies: '': expected some of slo"),
        (("--load", "0"), 2, "--load: '0': expected numbers from 0.000001 to 1000000"),
        (("--rate", "1e-320"), 2, "--rate: '1e-320': expected numbers from"),
        (("--jobs", "1"), 2, "--jobs"),
        (("--tier", "batch=3", "--tier", "batch=4"), 2, "expected each tier once"),
        (("--tier", "batch=3,ttft=1,ttft=2"), 2, "and each of its targets"),
        (("--tier", "chat=3"), 2, "--tier 'chat=3': expected TIER=SHARE"),
        (("--tier", "batch=3,ttft=0"), 2, "'0': expected a number > 0"),
        (("--trace", "/nonexistent.csv"), 1, "trace /nonexistent.csv: cannot be read"),
        (("--trace", "t.csv", "--gap-cv", "4"), 2, "--gap-cv is of requests that are drawn"),
        (("--trace", "t.csv", "--synthetic"), 2, "expected without --trace"),
        (("--profile", "tpu"), 1, "expected a file or one of consumer-gpu"),
    ],
)
def test_what_cannot_be_simulated_is_told(
    edged: Program, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = edged.run("simulate", "--jobs", "10", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr


def test_a_profile_may_be_a_file(edged: Program, tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    fields = {
        "name": "mine",
        "step_s": 0.01,
        "prefill_token_s": 0.0001,
        "decode_token_s": 0.0001,
        "cell_s": 0,
        "prefill_cell_s": 0,
        "swap_byte_s": 0,
        "bytes_per_cell": 1000,
        "num_slots": 8,
        "num_cells": 65536,
    }
    path.write_text(json.dumps(fields))
    named = ("simulate", "--json", "--jobs", "10", "--policies", "fcfs", "--profile", str(path))
    assert json.loads(edged.run(*named).stdout)["profile"] == "mine"
    path.write_text(json.dumps(fields | {"num_slots": 0}))
    done = edged.run(*named)
    assert (done.returncode, done.stdout) == (1, "")
    assert "num_slots is 0; expected 1 to 4096" in done.stderr


@pytest.mark.parametrize(
    ("model", "name"),
    [((), "m"), (("other",), "other"), (("mine=none",), "mine"), (("file.gguf",), "file")],
)
def test_a_profile_is_measured_and_simulated_with(
    edged: Program, tmp_path: Path, model: tuple[str, ...], name: str
) -> None:
    config = tmp_path / "config.toml"
    speeds = 'step_s = "0"\nprefill_token_s = "0"\ndecode_token_s = "0"\n'
    config.write_text(
        f'[engine]\nbackend = "sim"\nmax_sequences = 4\n[engine.options]\n{speeds}'
        '[models.m]\npath = "none"\n[models.other]\npath = "none"\n'
    )
    done = edged.run("profile", *model, "--config", str(config))
    assert done.returncode == 0
    profile = json.loads(done.stdout)
    assert (profile["name"], profile["num_slots"]) == (name, 4)
    assert profile["can_interrupt"] is True
    assert "steps are predicted within" in done.stderr
    path = tmp_path / "device.json"
    path.write_text(done.stdout)
    named = ("simulate", "--json", "--jobs", "5", "--policies", "fcfs", "--profile", str(path))
    assert json.loads(edged.run(*named).stdout)["profile"] == name
