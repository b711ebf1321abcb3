"""Text to token ids and back, for one loaded model."""

from backends.llama_cpp.native import Vocabulary


class LlamaTokenizer:
    """Thread-safe: the library's calls are, and a piece computed twice is the same piece."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._pieces: list[bytes | None] = [None] * vocabulary.size

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        # A lone surrogate has no UTF-8; it becomes "?" as everywhere else in Python's codecs.
        data = text.encode("utf-8", "replace")
        return self._vocabulary.tokenize(data, add_special=add_special, parse_special=parse_special)

    def piece(self, token_id: int) -> bytes:
        assert 0 <= token_id < len(self._pieces), f"token {token_id} of {len(self._pieces)}"
        piece = self._pieces[token_id]
        if piece is None:
            piece = self._vocabulary.piece(token_id, special=False)
            self._pieces[token_id] = piece
        return piece
