"""Workloads: read from traces, drawn, mixed and sped up."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, pstdev

import pytest

from edged.core.types import SloTier
from edged.errors import ConfigError
from edged.simulate.workload import at_rate, mean_rate, mixed, read_trace, synthetic

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:48.0000000,10,1
"""

HEAD = "seconds,ContextTokens,GeneratedTokens"


def test_a_trace_is_read_in_order_of_arrival_from_zero_on(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(AZURE)
    jobs = read_trace(path)
    assert [(job.number, job.num_prompt_tokens, job.num_answer_tokens) for job in jobs] == [
        (0, 374, 44),
        (1, 10, 1),
        (2, 396, 109),
    ]
    assert [round(job.arrival_s, 4) for job in jobs] == [0.0, 1.3194, 4.3146]


def test_times_may_be_seconds(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("seconds,ContextTokens,GeneratedTokens,extra\n7.5,1,2,x\n8,3,4,y\n")
    assert [job.arrival_s for job in read_trace(path)] == [0.0, 0.5]


def test_times_have_their_zones_and_are_of_utc_without_one(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    moments = ["18:15:46.6800001+02:00", "16:15:56.68+00:00", "16:16:06.68", "11:16:16.68-05:00"]
    rows = "".join(f"2023-11-16 {moment},1,2\n" for moment in moments)
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    assert [round(job.arrival_s, 3) for job in read_trace(path)] == [0.0, 10.0, 20.0, 30.0]


def test_clients_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{HEAD},Client\n1,2,3,editor\n2,2,3,\n")
    assert [job.client_id for job in read_trace(path)] == ["editor", "anybody"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", "has no column TIMESTAMP or seconds, ContextTokens, GeneratedTokens"),
        (f"{HEAD}\n1,2,x\n", "line 2: GeneratedTokens 'x': expected a number of tokens"),
        (f"{HEAD}\n1,2,3\nx,2,3\n", "line 3: seconds 'x': expected a date and time, or seconds"),
        (f"{HEAD}\nnan,2,3\n", "line 2: seconds 'nan': expected"),
        (f"{HEAD}\ninf,2,3\n", "line 2: seconds 'inf': expected"),
        (f"{HEAD}\n1,0,3\n", "line 2: ContextTokens '0': expected a number of tokens, at least 1"),
        (f"{HEAD}\n1,9999999999,3\n", "line 2: ContextTokens '9999999999': expected"),
        (f"{HEAD}\n1,2\n", "line 2: expected as many values as there are columns"),
        (f"{HEAD}\n1,2,3,4\n", "line 2: expected as many values as there are columns"),
        (f"TIMESTAMP,{HEAD}\n1,1,2,3\n", "has the columns TIMESTAMP and seconds; expected one"),
        (f"{HEAD},ContextTokens\n1,2,3,4\n", "has two columns 'ContextTokens'; expected one"),
    ],
)
def test_a_trace_that_is_none_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_trace(path)
    assert told in raised.value.detail
    assert str(path) in raised.value.detail


def test_a_trace_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trace(tmp_path / "gone.csv")


@pytest.mark.parametrize("gap_cv", [0.5, 1.0, 4.0])
def test_drawn_jobs_have_the_rate_the_gaps_and_the_lengths_asked_for(gap_cv: float) -> None:
    jobs = synthetic(1, num_jobs=20_000, rate=5.0, gap_cv=gap_cv)
    gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(jobs)]
    assert mean_rate(jobs) == pytest.approx(5.0, rel=0.1)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(gap_cv, rel=0.1)
    assert median(job.num_prompt_tokens for job in jobs) == pytest.approx(1020, rel=0.05)
    assert median(job.num_answer_tokens for job in jobs) == pytest.approx(129, rel=0.05)


def test_one_seed_gives_one_workload() -> None:
    def drawn(seed: int) -> object:
        return synthetic(seed, num_jobs=50, rate=1.0)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_tiers_are_drawn_by_their_shares_and_anew_for_each_seed() -> None:
    jobs = synthetic(1, num_jobs=10_000, rate=1.0)
    shares = [(SloTier.INTERACTIVE, 3.0), (SloTier.BATCH, 1.0)]
    counted = Counter(job.tier for job in mixed(jobs, shares, seed=1))
    assert counted[SloTier.INTERACTIVE] == pytest.approx(7500, rel=0.03)
    assert counted[SloTier.STANDARD] == 0
    assert mixed(jobs, shares, seed=1) == mixed(jobs, shares, seed=1)
    assert mixed(jobs, shares, seed=1) != mixed(jobs, shares, seed=2)


def test_a_rate_changes_when_jobs_come_and_nothing_else() -> None:
    jobs = synthetic(1, num_jobs=100, rate=1.0)
    faster = at_rate(jobs, 10.0)
    assert mean_rate(faster) == pytest.approx(10.0)
    assert [job.num_prompt_tokens for job in faster] == [job.num_prompt_tokens for job in jobs]
    assert math.isclose(faster[-1].arrival_s * 10.0, jobs[-1].arrival_s * mean_rate(jobs))
