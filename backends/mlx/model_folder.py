"""What a model's folder says beside its weights: its shape, its chat template, its special tokens.

The files are those of Hugging Face: `config.json`, `tokenizer_config.json`, `chat_template.jinja`,
`model*.safetensors`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.mlx.tokenizer import MlxTokenizer
from edged.errors import ModelLoadError, Reason

_TURN_ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>"),
    *("<|return|>", "<|call|>", "<EOT>", "<turn|>"),
)
"""Control tokens that end an answer in the chat formats that there are, whatever a folder says."""
_MESSAGE_END, _CHANNEL_ENDS = "<|end|>", ("<|return|>", "<|call|>")
"""Of models that think in channels."""
_FALLBACK_CONTEXT = 8192
"""Of a model that does not say what it was trained for."""


class ModelFolder:
    """Raises ModelLoadError where a file is missing or cannot be read."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.name = self.path.name
        if not self.path.is_dir():
            what = "is a file, not a folder" if self.path.exists() else "does not exist"
            raise self._bad(f"{what}; expected a folder with config.json and model*.safetensors")
        self._tokens = self._read("tokenizer_config.json", needed=False)
        self.config = self._read("config.json", needed=True)
        if "model_type" not in self.config:
            raise self._bad("config.json has no model_type")
        self.weight_files = sorted(self.path.glob("model*.safetensors"))
        if not self.weight_files:
            raise self._bad("has no model*.safetensors")

    @property
    def num_bytes(self) -> int:
        """Of the weights."""
        return sum(file.stat().st_size for file in self.weight_files)

    @property
    def train_context_tokens(self) -> int:
        return self.number("max_position_embeddings") or _FALLBACK_CONTEXT

    def number(self, key: str) -> int:
        """Of the configuration, or of the part of it that is about text; 0 where it has none."""
        text = self.config.get("text_config")
        found = self.config.get(key, text.get(key) if isinstance(text, Mapping) else None)
        return found if isinstance(found, int) else 0

    @property
    def chat_template(self) -> str | None:
        file = self.path / "chat_template.jinja"
        if file.is_file():
            try:
                return file.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise self._bad(f"{file.name} cannot be read: {error}") from error
        found = self._tokens.get("chat_template")
        if isinstance(found, list):  # several, by name
            named = {one.get("name"): one.get("template") for one in found}
            found = named.get("default")
        return found if isinstance(found, str) else None

    def special(self, key: str) -> str:
        """`bos_token` or `eos_token`; "" where there is none."""
        found = self._tokens.get(key)
        if isinstance(found, Mapping):
            found = found.get("content")
        return found if isinstance(found, str) else ""

    @property
    def control_tokens(self) -> frozenset[str]:
        """That are such, whatever the tokenizer's own file says."""
        decoder = self._tokens.get("added_tokens_decoder")
        listed = decoder.values() if isinstance(decoder, Mapping) else ()
        found = {
            one["content"] for one in listed if isinstance(one, Mapping) and one.get("special")
        }
        return frozenset(found | {self.special("bos_token"), self.special("eos_token")})

    @property
    def added_bos_token(self) -> str | None:
        """What every text begins with; None where that is left to the tokenizer's own file."""
        return self.special("bos_token") if self._tokens.get("add_bos_token") is True else None

    def eog_token_ids(self, tokenizer: MlxTokenizer, vocab_size: int) -> frozenset[int]:
        """Those that end an answer."""
        found: set[int] = set()
        for source in (self.config, self._read("generation_config.json", needed=False)):
            ids = source.get("eos_token_id")
            found |= {one for one in (ids if isinstance(ids, list) else [ids]) if type(one) is int}
        ends = set(_TURN_ENDS)
        if all(tokenizer.id_of(token) is not None for token in _CHANNEL_ENDS):
            ends.remove(_MESSAGE_END)  # of one of several messages of an answer
        for token in (self.special("eos_token"), *ends):
            token_id = tokenizer.id_of(token) if token else None
            if token_id is not None and tokenizer.piece(token_id) == b"":
                found.add(token_id)
        return frozenset(one for one in found if 0 <= one < vocab_size)

    def _read(self, name: str, *, needed: bool) -> Mapping[str, Any]:
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if not needed:
                return {}
            raise self._bad(f"has no {name}; expected a folder of MLX or Hugging Face") from error
        except (OSError, ValueError) as error:
            raise self._bad(f"{name} cannot be read: {error}") from error
        if not isinstance(found, Mapping):
            raise self._bad(f"{name} is not an object")
        return found

    def _bad(self, why: str) -> ModelLoadError:
        return ModelLoadError(Reason.BAD_MODEL_FILE, f"model {self.name!r}: {why}")
