"""Writes a GGUF model as a folder that MLX and Hugging Face read: the same weights, dequantized, or
quantized anew as MLX does it.

Of architectures it knows llama (with its kin: SmolLM2) and gemma3, of tokenizers
byte-level BPE. llama.cpp keeps the rows of a llama's queries and keys in another order, for its
rotary embedding, and Gemma's norms with 1 added; both are undone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
from gguf.quants import dequantize
from mlx import nn
from mlx.utils import tree_flatten
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from backends.mlx import adapter
from edged.errors import ModelLoadError, Reason

Weights = Mapping[str, NDArray[np.float32]]

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_BLOCK_NAMES = _BLOCK_NAMES | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GEMMA_PATTERN = 6
"""Every sixth layer of a Gemma 3 attends to all tokens."""
_DEFAULT_ROPE_BASE = 10_000.0


def write_folder(
    file: Path, folder: Path, *, bits: int | None = None, group_size: int = 64
) -> Path:
    """Write `folder` from the GGUF `file`, and return it. `bits`: quantize the weights so (4 or 8);
    None writes 32-bit numbers.

    Raises:
        ModelLoadError: the file is of a kind that is not known here.
    """
    source = _Source(file)
    config = _config(source)
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer(source).save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(source))
    _write_json(folder / "config.json", config)
    weights = {name: mx.array(one) for name, one in _weights(source, config).items()}
    _save_weights(folder, weights)
    if bits is not None:
        _quantize(folder, config, bits, group_size)
    return folder


class _Source:
    """What is read of the file."""

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self._reader = gguf.GGUFReader(file)
        self.architecture = str(self.value("general.architecture", ""))
        if self.architecture not in ("llama", "gemma3"):
            raise self.bad(f"architecture {self.architecture!r}; expected llama or gemma3")
        kind = self.value("tokenizer.ggml.model", "")
        if kind != "gpt2":
            raise self.bad(f"tokenizer {kind!r}; expected gpt2, which is byte-level BPE")

    def value(self, key: str, default: Any = None) -> Any:
        field = self._reader.fields.get(key.replace("{}", getattr(self, "architecture", "")))
        return default if field is None else field.contents()

    @property
    def has_output(self) -> bool:
        """Whether the output has a matrix of its own, beside that of the embedding."""
        return any(tensor.name == "output.weight" for tensor in self._reader.tensors)

    def tensors(self) -> Weights:
        return {
            tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            for tensor in self._reader.tensors
        }

    def bad(self, why: str) -> ModelLoadError:
        return ModelLoadError(Reason.BAD_MODEL_FILE, f"{self.name!r} has {why}")


def _config(source: _Source) -> dict[str, Any]:
    num_heads = source.value("{}.attention.head_count")
    hidden_size = source.value("{}.embedding_length")
    head_size = source.value("{}.attention.key_length") or hidden_size // num_heads
    is_gemma = source.architecture == "gemma3"
    config = {
        "model_type": "gemma3_text" if is_gemma else "llama",
        "hidden_size": hidden_size,
        "num_hidden_layers": source.value("{}.block_count"),
        "intermediate_size": source.value("{}.feed_forward_length"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": source.value("{}.attention.head_count_kv") or num_heads,
        "head_dim": head_size,
        "rms_norm_eps": source.value("{}.attention.layer_norm_rms_epsilon"),
        "vocab_size": len(source.value("tokenizer.ggml.tokens")),
        "max_position_embeddings": source.value("{}.context_length"),
        "rope_theta": source.value("{}.rope.freq_base") or _DEFAULT_ROPE_BASE,
        "tie_word_embeddings": not source.has_output,
        "torch_dtype": "float32",
        "eos_token_id": source.value("tokenizer.ggml.eos_token_id"),
    }
    if is_gemma:
        config |= {
            "sliding_window": source.value("{}.attention.sliding_window"),
            "sliding_window_pattern": _GEMMA_PATTERN,
            "query_pre_attn_scalar": head_size,
        }
    return config


# ── Weights ──────────────────────────────────────────────────────────────────────────────────────


def _weights(source: _Source, config: Mapping[str, Any]) -> Weights:
    is_gemma = source.architecture == "gemma3"
    found: dict[str, NDArray[np.float32]] = {}
    for name, tensor in source.tensors().items():
        if name == "rope_freqs.weight":
            raise source.bad("scaled rotary embeddings, which are not known here")
        bare = name.removesuffix(".weight")
        weight = tensor
        if is_gemma and bare.endswith("_norm"):
            weight = tensor - 1.0
        if not is_gemma and bare.endswith((".attn_q", ".attn_k")):
            which = "num_attention_heads" if bare.endswith("q") else "num_key_value_heads"
            weight = _as_halves(tensor, config[which])
        found[f"{_name(source, bare)}.weight"] = weight
    return found


def _name(source: _Source, bare: str) -> str:
    if bare in _NAMES:
        return _NAMES[bare]
    names = _GEMMA_BLOCK_NAMES if source.architecture == "gemma3" else _BLOCK_NAMES
    block, number, what = (*bare.split(".", 2), "", "")[:3]
    if block != "blk" or what not in names:
        raise source.bad(f"the tensor {bare!r}, which is not known here")
    return f"model.layers.{number}.{names[what]}"


def _as_halves(rows: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """From pairs of neighbours, as llama.cpp rotates them, to pairs of a head's two halves."""
    out, size = rows.shape
    pairs = rows.reshape(num_heads, out // num_heads // 2, 2, size)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(out, size)


def _save_weights(folder: Path, weights: Mapping[str, mx.array]) -> None:
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(weights), metadata={"format": "mlx"}
    )


def _quantize(folder: Path, config: dict[str, Any], bits: int, group_size: int) -> None:
    """Write the weights again, quantized where a matrix divides into groups."""
    model = adapter.load_weights(folder)

    def divides(_path: str, module: nn.Module) -> bool:
        return hasattr(module, "to_quantized") and module.weight.shape[-1] % group_size == 0

    nn.quantize(model, group_size, bits, class_predicate=divides)
    weights = dict(tree_flatten(model.parameters()))
    mx.eval(weights)
    _save_weights(folder, weights)
    _write_json(
        folder / "config.json",
        config | {"quantization": {"group_size": group_size, "bits": bits}},
    )


# ── Text ─────────────────────────────────────────────────────────────────────────────────────────


def _tokenizer(source: _Source) -> Tokenizer:
    tokens = source.value("tokenizer.ggml.tokens")
    types = source.value("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ", 1)) for merge in source.value("tokenizer.ggml.merges")]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    splits = source.value("tokenizer.ggml.pre", "gpt-2")
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if splits == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, by_bytes])
    elif splits == "gpt-2":
        tokenizer.pre_tokenizer = by_bytes
    else:
        raise source.bad(f"the pre-tokenizer {splits!r}; expected gpt-2 or smollm")
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL
    ]
    tokenizer.add_special_tokens(control)
    if source.value("tokenizer.ggml.add_bos_token", False):
        bos_id = source.value("tokenizer.ggml.bos_token_id")
        bos = tokens[bos_id]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, bos_id)]
        )
    return tokenizer


def _tokenizer_config(source: _Source) -> dict[str, Any]:
    tokens = source.value("tokenizer.ggml.tokens")

    def token(which: str) -> str | None:
        token_id = source.value(f"tokenizer.ggml.{which}_token_id")
        return None if token_id is None else tokens[token_id]

    found = {
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "chat_template": source.value("tokenizer.chat_template"),
        "model_max_length": source.value("{}.context_length"),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {key: value for key, value in found.items() if value is not None}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
