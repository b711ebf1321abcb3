"""The text of one answer as its tokens arrive: whole characters, and nothing past a stop string.

Theory of operation: a token's bytes go through Python's incremental UTF-8 decoder, which holds an
unfinished character back and puts U+FFFD for bytes that can be none. The characters then go through
one prefix automaton (Knuth, Morris, Pratt 1977) for each stop string: its state is how much of that
string the text so far ends with. Text up to the largest of the states may be the beginning of a
stop string and is held back. The first stop string to be complete ends the answer; of several that
end at the same character it is the longest. So the outcome is a function of the bytes alone,
however they were split over tokens, and costs a few operations a character whatever the strings.

Pieces are put together as they are. The vocabularies of SentencePiece write a word with the space
before it, so an answer may begin with a space there; a continuation of plain text needs it, and
llama.cpp's own server streams it too.
"""

import codecs
from collections.abc import Callable, Sequence


class TextStream:
    """Feed it the tokens of an answer in order; its state is a function of them alone."""

    def __init__(self, piece: Callable[[int], bytes], stop: Sequence[str]) -> None:
        """`piece` gives the bytes of a token; `stop` are the strings that end the answer."""
        assert all(stop), "an empty stop string"
        self._piece = piece
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._matchers = [_StopMatcher(text) for text in stop]
        self._first_characters = frozenset(text[0] for text in stop)
        self._held = ""
        self._stop_string: str | None = None

    @property
    def stop_string(self) -> str | None:
        """The stop string that was met; nothing follows it."""
        return self._stop_string

    def push(self, token_id: int) -> str:
        """The text that this token completes, which may be none."""
        return self._advance(self._decode(self._piece(token_id)))

    def flush(self) -> str:
        """The text held back, when no token follows."""
        text = self._advance(self._decode(b"", True))
        text += self._held
        self._held = ""
        return text

    def _advance(self, text: str) -> str:
        if self._stop_string is not None:
            return ""
        if not self._held and self._first_characters.isdisjoint(text):
            return text
        return self._match(text)

    def _match(self, text: str) -> str:
        pending = self._held + text
        for position, character in enumerate(text, start=len(self._held) + 1):
            found: _StopMatcher | None = None
            for matcher in self._matchers:
                is_longer = found is None or len(matcher.text) > len(found.text)
                if matcher.advance(character) and is_longer:
                    found = matcher
            if found is not None:
                self._stop_string = found.text
                self._held = ""
                return pending[: position - len(found.text)]
        num_held = max(matcher.num_matched for matcher in self._matchers)
        released = len(pending) - num_held
        self._held = pending[released:]
        return pending[:released]


class _StopMatcher:
    """How much of one string the text so far ends with."""

    __slots__ = ("_fallback", "num_matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0
        self._fallback = _border_lengths(text)

    def advance(self, character: str) -> bool:
        """Take one more character; whether the string is complete with it."""
        text, num_matched = self.text, self.num_matched
        while num_matched and character != text[num_matched]:
            num_matched = self._fallback[num_matched - 1]
        if character == text[num_matched]:
            num_matched += 1
        self.num_matched = num_matched
        return num_matched == len(text)


def _border_lengths(text: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    lengths = [0] * len(text)
    length = 0
    for end in range(1, len(text)):
        while length and text[end] != text[length]:
            length = lengths[length - 1]
        if text[end] == text[length]:
            length += 1
        lengths[end] = length
    return lengths
