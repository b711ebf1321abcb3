"""All that is known of mlx-lm's insides: how a model is loaded, what its layers keep, and how it is
made to attend to edged's KV.

mlx-lm renames things between minor versions. Whatever one of them moved is mended here, and
`TESTED` says which were tried.

Two things of a loaded model are changed. Its attention: every model module has the function
`scaled_dot_product_attention` from `mlx_lm.models.base` under that name, and takes it from there at
each call; it is replaced by one that lets edged's caches attend by themselves. And its output: the
inner model hands on the hidden states that are to become logits, not all of them, because the last
matrix is a large part of a small model. `self_check.py` checks with a few tokens that a model so
changed computes what the original computes.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.models import base
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import get_total_parameters, load_model

from backends.mlx.kv_types import LayerShape
from backends.mlx.step_cache import LayerCache
from edged.errors import ModelLoadError, Reason

TESTED = ((0, 32, 2), (0, 33))
"""Versions of mlx-lm: from the first on, before the second."""
_ATTENTION = "scaled_dot_product_attention"


class Layers(NamedTuple):
    """What a model keeps of a token, layer by layer."""

    shapes: tuple[LayerShape, ...]
    dtypes: tuple[mx.Dtype, ...]
    vocab_size: int
    """Rows of logits; the tokenizer may have fewer tokens."""
    num_bytes: int
    """Of the weights as they will be in memory, which may be more than the files have, or less."""
    description: str
    """For a person: architecture, size and how the weights are stored."""


def check_version(found: str | None = None) -> None:
    """Raises ModelLoadError: mlx-lm is of a version that was not tried."""
    found = version("mlx-lm") if found is None else found
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    least, below = TESTED
    if not least <= numbers < below:
        raise ModelLoadError(
            Reason.BAD_CONFIG,
            f"mlx-lm is {found}; expected at least {_dotted(least)} and below {_dotted(below)}: "
            "this version was not tried, and its insides move",
        )


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def load_weights(folder: Path) -> nn.Module:
    """The model of a folder; nothing is read of its weights yet.

    Raises:
        ModelLoadError: the folder is no model that mlx-lm knows.
    """
    try:
        return load_model(folder, lazy=True, strict=True, trust_remote_code=False)[0]
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        what = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelLoadError(
            Reason.BAD_MODEL_FILE,
            f"model {folder.name!r} cannot be loaded: {what[0]}".replace(str(folder), folder.name),
        ) from error


def layers_of(model: nn.Module, name: str, config: Mapping[str, Any]) -> Layers:
    """What the layers keep, found by asking the model for one token, which is not computed.

    Raises:
        ModelLoadError: a layer keeps something else than keys and values.
    """
    caches = make_prompt_cache(model)
    windows: list[int | None] = []
    for layer, cache in enumerate(caches):
        if type(cache) is KVCache:
            windows.append(None)
        elif type(cache) is RotatingKVCache and cache.keep == 0:
            windows.append(cache.max_size)
        else:
            raise ModelLoadError(
                Reason.BAD_MODEL_FILE,
                f"model {name!r}: layer {layer} keeps a {type(cache).__name__}; expected layers "
                "that attend to all tokens or to the last ones",
            )
    logits = model(mx.array([[0]]), cache=caches)
    unused = [layer for layer, cache in enumerate(caches) if cache.keys is None]
    if unused:
        raise ModelLoadError(
            Reason.BAD_MODEL_FILE,
            f"model {name!r}: layer {unused[0]} attends to what another layer keeps, which is not "
            "supported",
        )
    shapes = tuple(
        LayerShape(
            num_heads=cache.keys.shape[1],
            key_size=cache.keys.shape[3],
            value_size=cache.values.shape[3],
            number_bytes=cache.keys.dtype.size,
            window=window,
        )
        for cache, window in zip(caches, windows, strict=True)
    )
    return Layers(
        shapes,
        dtypes=tuple(cache.keys.dtype for cache in caches),
        vocab_size=logits.shape[-1],
        num_bytes=sum(part.nbytes for _, part in tree_flatten(model.parameters())),
        description=_describe(model, config),
    )


def _describe(model: nn.Module, config: Mapping[str, Any]) -> str:
    num_millions = round(get_total_parameters(model) / 1e6)
    quantization = config.get("quantization")
    if isinstance(quantization, Mapping) and "bits" in quantization:
        stored = f"{quantization['bits']}-bit"
    else:
        stored = str(config.get("torch_dtype") or config.get("dtype") or "").removeprefix("torch.")
    return f"{config['model_type']} {num_millions}M {stored}".strip()


class _Selection:
    """Which tokens' hidden states are to become logits; None: all."""

    rows: mx.array | None = None


class AdaptedModel:
    """A model that attends to edged's caches and computes the logits that are asked for."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._selection = _Selection()
        for module in {sys.modules[type(one).__module__] for one in model.modules()}:
            if getattr(module, _ATTENTION, None) is base.scaled_dot_product_attention:
                setattr(module, _ATTENTION, _attention)
        self._select_outputs()

    def __call__(
        self, token_ids: Sequence[int], caches: Sequence[LayerCache], rows: Sequence[int]
    ) -> mx.array:
        """Logits (rows, vocabulary) after some of the tokens of a step, as `StepCaches` has it."""
        self._selection.rows = mx.array(list(rows)) if len(rows) < len(token_ids) else None
        logits: mx.array = self._model(mx.array(list(token_ids))[:, None], cache=list(caches))
        if logits.shape[0] != len(rows):  # the model's output could not be selected before
            logits = logits[mx.array(list(rows))]
        return logits[:, -1].astype(mx.float32)

    def _select_outputs(self) -> None:
        """The inner model is an instance of a class of its own now, which selects."""
        outer = getattr(self._model, "language_model", self._model)
        inner = getattr(outer, "model", None)
        if not isinstance(inner, nn.Module):
            return
        selection, original = self._selection, type(inner)

        class Selecting(original):  # type: ignore[misc, valid-type]  # known at run time only
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                hidden = super().__call__(*args, **kwargs)
                rows = selection.rows
                return hidden[rows] if rows is not None and isinstance(hidden, mx.array) else hidden

        inner.__class__ = Selecting


def _attention(  # noqa: PLR0917  # the signature is mlx-lm's
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """In place of mlx-lm's."""
    if isinstance(cache, LayerCache):
        return cache.attend(queries, scale, sinks)
    out: mx.array = base.scaled_dot_product_attention(
        queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks
    )
    return out


def reference_logits(model: nn.Module, token_ids: Sequence[int]) -> mx.array:
    """Logits (vocabulary) after all of the tokens, by mlx-lm alone; of a model as it was loaded."""
    logits: mx.array = model(mx.array([list(token_ids)]), cache=make_prompt_cache(model))
    return logits[0, -1].astype(mx.float32)
