"""What host memory there is: the system's, or what the control group leaves."""

from pathlib import Path

import psutil
import pytest

from backends.host_memory import host_memory


@pytest.fixture
def own_group(tmp_path: Path) -> Path:
    """A process in a group of a group, whose limits the tests set."""
    (tmp_path / "groups" / "outer" / "inner").mkdir(parents=True)
    path = tmp_path / "cgroup"
    path.write_text("0::/outer/inner\n")
    return path


def limit(group: Path, most: str, used: int, inactive_file: int) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {inactive_file}\nfile 7\n")


def test_without_groups_it_is_the_system_s(tmp_path: Path) -> None:
    memory = host_memory(tmp_path / "none", tmp_path)
    assert memory.total_bytes == psutil.virtual_memory().total
    assert 0 < memory.free_bytes <= memory.total_bytes


def test_the_tightest_group_above_counts(own_group: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    limit(groups / "outer", "2000000", 900_000, 100_000)
    limit(groups / "outer" / "inner", "1500000", 200_000, 0)
    assert host_memory(own_group, groups) == (1_200_000, 2_000_000)
    limit(groups / "outer" / "inner", "900000", 200_000, 0)
    assert host_memory(own_group, groups) == (700_000, 900_000)


def test_a_group_without_a_limit_is_none(own_group: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    limit(groups / "outer" / "inner", "max", 200_000, 0)
    assert host_memory(own_group, groups).total_bytes == psutil.virtual_memory().total


def test_a_group_that_is_full_has_nothing(own_group: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    limit(groups / "outer" / "inner", "1000", 2000, 0)
    assert host_memory(own_group, groups) == (0, 1000)


def test_an_older_hierarchy_is_left_alone(own_group: Path, tmp_path: Path) -> None:
    own_group.write_text("5:memory:/outer/inner\n")
    limit(tmp_path / "groups" / "outer" / "inner", "1000", 0, 0)
    assert host_memory(own_group, tmp_path / "groups").total_bytes > 1000
