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


def test_what_a_training_left_behind_is_not_obeyed(tmp_path: Path) -> None:
    _tokenizer(tmp_path)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    saved.enable_truncation(3)
    saved.enable_padding(length=20)
    saved.save(str(tmp_path / "tokenizer.json"))
    tokenizer = MlxTokenizer(tmp_path)
    encoded = tokenizer.encode("hi hi hi hi hi", add_special=False, parse_special=False)
    assert len(encoded) == 5


def test_a_bos_that_the_configuration_wants_is_there_once(tmp_path: Path) -> None:
    _tokenizer(tmp_path)
    tokenizer = MlxTokenizer(tmp_path, bos_token="<s>")
    assert tokenizer.encode("hi", add_special=True, parse_special=False) == [1, 10]
    assert tokenizer.encode("hi", add_special=False, parse_special=False) == [10]
    assert tokenizer.encode("<s>hi", add_special=True, parse_special=True)[:2] == [1, 10]


def test_a_control_token_is_one_whatever_its_file_says(tmp_path: Path) -> None:
    _tokenizer(tmp_path)
    tokenizer = MlxTokenizer(tmp_path, control={"<tool>"})
    assert tokenizer.piece(2) == b""
    assert 2 not in tokenizer.encode("<tool>", add_special=False, parse_special=False)
    assert 2 in tokenizer.encode("<tool>", add_special=False, parse_special=True)


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
