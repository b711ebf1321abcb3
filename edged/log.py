"""How edged logs: the event first, to one stream; never a prompt and never an answer.

Theory of operation: on a terminal a line is made for the eye, elsewhere it is one JSON object whose
first key is `event`. Everything goes through the standard library's handler, so that asyncio's and
gRPC's lines look the same and a stream that can no longer be written to never stops the daemon.
INFO is what an operator acts on, and one canonical line for each finished request.

Whoever can connect can make libraries complain, so these have a limit of lines a minute.
"""

import logging
import os
import sys
from collections import Counter
from enum import StrEnum
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from edged.core.types import ClientId, FinishEvent, FinishReason, Outcome, SloTier

Logger = FilteringBoundLogger

MAX_FOREIGN_LINES_PER_MINUTE = 30
"""Of each library's logger."""

_ROOT = "edged"
_FIRST_KEYS = ("event", "at", "level", "component")


class LogFormat(StrEnum):
    AUTO = "auto"
    """Console on a terminal, JSON otherwise."""
    CONSOLE = "console"
    JSON = "json"


def configure_logging(
    level: str = "info",
    log_format: LogFormat | str = LogFormat.AUTO,
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process to `stream` (None: stderr); a later call replaces it.

    `level` is debug, info, warning or error, and holds for edged; other libraries are heard from
    warning on. Colour only on a terminal and without NO_COLOR.
    """
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_stamps(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(LogFormat(log_format), target),
            ],
        )
    )
    handler.addFilter(_ForeignFloods())
    # A failed write would otherwise be reported to stderr, which may be what failed.
    logging.raiseExceptions = False
    least = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(least, logging.WARNING), force=True)
    logging.getLogger(_ROOT).setLevel(least)
    structlog.configure(
        processors=[
            # Not by the wrapper alone: loggers that are bound keep theirs when the level changes.
            structlog.stdlib.filter_by_level,
            *_stamps(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get_logger(component: str) -> Logger:
    """A logger whose lines name their component, as "supervise" or "rpc"."""
    logger = structlog.get_logger(f"{_ROOT}.{component}", component=component)
    return cast(Logger, logger)


def log_finished(
    logger: Logger, *, model: str, tier: SloTier, client: ClientId, event: FinishEvent
) -> None:
    """Write the one canonical line of a finished request: what it got, never what it said.

    Seconds are rounded to milliseconds, per-token seconds to tenths of one. A request that ended
    in an error is a warning and tells why.
    """
    timings, outcome = event.timings, event.outcome
    write = logger.warning if event.reason is FinishReason.ERROR else logger.info
    write(
        "request finished",
        request_id=event.request_id,
        model=model,
        tier=tier.value,
        client=client,
        reason=event.reason.value,
        prompt_tokens=event.num_prompt_tokens,
        cached_tokens=event.num_cached_tokens,
        generated_tokens=event.num_generated_tokens,
        queue_s=_rounded(timings.queue_s, 3),
        ttft_s=_rounded(timings.ttft_s, 3),
        tpot_s=_rounded(timings.tpot_s, 4),
        total_s=_rounded(timings.total_s, 3),
        preemptions=timings.num_preemptions,
        losses=timings.num_engine_losses,
        **({} if outcome is None else _told(outcome)),
        **({"detail": event.detail} if event.detail else {}),
    )


def _told(outcome: Outcome) -> dict[str, object]:
    told: dict[str, object] = {"promised": outcome.promised, "held": outcome.held}
    if outcome.miss_cause is not None:
        told["miss_cause"] = outcome.miss_cause.value
    return told


def _rounded(seconds: float | None, digits: int) -> float | None:
    return None if seconds is None else round(seconds, digits)


class _ForeignFloods(logging.Filter):
    """Lets so many lines of each library through in a minute; the last says that more follow."""

    def __init__(self) -> None:
        super().__init__()
        self._minute = 0
        self._num_lines: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        library = record.name.partition(".")[0]
        if library == _ROOT:
            return True
        minute = int(record.created // 60)
        if minute != self._minute:
            self._minute = minute
            self._num_lines.clear()
        self._num_lines[library] += 1
        num_lines = self._num_lines[library]
        if num_lines == MAX_FOREIGN_LINES_PER_MINUTE:
            record.msg = f"{library} has too much to say; the rest of this minute is not logged"
            record.args = record.exc_info = record.exc_text = None
        return num_lines <= MAX_FOREIGN_LINES_PER_MINUTE


def _stamps() -> list[Processor]:
    return [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]


def _renderers(log_format: LogFormat, target: TextIO) -> list[Processor]:
    on_terminal = target.isatty()
    if log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not on_terminal):
        return [
            structlog.processors.format_exc_info,
            _event_first,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    return [
        _event_first,
        structlog.dev.ConsoleRenderer(
            colors=on_terminal and not os.environ.get("NO_COLOR"),
            exception_formatter=structlog.dev.plain_traceback,
            sort_keys=False,
            timestamp_key="at",
        ),
    ]


def _event_first(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    first = {key: fields[key] for key in _FIRST_KEYS if key in fields}
    return first | {key: value for key, value in fields.items() if key not in first}
