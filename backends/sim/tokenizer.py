"""Text and ids of the simulated model: one token for each byte, and a few control tokens.

So every character outside ASCII is spread over several tokens. Ids from `NUM_TOKENS` up, where a
larger vocabulary was asked for, stand for no text: they make room for prompts that come as the
token ids of another model.
"""

import re

BOS_ID = 256
EOS_ID = 257
TURN_START_ID = 258
TURN_END_ID = 259
NUM_TOKENS = 260

BOS_TOKEN = "<s>"  # noqa: S105  # a control token of a vocabulary, not a password
EOS_TOKEN = "</s>"  # noqa: S105  # as above
_CONTROL_IDS = {
    BOS_TOKEN: BOS_ID,
    EOS_TOKEN: EOS_ID,
    "<|im_start|>": TURN_START_ID,
    "<|im_end|>": TURN_END_ID,
}
_CONTROL = re.compile("(" + "|".join(re.escape(text) for text in _CONTROL_IDS) + ")")
_PIECES = tuple(bytes([value]) for value in range(256))

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ByteTokenizer:
    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        token_ids = [BOS_ID] if add_special else []
        if not parse_special:
            token_ids.extend(text.encode())
            return token_ids
        for part in _CONTROL.split(text):
            control_id = _CONTROL_IDS.get(part)
            if control_id is None:
                token_ids.extend(part.encode())
            else:
                token_ids.append(control_id)
        return token_ids

    def piece(self, token_id: int) -> bytes:
        return _PIECES[token_id] if token_id < 256 else b""
