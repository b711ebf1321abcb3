"""The daemon raises its own limit of open files."""

import resource
import subprocess
import sys

import pytest

from edged.node.descriptors import MAX_DESCRIPTORS

SHOW = """
import resource
from edged.node.descriptors import raise_descriptor_limit
told = raise_descriptor_limit()
assert told == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(told)
"""


def raised_from(soft: int, hard: int) -> int:
    """What a process with these limits has afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout)


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (256, 2000, 2000),
        (256, 256, 256),
        (1000, MAX_DESCRIPTORS + 1, MAX_DESCRIPTORS),
        (MAX_DESCRIPTORS + 1, MAX_DESCRIPTORS + 1, MAX_DESCRIPTORS + 1),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be(soft: int, hard: int, raised: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and hard > most:
        pytest.skip(f"needs a hard limit of {hard} open files: raise it with ulimit -Hn")
    assert raised_from(soft, hard) == raised
