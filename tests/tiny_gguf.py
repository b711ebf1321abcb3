"""Writes a tiny llama model with random weights: a real GGUF file in a fraction of a second.

Its vocabulary is byte-level BPE with a few merges and control tokens, so that any text has tokens
and a character outside ASCII has several. Its answers mean nothing, but depend on every token
before them: almost any change of one character changes the next twelve greedy tokens.
"""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

NUM_LAYERS = 2
NUM_HEADS = 4
NUM_KV_HEADS = 2
HEAD_SIZE = 32
EMBEDDING_SIZE = NUM_HEADS * HEAD_SIZE
FEED_FORWARD_SIZE = 192
TRAIN_CONTEXT_TOKENS = 2048

CONTROL_TOKENS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
BOS_ID, EOS_ID, TURN_START_ID, TURN_END_ID = range(4)
MERGES = ("h e", "Ġ t", "Ġt he", "i n", "e r", "o n", "Ġ a", "l l", "Ġ w", "o r")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    architecture: str = "llama",
    head_size: int = HEAD_SIZE,
    sick_token_id: int | None = None,
    num_layers: int = NUM_LAYERS,
    window_tokens: int | None = None,
) -> Path:
    """Write the model and return its path; the same arguments give the same bytes.

    A sequence with `sick_token_id` in it has NaN for logits, as a damaged or overflowing model has.
    With `window_tokens` most layers of an architecture that has such attend to so many tokens only.
    """
    writer = gguf.GGUFWriter(path, architecture)
    if window_tokens is not None:
        writer.add_sliding_window(window_tokens)
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
    writer.add_context_length(TRAIN_CONTEXT_TOKENS)
    writer.add_embedding_length(NUM_HEADS * head_size)
    writer.add_block_count(num_layers)
    writer.add_feed_forward_length(FEED_FORWARD_SIZE)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_size)
    num_tokens = _add_vocabulary(writer)
    tensors = _tensors(np.random.default_rng(seed), num_tokens, head_size, num_layers)
    if architecture == "gemma3":
        tensors |= _gemma_norms(head_size, num_layers)
    if sick_token_id is not None:
        tensors["token_embd.weight"][sick_token_id] = np.nan
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Returns the number of tokens."""
    tokens = [*CONTROL_TOKENS, *_byte_characters(), *(m.replace(" ", "") for m in MERGES)]
    types = [gguf.TokenType.CONTROL] * len(CONTROL_TOKENS)
    types += [gguf.TokenType.NORMAL] * (len(tokens) - len(CONTROL_TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
    return len(tokens)


def _byte_characters() -> list[str]:
    """The character that stands for each byte in byte-level BPE (as GPT-2 chose them): printable
    ones for themselves, the others from U+0100 up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters: list[str] = []
    next_code = 0x100
    for value in range(256):
        if value in printable:
            characters.append(chr(value))
        else:
            characters.append(chr(next_code))
            next_code += 1
    return characters


def _tensors(
    random: np.random.Generator, num_tokens: int, head_size: int, num_layers: int
) -> dict[str, NDArray[np.float32]]:
    embedding, kv_size = NUM_HEADS * head_size, NUM_KV_HEADS * head_size

    def matrix(rows: int, columns: int, gain: float = 1.0) -> NDArray[np.float32]:
        scale = gain / np.sqrt(columns)
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    ones = np.ones(embedding, np.float32)
    tensors = {
        "token_embd.weight": matrix(num_tokens, embedding),
        "output_norm.weight": ones,
        # Logits get a standard deviation of about 4: a random model is then sure of its answers.
        "output.weight": matrix(num_tokens, embedding, gain=4.0),
    }
    for layer in range(num_layers):
        block = {
            "attn_norm": ones,
            # Large queries and keys make attention pick tokens instead of averaging all of them.
            "attn_q": matrix(embedding, embedding, gain=2.0),
            "attn_k": matrix(kv_size, embedding, gain=2.0),
            "attn_v": matrix(kv_size, embedding, gain=2.0),
            "attn_output": matrix(embedding, embedding, gain=2.0),
            "ffn_norm": ones,
            "ffn_gate": matrix(FEED_FORWARD_SIZE, embedding),
            "ffn_up": matrix(FEED_FORWARD_SIZE, embedding),
            "ffn_down": matrix(embedding, FEED_FORWARD_SIZE),
        }
        tensors |= {f"blk.{layer}.{name}.weight": tensor for name, tensor in block.items()}
    return tensors


def write_tiny_windowed_gguf(path: Path) -> Path:
    """A model five of whose six layers attend to the last 32 tokens."""
    return write_tiny_gguf(path, architecture="gemma3", num_layers=6, window_tokens=32)


def _gemma_norms(head_size: int, num_layers: int) -> dict[str, NDArray[np.float32]]:
    """Those that a Gemma has beside a llama's."""
    wide, narrow = np.ones(NUM_HEADS * head_size, np.float32), np.ones(head_size, np.float32)
    norms = {
        "post_attention_norm": wide,
        "post_ffw_norm": wide,
        "attn_q_norm": narrow,
        "attn_k_norm": narrow,
    }
    return {
        f"blk.{layer}.{name}.weight": norm
        for layer in range(num_layers)
        for name, norm in norms.items()
    }
