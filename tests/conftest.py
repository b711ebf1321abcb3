"""Options of the test run, and what the programs under test inherit from it."""

import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="take what the scheduling scenarios do now as right; then read the diff",
    )


def pytest_configure() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and with them every
    program that they start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
