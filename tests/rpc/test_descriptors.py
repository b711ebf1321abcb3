"""The limit of open files is raised as far as it goes, and never lowered."""

import resource
from collections.abc import Iterator

import pytest

from edged.rpc.descriptors import allow_descriptors

LOW = 1024


@pytest.fixture(autouse=True)
def hard() -> Iterator[int]:
    """A low limit for the time of a test; how far it may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * LOW:
        pytest.skip(f"needs a hard limit of {2 * LOW} open files or more: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (LOW, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_is_raised_to_what_is_wanted() -> None:
    assert allow_descriptors(2 * LOW) == 2 * LOW
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2 * LOW


def test_it_is_not_raised_over_what_is_allowed(hard: int) -> None:
    if hard == resource.RLIM_INFINITY:
        pytest.skip("needs a hard limit of open files: ulimit -Hn")
    assert allow_descriptors(hard + 1) == hard


def test_it_is_never_lowered() -> None:
    assert allow_descriptors(LOW - 1) == LOW
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == LOW
