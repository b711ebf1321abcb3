"""How fast a device is and what it holds: samples by name, or a file that `edged profile` wrote."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edged.errors import ConfigError

MAX_FILE_BYTES = 64 * 1024
MOST_SECONDS = 1000
"""For a step, or for anything in it."""
_COUNTS: Mapping[str, tuple[int, int]] = {
    "bytes_per_cell": (1, 2**30),
    "num_slots": (1, 4096),
    "num_cells": (16, 10**9),
    "max_step_tokens": (1, 65536),
}
"""Least and most of what is no time."""


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model on one device. Step seconds are linear in what a step computes."""

    name: str
    step_s: float
    """Every step: reading the weights, launching."""
    prefill_token_s: float
    decode_token_s: float
    cell_s: float
    """For each cell of KV that a decode reads."""
    prefill_cell_s: float
    """For each cell of KV that each token of a prompt's chunk attends to."""
    swap_byte_s: float
    """For each byte of KV that is copied to or from the host."""
    bytes_per_cell: int
    num_slots: int
    num_cells: int
    max_step_tokens: int = 2048
    can_interrupt: bool = False
    """Whether an arrival can cut a step short, as on a CPU."""


SAMPLES: Mapping[str, DeviceProfile] = {
    profile.name: profile
    for profile in (
        # 8 billion parameters in 4 bits on 1 TB/s and 80 TFLOPS: 5 ms to read 5 GB of weights,
        # 7 000 prompt tokens a second, KV of 32 layers × 8 heads × 128 in 8 bits, attention of
        # 32 layers × 4 × 4096 operations for a prompt token and a cell.
        DeviceProfile(
            name="consumer-gpu",
            step_s=0.0065,
            prefill_token_s=0.000_14,
            decode_token_s=0.000_12,
            cell_s=7.0e-8,
            prefill_cell_s=6.5e-9,
            swap_byte_s=5.0e-11,
            bytes_per_cell=69_632,
            num_slots=64,
            num_cells=131_072,
        ),
    )
}


def find_profile(name_or_path: str) -> DeviceProfile:
    """A sample by its name, or the profile in a JSON file.

    Raises:
        ConfigError: neither; says which samples there are, or what is wrong with the file.
    """
    if name_or_path in SAMPLES:
        return SAMPLES[name_or_path]
    path = Path(name_or_path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        known = ", ".join(SAMPLES)
        raise ConfigError(
            f"profile {name_or_path!r}: {error.strerror}; expected a file or one of {known}"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"profile {name_or_path!r}: is larger than {MAX_FILE_BYTES} bytes")
    try:
        profile = msgspec.json.decode(content, type=DeviceProfile)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"profile {name_or_path!r}: {error}") from error
    _check(profile, name_or_path)
    return profile


def as_json(profile: DeviceProfile) -> str:
    """What `find_profile` reads from a file."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=2).decode() + "\n"


def _check(profile: DeviceProfile, source: str) -> None:
    for field in profile.__struct_fields__:
        value = getattr(profile, field)
        least, most = _COUNTS.get(field, (0, MOST_SECONDS))
        if not (isinstance(value, str) or least <= value <= most):
            raise ConfigError(
                f"profile {source!r}: {field} is {value:g}; expected {least:g} to {most:g}"
            )
