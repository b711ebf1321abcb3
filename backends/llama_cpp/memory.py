"""How much memory a model takes: estimated before it is allocated, read from the library's log
afterwards.

Theory of operation: llama.cpp allocates all it needs when a model and its contexts are made, and
tells the size of each buffer in its log alone. So what is free is asked once, before anything is
allocated; weights are known from the file, the KV of a token from the model's shape, and compute
buffers are estimated from both. When all is allocated the log has the true figures.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backends.host_memory import FreeMemory
from backends.llama_cpp.devices import gpu_label, layer_shares
from backends.llama_cpp.native import ContextShape, Gpu, Model
from edged.backend import BackendConfig
from edged.core.memory import HOST, MemoryUse, Pool, margin_bytes

_BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute|output) buffer size\s*=\s*([0-9.]+) MiB")
_F32_BYTES = 4
_MASK_BYTES = 2
"""Of one token's view of one cell, in the attention mask."""


class Buffer(NamedTuple):
    """One allocation of the library."""

    place: str
    """As ggml calls it: "CPU", "CPU_Mapped", "CUDA0", "CUDA_Host"."""
    kind: str
    num_bytes: int


def read_buffer(line: str) -> Buffer | None:
    """The allocation that a line of the library's log is about."""
    found = _BUFFER.search(line)
    return None if found is None else Buffer(found[1], found[2], int(float(found[3]) * 2**20))


def memory_uses(
    main: Sequence[Buffer], helping: Sequence[Buffer], gpus: Sequence[Gpu]
) -> tuple[MemoryUse, ...]:
    """What was allocated, by pool: memory of GPUs, and of the host all else. `helping`: for
    contexts beside the main one; whatever they hold is there to compute."""
    uses: dict[str, MemoryUse] = {}
    for place, kind, num_bytes in (*main, *(one._replace(kind="compute") for one in helping)):
        bare = place.removesuffix("_Mapped")
        pool = gpu_label(bare) if any(gpu.name == bare for gpu in gpus) else HOST
        use = uses.get(pool, MemoryUse(pool, 0, 0, 0))
        match kind:
            case "model":
                mapped = num_bytes if place.endswith("_Mapped") else 0
                use = use._replace(
                    weights_bytes=use.weights_bytes + num_bytes,
                    mapped_bytes=use.mapped_bytes + mapped,
                )
            case "KV" | "RS":  # RS is the state of recurrent layers
                use = use._replace(kv_bytes=use.kv_bytes + num_bytes)
            case _:
                use = use._replace(compute_bytes=use.compute_bytes + num_bytes)
        uses[pool] = use
    return tuple(uses.values())


class LoadMemory:
    """What was free before a model was loaded."""

    def __init__(
        self, config: BackendConfig, file_bytes: int, host: FreeMemory, gpus: Sequence[Gpu]
    ) -> None:
        self._config = config
        self._file_bytes = file_bytes
        self.gpus = gpus
        self._free: Mapping[str, FreeMemory] = {
            HOST: host,
            **{gpu_label(gpu.name): FreeMemory(gpu.free_bytes, gpu.total_bytes) for gpu in gpus},
        }

    def pools(
        self, model: Model | None, shapes: Sequence[ContextShape], kv_bytes_per_token: int
    ) -> tuple[Pool, ...]:
        """Where the layers go. `shapes`: the contexts that are to be made; the cells of the first
        are still to be chosen, those of others count as computing."""
        shares = layer_shares(
            self._config, self.gpus, None if model is None else model.facts.num_layers
        )
        fixed = per_token = 0
        if model is not None:
            fixed = sum(_compute_bytes(model, shape) for shape in shapes)
            fixed += sum(shape.cells * kv_bytes_per_token for shape in shapes[1:])
            per_token = _mask_bytes(model, shapes[0])
        return tuple(
            self._pool(name, share, int(self._file_bytes * share), fixed, per_token)
            for name, share in shares.items()
        )

    def host_left_bytes(self, uses: Sequence[MemoryUse]) -> int:
        """What a model that takes so much leaves of what was free, for saved KV."""
        host = self._pool(HOST, 1.0, 0, 0, 0)
        taken = sum(use.num_bytes for use in uses if use.pool == HOST)
        return max(0, host.usable_bytes - taken)

    def _pool(
        self, name: str, share: float, weights_bytes: int, compute_bytes: int, per_token: int
    ) -> Pool:
        free = self._free[name]
        return Pool(
            name,
            free_bytes=free.free_bytes,
            reserved_bytes=self._config.reserved_bytes.get(name, 0),
            margin_bytes=margin_bytes(free.total_bytes),
            weights_bytes=weights_bytes,
            compute_bytes=compute_bytes,
            compute_bytes_per_token=per_token,
            share=share,
        )


def _compute_bytes(model: Model, shape: ContextShape) -> int:
    """Estimated, without the mask: a few rows of activations for each token of a micro-batch, and
    logits for each sequence. Within 30 % above what the library took for SmolLM2-135M and
    Gemma 3 270M."""
    facts = model.facts
    architecture = model.metadata("general.architecture") or ""
    given = model.metadata(f"{architecture}.feed_forward_length") or ""
    feed_forward = int(given) if given.isdecimal() else 4 * facts.embedding_size
    activations = shape.max_ubatch_tokens * (3 * facts.embedding_size + 4 * feed_forward)
    logits = shape.sequences * model.vocabulary.size
    return _F32_BYTES * (activations + 2 * logits)


def _mask_bytes(model: Model, shape: ContextShape) -> int:
    """Of the attention mask, for each cell; layers with a window have one of their own."""
    num_masks = 2 if model.facts.window_tokens else 1
    return num_masks * _MASK_BYTES * shape.max_ubatch_tokens
