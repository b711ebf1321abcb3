"""The tier on disk: what was written is found by the next engine, and failures turn it off."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from backends.sim.backend import SimSnapshot
from edged.core.plan import Write
from edged.core.types import FileId, SnapshotId
from edged.engine import disk_tier
from edged.engine.disk_tier import (
    MAX_READ,
    DiskReport,
    DiskTier,
    Found,
    Read,
    TurnedOff,
    Written,
)
from edged.engine.kv_file import KvFileError

KEY = "a" * 64
CELLS = tuple(range(40))
SNAPSHOT = SimSnapshot(CELLS, 0, 1000)
WRITE = Write(SnapshotId(3), FileId(0), "ada", CELLS)


class Tier:
    """A tier and what it reports."""

    def __init__(self, root: Path, find_key: Callable[[], str] = lambda: KEY) -> None:
        self.reports: SimpleQueue[DiskReport] = SimpleQueue()
        self.disk = DiskTier(root, find_key, self.reports.put)
        self.disk.open(10.0)

    def report(self) -> DiskReport:
        return self.reports.get(timeout=10.0)

    def close(self) -> None:
        self.disk.close(10.0)
        self.disk.release()


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.kv"))


def test_what_one_engine_wrote_the_next_one_finds(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    first = Tier(root)
    assert first.report() == Found(())
    first.disk.write(WRITE, SNAPSHOT)
    assert first.disk.read(WRITE.file) is SNAPSHOT, "what is being written is read from memory"
    written = first.report()
    assert isinstance(written, Written)
    assert written.num_bytes == files(root)[0].stat().st_size
    first.disk.written(WRITE.file)
    assert first.disk.read(WRITE.file) == (len(CELLS), SNAPSHOT.data)
    first.close()
    second = Tier(root)
    found = second.report()
    assert isinstance(found, Found)
    [(path, file)] = found.files
    assert (path, file.space, file.tokens) == (files(root)[0], "ada", CELLS)
    second.disk.add(FileId(7), path)
    assert second.disk.read(FileId(7)) == (len(CELLS), SNAPSHOT.data)
    second.disk.unlink(FileId(7))
    second.close()
    assert not files(root)


def found_file(root: Path, file: FileId) -> Tier:
    """A tier that has found what an engine before it wrote, under that name."""
    first = Tier(root)
    first.disk.write(WRITE, SNAPSHOT)
    first.close()
    tier = Tier(root)
    found = tier.report()
    assert isinstance(found, Found)
    tier.disk.add(file, found.files[-1][0])
    return tier


def test_a_file_is_read_in_the_background_and_used_once(tmp_path: Path) -> None:
    file = FileId(7)
    tier = found_file(tmp_path, file)
    assert not tier.disk.has_read(file)
    tier.disk.prefetch(file)
    report = tier.report()
    assert isinstance(report, Read)
    assert (report.file, report.kv) == (file, (len(CELLS), SNAPSHOT.data))
    assert report.seconds > 0
    tier.disk.keep_read(file, report.kv)
    assert tier.disk.has_read(file)
    files(tmp_path)[0].unlink()
    assert tier.disk.read(file) == (len(CELLS), SNAPSHOT.data), "from memory"
    with pytest.raises(KvFileError):
        tier.disk.read(file)
    tier.close()


def test_a_file_that_cannot_be_read_says_so_when_it_is_used(tmp_path: Path) -> None:
    file = FileId(7)
    tier = found_file(tmp_path, file)
    files(tmp_path)[0].write_bytes(b"torn")
    tier.disk.prefetch(file)
    assert tier.report() == Read(file, None, 0.0)
    tier.disk.keep_read(file, None)
    with pytest.raises(KvFileError):
        tier.disk.read(file)
    tier.close()


def test_what_was_read_and_not_used_is_not_kept_for_ever(tmp_path: Path) -> None:
    tier = found_file(tmp_path, FileId(0))
    for number in range(1, MAX_READ + 2):
        tier.disk.add(FileId(number), files(tmp_path)[0])
        tier.disk.keep_read(FileId(number), (len(CELLS), bytearray(SNAPSHOT.data)))
    held = [number for number in range(1, MAX_READ + 2) if tier.disk.has_read(FileId(number))]
    assert held == list(range(2, MAX_READ + 2)), "the oldest went"
    tier.disk.unlink(FileId(2))
    assert not tier.disk.has_read(FileId(2))
    tier.disk.keep_read(FileId(2), (len(CELLS), bytearray(SNAPSHOT.data)))
    assert not tier.disk.has_read(FileId(2)), "it was read too late"
    tier.close()


def test_another_key_has_other_files(tmp_path: Path) -> None:
    first = Tier(tmp_path)
    first.disk.write(WRITE, SNAPSHOT)
    first.close()
    other = Tier(tmp_path, lambda: "b" * 64)
    assert other.report() == Found(())
    other.close()
    assert len(files(tmp_path)) == 1


def test_what_is_damaged_foreign_or_torn_is_removed(tmp_path: Path) -> None:
    first = Tier(tmp_path)
    first.disk.write(WRITE, SNAPSHOT)
    first.close()
    [whole] = files(tmp_path)
    torn, foreign = whole.with_name("torn.kv"), whole.with_name("foreign.kv")
    torn.write_bytes(whole.read_bytes()[:-1])
    foreign.write_bytes(whole.read_bytes().replace(KEY.encode(), b"c" * 64))
    whole.with_name("unfinished.tmp").write_bytes(b"EDGED")
    whole.with_name("notes.txt").touch()
    second = Tier(tmp_path)
    found = second.report()
    assert isinstance(found, Found)
    assert [path for path, _ in found.files] == [whole]
    second.close()
    assert files(tmp_path) == [whole]
    assert {path.name for path in whole.parent.iterdir()} == {whole.name, "lock"}


def test_kv_that_was_damaged_since_it_was_found_is_not_read(tmp_path: Path) -> None:
    tier = Tier(tmp_path)
    tier.disk.write(WRITE, SNAPSHOT)
    assert isinstance(tier.report(), Found)
    assert isinstance(tier.report(), Written)
    tier.disk.written(WRITE.file)
    [path] = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(KvFileError, match="checksum"):
        tier.disk.read(WRITE.file)
    tier.close()


def test_a_disk_that_cannot_be_written_turns_the_tier_off_once(tmp_path: Path) -> None:
    tier = Tier(tmp_path)
    assert isinstance(tier.report(), Found)
    [directory] = [path for path in tmp_path.iterdir() if path.is_dir()]
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    for number in range(3):
        tier.disk.write(WRITE._replace(file=FileId(number)), SNAPSHOT)
    assert tier.report() == Written(FileId(0), None)
    off = tier.report()
    assert isinstance(off, TurnedOff)
    assert str(tmp_path) in off.detail
    assert [tier.report() for _ in range(2)] == [Written(FileId(n), None) for n in (1, 2)]
    tier.close()


def test_a_directory_that_another_engine_uses_is_left_to_it(tmp_path: Path) -> None:
    first = Tier(tmp_path)
    assert isinstance(first.report(), Found)
    second = Tier(tmp_path)
    assert isinstance(second.report(), TurnedOff)
    second.close()
    first.close()
    third = Tier(tmp_path)
    assert isinstance(third.report(), Found)
    third.close()


def test_a_directory_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(0o777)
    tier = Tier(root)
    off = tier.report()
    assert isinstance(off, TurnedOff)
    assert "nobody else" in off.detail
    tier.close()


def test_a_model_that_cannot_be_read_turns_the_tier_off(tmp_path: Path) -> None:
    def find_key() -> str:
        raise FileNotFoundError(2, "No such file or directory", "/models/gone.gguf")

    tier = Tier(tmp_path, find_key)
    assert isinstance(tier.report(), TurnedOff)
    tier.close()


def test_what_no_engine_has_used_for_long_is_removed(tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        old = Tier(tmp_path, lambda key=key: key * 64)
        old.disk.write(WRITE, SNAPSHOT)
        old.close()
    long_ago_s = time.time() - disk_tier.FORGOTTEN_S - 1.0
    for key in ("a", "b"):
        os.utime(tmp_path / (key * 32) / "lock", (long_ago_s, long_ago_s))
    with (tmp_path / ("b" * 32) / "lock").open() as in_use:
        fcntl.flock(in_use, fcntl.LOCK_EX)
        tier = Tier(tmp_path, lambda: "d" * 64)
        tier.close()
    assert {path.name[0] for path in tmp_path.iterdir()} == {"b", "c", "d"}
