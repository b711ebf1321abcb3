"""Text to token ids and back, by a Hugging Face `tokenizer.json`."""

import json
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edged.errors import ModelLoadError, Reason

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class MlxTokenizer:
    """Thread-safe: the library's calls are, and nothing here changes."""

    def __init__(
        self, folder: Path, control: Collection[str] = (), bos_token: str | None = None
    ) -> None:
        """`control`: tokens that are control tokens, whatever the tokenizer's file says.
        `bos_token`: begins whatever is encoded with special tokens; None leaves it to the file.

        Raises:
            ModelLoadError: the folder has no tokenizer, or one that cannot be read.
        """
        try:
            described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            for one in described.get("added_tokens") or []:
                one["special"] = one["special"] or one["content"] in control
            text = json.dumps(described)
            self._literal, self._parsing = Tokenizer.from_str(text), Tokenizer.from_str(text)
        except FileNotFoundError as error:
            raise _unusable(folder, "it has no tokenizer.json") from error
        except Exception as error:  # the library raises nothing narrower
            raise _unusable(folder, f"tokenizer.json: {error}") from error
        for tokenizer in (self._literal, self._parsing):  # what was saved of some training
            tokenizer.no_truncation()
            tokenizer.no_padding()
        # Control tokens that somebody wrote are ordinary characters here.
        self._literal.encode_special_tokens = True
        added: list[Mapping[str, Any]] = described.get("added_tokens") or []
        self._control = frozenset(one["id"] for one in added if one["special"])
        self._plain: Mapping[int, str] = {
            one["id"]: one["content"] for one in added if not one["special"]
        }
        self._bos_id = self.id_of(bos_token) if bos_token else None
        self._bytes_of = _byte_characters() if _has_step(described, "ByteLevel") else None

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        # A lone surrogate has no UTF-8; it becomes "?" as everywhere else in Python's codecs.
        text = text.encode("utf-8", "replace").decode()
        tokenizer = self._parsing if parse_special else self._literal
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special).ids
        if add_special and self._bos_id is not None and ids[:1] != [self._bos_id]:
            ids.insert(0, self._bos_id)
        return ids

    def piece(self, token_id: int) -> bytes:
        if token_id in self._control:
            return b""
        if token_id in self._plain:
            return self._plain[token_id].encode()
        token = self._parsing.id_to_token(token_id)
        if token is None:  # the model has more rows than the tokenizer has tokens
            return b""
        if self._bytes_of is not None:
            return b"".join(self._bytes_of.get(one, one.encode()) for one in token)
        found = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(found[1], 16)]) if found else token.replace("▁", " ").encode()

    def id_of(self, token: str) -> int | None:
        found: int | None = self._parsing.token_to_id(token)
        return found


def _has_step(described: Mapping[str, Any], kind: str) -> bool:
    """Whether the decoder, or a step of it, is of that kind."""
    decoder = described.get("decoder") or {}
    steps = decoder.get("decoders") or [decoder]
    return any(step.get("type") == kind for step in steps)


@cache
def _byte_characters() -> Mapping[str, bytes]:
    """The byte that each character stands for in byte-level BPE, as GPT-2 chose them: printable
    ones for themselves, the others from U+0100 up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters: dict[str, bytes] = {}
    next_code = 0x100
    for value in range(256):
        if value in printable:
            characters[chr(value)] = bytes([value])
        else:
            characters[chr(next_code)] = bytes([value])
            next_code += 1
    return characters


def _unusable(folder: Path, why: str) -> ModelLoadError:
    return ModelLoadError(
        Reason.BAD_MODEL_FILE, f"model {folder.name!r} has no usable tokenizer: {why}"
    )
