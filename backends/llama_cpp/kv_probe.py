"""Finds out whether a device really computes with a KV type, or leaves that to the CPU.

Theory of operation: a GPU build has attention kernels for some KV types. For the others the library
says nothing: it copies K and V to the CPU, layer by layer, and prompts take many times as long
(1147 tokens/s became 34, ggml-org/llama.cpp#10378). So a tiny prompt is computed with this type
and with f16, which every device has kernels for. A CPU has nowhere to fall back to.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack

from backends.llama_cpp.kv_types import F16
from backends.llama_cpp.native import (
    DECODE_OK,
    AbortFlag,
    Batch,
    Context,
    ContextShape,
    Model,
    NativeCallError,
)

NUM_TOKENS = 64
NUM_ROUNDS = 3
MOST_TIMES_F16 = 2.0
"""A type with kernels of its own takes 0.9 to 1.3 times as long as f16."""


def fallback_warnings(
    model: Model,
    kv_type: str,
    threads: int,
    device: str,
    measure: Callable[[Model, str, int], float] | None = None,
) -> tuple[str, ...]:
    """What the operator is to know of this type on this device; nothing, if it is as fast as it
    should be.

    Raises:
        NativeCallError: not even a tiny prompt can be computed.
    """
    if kv_type == F16.name:
        return ()
    times_f16 = (measure or prefill_ratio)(model, kv_type, threads)
    if times_f16 <= MOST_TIMES_F16:
        return ()
    return (
        f"prompts take {times_f16:.1f} times as long with {kv_type} KV as with f16: this build has "
        f"no kernels of that type for {device}, and computes on the CPU; use kv_type f16",
    )


def prefill_ratio(model: Model, kv_type: str, threads: int) -> float:
    """Seconds for a tiny prompt with KV of this type, as a multiple of those with f16; the least of
    some rounds, in turns."""
    with ExitStack() as stack:
        contexts = []
        for name in (kv_type, F16.name):
            shape = ContextShape(
                cells=256,
                max_batch_tokens=NUM_TOKENS,
                max_ubatch_tokens=NUM_TOKENS,
                sequences=1,
                threads=threads,
                kv_type=name,
                unified=True,
            )
            contexts.append(Context(model, shape, AbortFlag()))
            stack.callback(contexts[-1].free)
        asked, f16 = contexts
        rounds = [(_prefill_s(asked), _prefill_s(f16)) for _ in range(NUM_ROUNDS + 1)][1:]
    return min(one for one, _ in rounds) / min(other for _, other in rounds)


def _prefill_s(context: Context) -> float:
    batch = Batch(NUM_TOKENS, 1)
    positions = range(NUM_TOKENS)
    outputs = [position == NUM_TOKENS - 1 for position in positions]
    batch.fill([1] * NUM_TOKENS, positions, [0] * NUM_TOKENS, outputs)
    started_s = time.perf_counter()
    code = context.decode(batch)
    if code != DECODE_OK:
        raise NativeCallError(f"a tiny prompt failed with code {code}")
    context.logits(1)  # a GPU is done only when they are there
    seconds = time.perf_counter() - started_s
    context.remove(0, 0)
    return seconds
