"""Where a model's bytes go: what is asked of each pool of memory before anything is allocated
there, how many tokens of KV fit, and what is told when the model does not fit.

A pool is memory that is taken from as one: "host", or a device with memory of its own ("cuda:0").
The layers of a model may lie in several; its KV lies beside them, in the same shares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from edged.errors import ModelLoadError, Reason

HOST = "host"
HOST_TOKENS = 16384
"""KV that is allocated in host memory when nobody says how much: other programs live there too,
and attention on a CPU is the slower the more cells it passes over."""
_GRAIN_TOKENS = 256
"""Runtimes allocate KV in multiples of so many cells."""
_MARGIN_SHARE = 0.05
_LEAST_MARGIN_BYTES = 512 * 2**20


class MemoryUse(NamedTuple):
    """What one model holds of one pool."""

    pool: str
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    """Of activations and results."""
    mapped_bytes: int = 0
    """Of the weights: a file mapped into memory, which the system counts as available."""
    later_bytes: int = 0
    """Of KV and computing: what is taken only when it is needed."""

    @property
    def num_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


class Pool(NamedTuple):
    """What there is of one pool before a model is loaded, and what the model needs beside KV."""

    name: str
    free_bytes: int
    reserved_bytes: int
    """Of the free ones, promised to other models, which have not taken them yet."""
    margin_bytes: int
    """Of the free ones, left to others, and to what was estimated too low."""
    weights_bytes: int
    compute_bytes: int
    """Estimated, but for what grows with the KV."""
    compute_bytes_per_token: int
    """Of KV."""
    share: float = 1.0
    """Of the layers, and so of the KV."""

    def most_tokens(self, bytes_per_token: int) -> int:
        """Of KV, that fit beside the rest; negative where the rest does not fit."""
        left_bytes = self.usable_bytes - self.weights_bytes - self.compute_bytes
        return int(left_bytes / (self.share * bytes_per_token + self.compute_bytes_per_token))

    @property
    def usable_bytes(self) -> int:
        return self.free_bytes - self.reserved_bytes - self.margin_bytes


def margin_bytes(total_bytes: int) -> int:
    """What is not taken of a pool of this size."""
    return max(_LEAST_MARGIN_BYTES, int(_MARGIN_SHARE * total_bytes))


class MemoryReport(NamedTuple):
    """What a model takes, and the sum that led to the size of its KV cache."""

    uses: tuple[MemoryUse, ...]
    pools: tuple[Pool, ...]
    """As they were before."""
    kv_limit_bytes: int
    """Most that KV may take."""
    is_kv_limit_given: bool
    """By the configuration; else it is the sum over the pools."""
    host_left_bytes: int
    """Of host memory, for saved KV."""


@dataclass(frozen=True, slots=True)
class KvWanted:
    """How much KV a model is to have. None: as much as makes sense."""

    model: str
    """What it is called."""
    kv_type: str
    bytes_per_token: Mapping[str, int]
    """In the types that there are, `kv_type` among them."""
    kv_bytes: int | None
    context_tokens: int | None
    least_tokens: int
    most_tokens: int
    """More are of no use."""


class KvChoice(NamedTuple):
    num_tokens: int
    limit_bytes: int


def check_weights(pools: tuple[Pool, ...], model: str) -> None:
    """Raises ModelLoadError: OUT_OF_MEMORY, the weights alone do not fit."""
    for pool in pools:
        if pool.weights_bytes > pool.usable_bytes:
            raise ModelLoadError(
                Reason.OUT_OF_MEMORY,
                f"{model!r} needs {size(pool.weights_bytes)} for weights, but {_has(pool)}; use a "
                "smaller model, or free memory",
            )


def choose_kv(pools: tuple[Pool, ...], wanted: KvWanted) -> KvChoice:
    """How much KV to allocate: as many tokens as are wanted; else as many as the given bytes hold;
    else as many as fit into devices that have memory of their own, and `HOST_TOKENS` in host
    memory.

    Raises:
        ModelLoadError: OUT_OF_MEMORY, with what is needed, what there is and what would fit.
    """
    per_token = wanted.bytes_per_token[wanted.kv_type]
    fitting = _fitting(pools, per_token)
    allowed = fitting if wanted.kv_bytes is None else wanted.kv_bytes // per_token
    num_tokens = wanted.context_tokens
    if num_tokens is None:
        num_tokens = min(allowed, wanted.most_tokens)
        if wanted.kv_bytes is None and any(pool.name == HOST for pool in pools):
            num_tokens = min(num_tokens, HOST_TOKENS)
        num_tokens = max(num_tokens // _GRAIN_TOKENS * _GRAIN_TOKENS, wanted.least_tokens)
    if num_tokens > min(allowed, fitting):
        raise _refusal(pools, wanted, num_tokens)
    return KvChoice(num_tokens, allowed * per_token if wanted.kv_bytes is None else wanted.kv_bytes)


def _fitting(pools: tuple[Pool, ...], bytes_per_token: int) -> int:
    """Tokens that all pools together hold: the first that is full ends it."""
    return max(0, min(pool.most_tokens(bytes_per_token) for pool in pools))


def _refusal(pools: tuple[Pool, ...], wanted: KvWanted, num_tokens: int) -> ModelLoadError:
    per_token = wanted.bytes_per_token[wanted.kv_type]
    tightest = min(pools, key=lambda pool: pool.most_tokens(per_token))
    compute_bytes = tightest.compute_bytes + num_tokens * tightest.compute_bytes_per_token
    needs = (
        f"{wanted.model!r} needs {size(tightest.weights_bytes)} for weights, "
        f"{size(compute_bytes)} for computing and {size(int(num_tokens * per_token))} for "
        f"{num_tokens} tokens of {wanted.kv_type} KV"
    )
    if num_tokens > _fitting(pools, per_token):
        has = _has(tightest)
    else:
        has = f"kv_memory is {size(wanted.kv_bytes or 0)}"
    return ModelLoadError(Reason.OUT_OF_MEMORY, f"{needs}, but {has}; {_remedy(pools, wanted)}")


def _has(pool: Pool) -> str:
    where = "" if pool.name == HOST else f" of {pool.name}"
    return f"{size(max(0, pool.usable_bytes))}{where} can be taken ({_sum(pool)})"


def _sum(pool: Pool) -> str:
    parts = [f"{size(pool.free_bytes)} are free"]
    if pool.reserved_bytes:
        parts.append(f"{size(pool.reserved_bytes)} are reserved for other models")
    parts.append(f"{size(pool.margin_bytes)} stay free")
    return ", ".join(parts)


def _remedy(pools: tuple[Pool, ...], wanted: KvWanted) -> str:
    """What would fit: fewer tokens, and a smaller type."""
    asked = wanted.bytes_per_token[wanted.kv_type]
    fits = []
    for kv_type, per_token in wanted.bytes_per_token.items():
        num_tokens = _fitting(pools, per_token)
        if wanted.kv_bytes is not None:
            num_tokens = min(num_tokens, wanted.kv_bytes // per_token)
        num_tokens = num_tokens // _GRAIN_TOKENS * _GRAIN_TOKENS
        if per_token <= asked and num_tokens >= wanted.least_tokens:
            fits.append(f"context_tokens = {num_tokens} with kv_type {kv_type}")
    if fits:
        return "what fits: " + ", or ".join(fits)
    if wanted.kv_bytes is not None and wanted.least_tokens <= _fitting(pools, asked):
        return f"expected kv_memory of at least {wanted.least_tokens * asked}"
    return "use a smaller model, or free memory"


def size(num_bytes: int) -> str:
    """For a person, in powers of 1024."""
    if num_bytes < 2**30:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / 2**30:.1f} GiB"
