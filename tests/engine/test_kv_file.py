"""Files of saved KV: what was written is read again, and nothing that is not whole is."""

from pathlib import Path

import pytest

from edged.engine import kv_file
from edged.engine.kv_file import KvFileError

KEY = "k" * 64
TOKENS = tuple(range(1000, 1300))
KV = bytes(range(256)) * 40


def written(tmp_path: Path, *, space: str | None = "ada", key: str = KEY) -> Path:
    path = tmp_path / "one.kv"
    num_bytes = kv_file.write(path, key, space, TOKENS, memoryview(KV))
    assert path.stat().st_size == num_bytes
    return path


@pytest.mark.parametrize("space", ["ada", None, "uid:1000 \U0001f431"])
def test_what_was_written_is_read(tmp_path: Path, space: str | None) -> None:
    path = written(tmp_path, space=space)
    head = kv_file.read_head(path, KEY)
    assert (head.space, head.tokens, head.kv_bytes) == (space, TOKENS, len(KV))
    assert kv_file.read_kv(path, KEY) == (len(TOKENS), KV)
    assert path.stat().st_mode & 0o777 == 0o600, "others could read what was asked"
    assert list(tmp_path.iterdir()) == [path]


def test_another_engines_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, key="other")
    with pytest.raises(KvFileError, match="another engine's"):
        kv_file.read_kv(path, KEY)


def test_every_torn_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    for length in (*range(200), *range(200, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(KvFileError):
            kv_file.read_head(path, KEY)
    path.write_bytes(whole + b"x")
    with pytest.raises(KvFileError, match="bytes, not"):
        kv_file.read_head(path, KEY)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = bytearray(path.read_bytes())
    for at in (*range(0, 200), *range(200, len(whole), 61)):
        whole[at] ^= 1 << at % 8
        path.write_bytes(whole)
        with pytest.raises(KvFileError):
            kv_file.read_kv(path, KEY)
        whole[at] ^= 1 << at % 8
    path.write_bytes(whole)
    assert kv_file.read_kv(path, KEY) == (len(TOKENS), KV)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KvFileError, match="cannot be read"):
        kv_file.read_kv(tmp_path / "none.kv", KEY)
    with pytest.raises(KvFileError, match="cannot be read"):
        kv_file.read_head(tmp_path, KEY)


def test_a_head_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lie.kv"
    for head in (
        b'{"key":"%s","space":null,"num_tokens":-9,"kv_bytes":1,"kv_crc":0}' % KEY.encode(),
        b'{"key":"%s","space":null,"num_tokens":1e9,"kv_bytes":1,"kv_crc":0}' % KEY.encode(),
        b'{"key":"%s","space":7,"num_tokens":1,"kv_bytes":-4,"kv_crc":0}' % KEY.encode(),
        b'{"key":"%s","space":null,"num_tokens":1.0,"kv_bytes":1,"kv_crc":0}' % KEY.encode(),
        b'{"key":"%s","space":null,"num_tokens":"x","kv_bytes":1,"kv_crc":0}' % KEY.encode(),
        b"[1]",
        b"\xff",
    ):
        path.write_bytes(b"EDGEDKV1" + len(head).to_bytes(4, "little") + bytes(4) + head)
        with pytest.raises(KvFileError):
            kv_file.read_kv(path, KEY)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "one.tmp").touch()
    with pytest.raises(FileExistsError):
        kv_file.write(tmp_path / "one.kv", KEY, None, TOKENS, memoryview(KV))
    assert not (tmp_path / "one.kv").exists()
