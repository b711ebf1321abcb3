"""What single settings may be: their types, and the rules for them that a type cannot say."""

import re
from collections.abc import Callable
from typing import Annotated, Literal, cast, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from edged.core.policies import SERVING
from edged.places import MAX_SOCKET_PATH_BYTES, is_host_port

AUTO = "auto"
KvType = Literal["f16", "q8_0", "q4_0"]
KV_TYPES: tuple[str, ...] = get_args(KvType)

MAX_LISTEN_ADDRESSES = 16
MAX_SERVICE_NAME_BYTES = 63
"""A label of DNS."""

_MODEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def rule(message: str, *keys: str) -> PydanticCustomError:
    """A broken rule; `keys` are the settings it is about, below the section it is raised in."""
    return PydanticCustomError(
        "edged_rule",
        message,
        {"keys": keys} if keys else None,
    )


def none_word(value: object) -> object:
    """TOML cannot write an absent number, so the word stands for it."""
    return None if value == "none" else value


def number_or_auto(least: int, most: int) -> Callable[[object], object]:
    """Checks a whole number in a range, or the word."""

    def check(value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if value != AUTO and not (is_number and least <= cast(int, value) <= most):
            raise rule(f'expected "auto", or a whole number from {least} to {most}')
        return value

    return check


def as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def scalar_as_text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def check_listen(value: str) -> str:
    addresses = listen_addresses(value)
    if not all(is_host_port(address) for address in addresses):
        raise rule('expected HOST:PORT, "[IPv6]:PORT", or "" for no TCP')
    if len(addresses) > MAX_LISTEN_ADDRESSES:
        raise rule(f"expected at most {MAX_LISTEN_ADDRESSES} addresses")
    return value


def listen_addresses(value: str) -> tuple[str, ...]:
    """The single addresses of `server.listen`."""
    return tuple(part.strip() for part in value.split(",")) if value else ()


def check_socket(value: str) -> str:
    if len(value.encode()) > MAX_SOCKET_PATH_BYTES:
        raise rule(f"expected a path of at most {MAX_SOCKET_PATH_BYTES} bytes")
    if value not in ("", AUTO) and not value.startswith("/"):
        raise rule('expected "auto", an absolute path, or "" for no socket')
    return value


def check_directory(value: str) -> str:
    if value != AUTO and not value.startswith("/"):
        raise rule('expected "auto" or an absolute path')
    return value


def check_optional_path(value: str) -> str:
    if value and not value.startswith("/"):
        raise rule('expected an absolute path or ""')
    return value


def check_service_name(value: str) -> str:
    is_printable = value.isprintable() and value == value.strip()
    if not is_printable or not 1 <= len(value.encode()) <= MAX_SERVICE_NAME_BYTES:
        raise rule(f'expected "auto", or 1 to {MAX_SERVICE_NAME_BYTES} bytes of printable text')
    return value


def check_policy(value: str) -> str:
    if value not in SERVING:
        raise rule("expected " + " or ".join(f"'{name}'" for name in SERVING))
    return value


def check_model_name(value: str) -> str:
    if not _MODEL_NAME.fullmatch(value):
        raise rule("expected a model name of 1 to 64 characters out of A-Z a-z 0-9 . _ -")
    return value


PositiveSeconds = Annotated[float, Field(gt=0)]
OptionalSeconds = Annotated[PositiveSeconds | None, BeforeValidator(none_word)]
ModelName = Annotated[str, AfterValidator(check_model_name)]
OptionText = Annotated[str, BeforeValidator(scalar_as_text)]

CLOSED = ConfigDict(
    frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
)
