"""Requests to simulate: from a trace of a service, or drawn to be like one.

A request has sizes and a moment, no text. Which tier it belongs to is drawn by the mix, so one
trace gives a workload for each seed.
"""

import csv
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

from edged.core.types import ClientId, SloTier
from edged.errors import ConfigError

PROMPT_COLUMN = "ContextTokens"
ANSWER_COLUMN = "GeneratedTokens"
_ANYBODY = ClientId("anybody")
CLIENT_COLUMN = "Client"
"""Whose request it is; may be absent."""
TIME_COLUMNS = ("TIMESTAMP", "seconds")
"""A date and time, or seconds; only differences count."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request of a workload."""

    number: int
    arrival_s: float
    num_prompt_tokens: int
    num_answer_tokens: int
    tier: SloTier = SloTier.STANDARD
    client_id: ClientId = _ANYBODY


@dataclass(frozen=True, slots=True)
class LengthLaw:
    """Log-normal lengths, by two of their percentiles."""

    median: float
    p90: float
    most: int

    def draw(self, source: random.Random) -> int:
        sigma = math.log(self.p90 / self.median) / _P90_OF_NORMAL
        return max(1, min(self.most, round(source.lognormvariate(math.log(self.median), sigma))))


_P90_OF_NORMAL = 1.2815515655446004
CONVERSATION_PROMPTS = LengthLaw(1020, 2735, 16_384)
CONVERSATION_ANSWERS = LengthLaw(129, 424, 2_048)
"""Of the hour of a conversation service that Azure published in 2023 (Patel et al., Splitwise,
ISCA 2024)."""


def synthetic(
    seed: int,
    *,
    num_jobs: int,
    rate: float,
    gap_cv: float = 1.0,
    prompts: LengthLaw = CONVERSATION_PROMPTS,
    answers: LengthLaw = CONVERSATION_ANSWERS,
) -> list[Job]:
    """Jobs at `rate` per second. Gaps are Gamma-distributed with that coefficient of variation; 1
    is a Poisson process, more is bursty."""
    source = random.Random(seed)
    shape = 1.0 / (gap_cv * gap_cv)
    scale = 1.0 / (rate * shape)
    at_s = 0.0
    jobs: list[Job] = []
    for number in range(num_jobs):
        jobs.append(Job(number, at_s, prompts.draw(source), answers.draw(source)))
        at_s += source.gammavariate(shape, scale)
    return jobs


def read_trace(path: Path) -> list[Job]:
    """The jobs of a CSV file, in order of arrival, the first at 0.

    Raises:
        ConfigError: it cannot be read, lacks a column, or has a value that is none; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _numbered(_rows(path, csv.DictReader(file)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"trace {path}: cannot be read: {error}") from error


def _rows(path: Path, reader: "csv.DictReader[str]") -> Iterator[Job]:
    time_column = _time_column(path, reader.fieldnames or ())
    for row in reader:
        try:
            if None in row or None in row.values():
                raise ValueError("expected as many values as there are columns")
            yield Job(
                0,
                _seconds(time_column, row[time_column]),
                _num_tokens(PROMPT_COLUMN, row[PROMPT_COLUMN]),
                _num_tokens(ANSWER_COLUMN, row[ANSWER_COLUMN]),
                client_id=ClientId(row.get(CLIENT_COLUMN) or _ANYBODY),
            )
        except ValueError as error:
            raise ConfigError(f"trace {path}: line {reader.line_num}: {error}") from None


def _time_column(path: Path, columns: Sequence[str]) -> str:
    times = [name for name in TIME_COLUMNS if name in columns]
    missing = [name for name in (PROMPT_COLUMN, ANSWER_COLUMN) if name not in columns]
    if not times:
        missing.insert(0, " or ".join(TIME_COLUMNS))
    if missing:
        raise ConfigError(f"trace {path}: has no column {', '.join(missing)}; found {[*columns]}")
    if len(times) > 1:
        raise ConfigError(f"trace {path}: has the columns {' and '.join(times)}; expected one")
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise ConfigError(f"trace {path}: has two columns {twice[0]!r}; expected one")
    return times[0]


def _seconds(column: str, text: str) -> float:
    """A moment without a zone is one of UTC."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            # Seven digits of a second are one more than Python reads.
            moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.strip()))
        except ValueError:
            seconds = math.nan
        else:
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise ValueError(f"{column} {text!r}: expected a date and time, or seconds")
    return seconds


def _num_tokens(column: str, text: str) -> int:
    num_tokens = int(text) if re.fullmatch(r"\s*\d{1,9}\s*", text) else 0
    if num_tokens < 1:
        raise ValueError(f"{column} {text!r}: expected a number of tokens, at least 1")
    return num_tokens


def _numbered(jobs: Iterable[Job]) -> list[Job]:
    ordered = sorted(jobs, key=lambda job: job.arrival_s)
    first_s = ordered[0].arrival_s if ordered else 0.0
    return [
        replace(job, number=number, arrival_s=job.arrival_s - first_s)
        for number, job in enumerate(ordered)
    ]


def mixed(jobs: Sequence[Job], shares: Sequence[tuple[SloTier, float]], seed: int) -> list[Job]:
    """The same jobs, each in a tier that is drawn by its share."""
    source = random.Random(f"tiers {seed}")
    tiers = [tier for tier, _ in shares]
    borders = list(accumulate(share for _, share in shares))
    chosen = source.choices(tiers, cum_weights=borders, k=len(jobs))
    return [replace(job, tier=tier) for job, tier in zip(jobs, chosen, strict=True)]


def at_rate(jobs: Sequence[Job], rate: float) -> list[Job]:
    """The same jobs in the same order, arriving at `rate` per second on average."""
    factor = mean_rate(jobs) / rate
    return [replace(job, arrival_s=job.arrival_s * factor) for job in jobs]


def mean_rate(jobs: Sequence[Job]) -> float:
    """Jobs per second from the first arrival to the last."""
    span_s = jobs[-1].arrival_s - jobs[0].arrival_s
    return (len(jobs) - 1) / span_s if span_s > 0 else math.inf
