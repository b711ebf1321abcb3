"""Which token follows: a hash of everything the slot holds, spelt as well-formed text.

Characters are drawn from a small alphabet of one to four bytes; inside one, the draw goes on with
one of the characters that begin like it. So answers are valid UTF-8 split over tokens.
"""

import struct
from collections.abc import Sequence
from zlib import crc32

from edged.core.types import SampledToken, TokenLogprob

_ALPHABET = "eeeetttaaaoooiiinnnssshhhrrrdlucmfwypvbgkqjxz          ..,,\n" + "éüß€漢字😀"
_FIRST_BYTES = tuple(character.encode()[0] for character in _ALPHABET)
_SEED_AND_INDEX = struct.Struct("<QI")
_UINT64 = (1 << 64) - 1
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_LEAD_OR_TRAIL = range(0x80, 0x100)


def _next_bytes() -> dict[tuple[int, ...], tuple[int, ...]]:
    """The bytes that may follow each beginning of a character of the alphabet."""
    following: dict[tuple[int, ...], set[int]] = {}
    for character in _ALPHABET:
        encoded = tuple(character.encode())
        for length in range(1, len(encoded)):
            following.setdefault(encoded[:length], set()).add(encoded[length])
    return {beginning: tuple(sorted(options)) for beginning, options in following.items()}


_NEXT_BYTES = _next_bytes()


def draw_bits(digest: int, seed: int, index: int) -> int:
    """32 bits that depend on every argument; `digest` is the CRC-32 of the cells."""
    mixed = crc32(_SEED_AND_INDEX.pack(seed & _UINT64, index), digest)
    return (mixed * _GOLDEN & _UINT64) >> 32


def choose_token(cells: Sequence[int], bits: int) -> int:
    """A token id that continues the text of `cells`."""
    if cells[-1] in _LEAD_OR_TRAIL:
        for length in (3, 2, 1):
            options = _NEXT_BYTES.get(tuple(cells[-length:]))
            if options is not None:
                return options[bits % len(options)]
    return _FIRST_BYTES[bits % len(_FIRST_BYTES)]


def with_logprobs(token_id: int, bits: int, num_alternatives: int) -> SampledToken:
    """The token with made-up log-probabilities, likeliest first, the drawn token being that."""
    others = [other for other in range(32, 32 + num_alternatives + 1) if other != token_id]
    chosen = -(1 + bits % 100) / 100
    top = [TokenLogprob(token_id, chosen)]
    top += [TokenLogprob(other, chosen - rank) for rank, other in enumerate(others, start=1)]
    return SampledToken(token_id, chosen, tuple(top[:num_alternatives]))
