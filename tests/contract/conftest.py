"""Fixtures of the contract suite: each test runs over every backend case."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edged.backend import Backend
from tests.contract.cases import CASES, BackendCase
from tests.contract.driver import MakeBackend


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> BackendCase:
    param = request.param
    assert isinstance(param, BackendCase)
    return param


@pytest.fixture
def make_backend(case: BackendCase, tmp_path: Path) -> Iterator[MakeBackend]:
    """Makes backends of the case, each a new instance; all are closed after the test."""
    with ExitStack() as stack:

        def make() -> Backend:
            if case.needs is not None:
                case.needs()
            backend = case.create(case.config(tmp_path), lambda _fraction: None)
            stack.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def backend(make_backend: MakeBackend) -> Backend:
    return make_backend()
