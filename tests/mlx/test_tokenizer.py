"""Pieces of tokenizers that are not byte-level: spaces and bytes have names of their own."""

from pathlib import Path

from tests.models import require_mlx

require_mlx()

from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402  # after the skip

from backends.mlx.tokenizer import MlxTokenizer  # noqa: E402  # as above

VOCABULARY = {
    "<unk>": 0,
    "<s>": 1,
    "<tool>": 2,
    "<0xF0>": 3,
    "<0x9F>": 4,
    "<0x98>": 5,
    "<0x80>": 6,
    "▁": 7,
    "h": 8,
    "i": 9,
    "hi": 10,
    "▁hi": 11,
}
MERGES = [("h", "i"), ("▁", "hi")]


def _tokenizer(folder: Path) -> MlxTokenizer:
    model = models.BPE(VOCABULARY, MERGES, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return MlxTokenizer(folder)


def test_spaces_and_bytes_come_back(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path)
    text = "hi hi😀 hi"
    token_ids = tokenizer.encode(text, add_special=False, parse_special=False)
    assert b"".join(map(tokenizer.piece, token_ids)).decode() == text
    assert tokenizer.piece(11) == b" hi"
    assert tokenizer.piece(3) == b"\xf0"


def test_control_tokens_have_no_text_and_others_that_were_added_have(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path)
    assert tokenizer.piece(1) == b""
    assert tokenizer.piece(2) == b"<tool>"
    assert tokenizer.piece(999) == b"", "a row of the model that no token has"
    assert tokenizer.id_of("<s>") == 1
    assert tokenizer.id_of("<nonesuch>") is None
