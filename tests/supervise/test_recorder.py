"""The flight recorder: what the daemon reads of an engine that it cannot ask."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from edged.clock import ManualClock, MonotonicClock
from edged.core.types import RequestId
from edged.engine.recorder import (
    MAX_IDS_BYTES,
    PAGE_BYTES,
    FlightRecorder,
    Record,
    RecordReader,
    create_page,
)

WRITER = """
import sys
from edged.clock import MonotonicClock
from edged.core.types import RequestId
from edged.engine.recorder import FlightRecorder
recorder = FlightRecorder(int(sys.argv[1]), MonotonicClock())
started = False
lists = [[RequestId(f"{name}{n}") for n in range(size)] for name, size in (("a", 3), ("b", 40))]
while True:
    for request_ids in lists:
        recorder.begin_step(request_ids)
        recorder.end_step()
    if not started:
        started = print("started", flush=True) is None
"""


@pytest.fixture(name="page")
def _page() -> Iterator[int]:
    fd = create_page()
    yield fd
    os.close(fd)


def ids(*names: str) -> list[RequestId]:
    return [RequestId(name) for name in names]


def read(reader: RecordReader) -> Record:
    record = reader.read()
    assert record is not None
    return record


def test_fresh_page_says_that_no_step_began(page: int) -> None:
    assert read(RecordReader(page)) == Record(0, 0, 0.0, ())


def test_step_is_executing_between_its_begin_and_its_end(page: int) -> None:
    clock = ManualClock(10.0)
    recorder, reader = FlightRecorder(page, clock), RecordReader(page)
    recorder.begin_step(ids("a", "b"))
    assert read(reader) == Record(1, 0, 10.0, tuple(ids("a", "b")))
    assert read(reader).executing == {"a", "b"}
    clock.advance(2.0)
    recorder.end_step()
    assert read(reader) == Record(1, 1, 10.0, tuple(ids("a", "b")))
    assert read(reader).executing == frozenset()


def test_list_of_requests_follows_what_each_step_computes(page: int) -> None:
    recorder, reader = FlightRecorder(page, ManualClock()), RecordReader(page)
    for names in (["a", "b", "c"], ["a"], [], ["a"], ["d", "e"]):
        recorder.begin_step(ids(*names))
        assert read(reader).request_ids == tuple(names)
        recorder.end_step()


def test_end_without_a_begin_changes_nothing(page: int) -> None:
    recorder, reader = FlightRecorder(page, ManualClock(1.0)), RecordReader(page)
    recorder.end_step()
    recorder.begin_step([])
    recorder.end_step()
    recorder.end_step()
    assert read(reader).num_steps_ended == 1


def test_page_holds_the_ids_of_the_largest_batch(page: int) -> None:
    recorder, reader = FlightRecorder(page, ManualClock()), RecordReader(page)
    most = ids(*(f"{n:0200d}" for n in range(256)))
    recorder.begin_step(most)
    assert read(reader).request_ids == tuple(most)


def test_ids_that_do_not_fit_are_a_programming_error(page: int) -> None:
    recorder = FlightRecorder(page, ManualClock())
    with pytest.raises(AssertionError, match=f"at most {MAX_IDS_BYTES}"):
        recorder.begin_step(ids("x" * PAGE_BYTES))


def test_write_under_way_is_noticed(page: int) -> None:
    FlightRecorder(page, ManualClock())
    os.pwrite(page, b"\x01", 0)
    assert RecordReader(page).read() is None


def test_nonsense_in_the_page_is_noticed(page: int) -> None:
    FlightRecorder(page, ManualClock()).begin_step(ids("a"))
    os.pwrite(page, b"\xc1\xc1\xc1", 64)
    assert RecordReader(page).read() is None


def test_reader_never_sees_half_of_a_write_of_another_process(page: int) -> None:
    reader = RecordReader(page)
    command = (sys.executable, "-c", WRITER, str(page))
    with subprocess.Popen(command, pass_fds=(page,), stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            sizes = read_while_it_writes(reader)
        finally:
            writer.kill()
    assert sizes == {3, 40}


def read_while_it_writes(reader: RecordReader) -> set[int]:
    """Check every record until 3,000 steps have gone by; the lengths of the lists seen."""
    sizes: set[int] = set()
    last_begun = num_torn = 0
    while len(sizes) < 2 or last_begun < 3_000:
        record = reader.read()
        if record is None:
            num_torn += 1
            assert num_torn < 100_000, "the page cannot be read while it is written"
            continue
        sizes.add(len(record.request_ids))
        assert record.num_steps_begun >= last_begun
        assert record.num_steps_begun - record.num_steps_ended in (0, 1)
        assert len(record.request_ids) == (3 if record.num_steps_begun % 2 else 40)
        last_begun = record.num_steps_begun
    return sizes


def test_two_processes_of_a_host_share_the_clock(page: int) -> None:
    recorder, reader = FlightRecorder(page, MonotonicClock()), RecordReader(page)
    before_s = MonotonicClock().now_s()
    recorder.begin_step([])
    assert before_s <= read(reader).begun_at_s <= MonotonicClock().now_s()
