"""Whether an adapted model computes what the model computes: a few tokens through both.

mlx-lm's zoo has more than a hundred architectures, and some do at attention what edged's caches
cannot follow: they keep part of it elsewhere, or look at the position as one number. Such a model
would answer nonsense; here it is refused.
"""

from math import isfinite

import mlx.core as mx

from backends.mlx.adapter import AdaptedModel, Layers
from backends.mlx.arrangement import Arrangement
from backends.mlx.kv_batch import KvLayout
from backends.mlx.kv_types import DEFAULT_GROUP_SIZE, KvType
from backends.mlx.step_cache import StepCaches
from edged.core.plan import Chunk
from edged.core.types import SeqId, SlotId
from edged.errors import ModelLoadError, Reason

_NUM_TOKENS, _FIRST_CHUNK = 12, 8
_TOLERANCE = 1e-3
"""Of the largest logit, in 32-bit numbers."""
_TOLERANCE_16 = 0.1
"""The same in 16 bits: rounding differs with the order of sums."""


def probe_tokens(vocab_size: int) -> list[int]:
    """Spread over the vocabulary."""
    return [(index * vocab_size) // _NUM_TOKENS for index in range(_NUM_TOKENS)]


def check(model: AdaptedModel, layers: Layers, reference: mx.array, name: str) -> None:
    """`reference`: logits (vocabulary) after `probe_tokens`, by mlx-lm alone.

    Raises:
        ModelLoadError: the logits are not finite, or the adapted model's are others.
    """
    largest = float(mx.max(mx.abs(reference)))
    if not isfinite(largest):
        raise ModelLoadError(
            Reason.BAD_MODEL_FILE,
            f"model {name!r} is damaged: with its weights the largest logit is {largest}",
        )
    try:
        found = _logits(model, layers, probe_tokens(reference.shape[0]))
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise _unsupported(name, f"{type(error).__name__}: {error}") from error
    difference = float(mx.max(mx.abs(found - reference)))
    tolerance = _TOLERANCE if all(one.size >= 4 for one in layers.dtypes) else _TOLERANCE_16
    if not difference <= tolerance * max(1.0, largest):
        raise _unsupported(name, f"logits differ by {difference:.3g} of {largest:.3g}")


def _unsupported(name: str, why: str) -> ModelLoadError:
    return ModelLoadError(
        Reason.BAD_MODEL_FILE,
        f"model {name!r} has attention that edged cannot batch ({why}); expected a model whose "
        "layers keep keys and values of their own",
    )


def _logits(model: AdaptedModel, layers: Layers, token_ids: list[int]) -> mx.array:
    """After a chunk, and then token by token."""
    kv_type = KvType("f16", None, DEFAULT_GROUP_SIZE)
    layout = KvLayout(layers.shapes, kv_type, _NUM_TOKENS, layers.dtypes)
    kv, caches, slot = Arrangement(layout, 1), StepCaches(layout), SlotId(0)
    ends = [_FIRST_CHUNK, *range(_FIRST_CHUNK + 1, _NUM_TOKENS + 1)]
    logits = mx.zeros((1, 1))
    for start, end in zip([0, *ends], ends, strict=False):
        part = token_ids[start:end]
        [(group, _)] = kv.arrange([Chunk(SeqId(0), slot, start, part, None)])
        caches.begin([group])
        logits = model(part, caches.layers, [len(part) - 1])
        mx.eval(logits, list(group.batch.arrays()))
        group.batch.lengths[0] = end
    return logits[0]
