"""Chat templates: a conversation becomes the text of a prompt, in a sandbox and within limits.

Theory of operation: the template comes out of a model file that somebody made, so it is rendered in
Jinja's immutable sandbox with what Hugging Face gives its templates (`trim_blocks`,
`lstrip_blocks`, loop controls, `raise_exception`, `strftime_now`, `tojson`, `tools` and `documents`
as none). Three things are bounded: the length of a `range` (by the sandbox), the loop passes and
macro calls of one rendering, and the characters it puts out. Each pass is counted by a call that is
put at the head of every loop and macro under a name no template can write. What one single
expression does (a string doubled and doubled again) is not bounded here: the engine process is the
wall around that.

A model without a template gets ChatML: `<|im_start|>ROLE\\nCONTENT<|im_end|>\\n` for each message,
and `<|im_start|>assistant\\n` for the answer.
"""

import json
from collections.abc import Callable, Sequence
from datetime import datetime

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edged.engine.wire import ChatMessage
from edged.errors import InvalidRequestError

MAX_RENDERED_CHARACTERS = 8 * 1024 * 1024
MAX_PASSES = 200_000
"""Loop passes and macro calls of one rendering."""

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_FIELD = "prompt.chat"
_PASS_COUNTER = "0pass"  # noqa: S105  # a name, which no template can write as it begins with 0


class TemplateLimitError(Exception):
    """A rendering went over a limit; the message says which."""


class TemplateRefusalError(Exception):
    """The template called `raise_exception`."""


class ChatTemplate:
    """One model's template. Rendering keeps no state and may run on any thread."""

    def __init__(
        self,
        source: str | None,
        *,
        bos_token: str,
        eos_token: str,
        local_time: Callable[[], datetime] = datetime.now,
        max_characters: int = MAX_RENDERED_CHARACTERS,
        max_passes: int = MAX_PASSES,
    ) -> None:
        """A template that does not compile is reported by each `render`: the model still serves
        prompts that are not chats."""
        self._max_characters = max_characters
        self._max_passes = max_passes
        self._template: jinja2.Template | None = None
        self._compile_error = ""
        self._globals = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "strftime_now": lambda form: local_time().strftime(form),
        }
        try:
            self._template = _compile(CHATML if source is None else source)
        except Exception as error:  # Jinja's compiler raises many kinds, RecursionError among them
            self._compile_error = _describe(error)

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt's text, up to where the assistant's answer begins.

        Raises:
            InvalidRequestError: names prompt.chat: no messages, a template that does not compile,
                that refuses the conversation, fails, or goes over a limit.
        """
        if not messages:
            raise InvalidRequestError(_FIELD, "has no messages; at least one is needed")
        if self._template is None:
            raise InvalidRequestError(
                _FIELD, f"the model's chat template does not compile: {self._compile_error}"
            )
        try:
            return self._join(self._template, messages)
        except TemplateRefusalError as error:
            raise InvalidRequestError(
                _FIELD, f"the model's chat template refuses the conversation: {error}"
            ) from error
        # The sandbox's documentation: a template may raise anything, catch all of it.
        except Exception as error:
            raise InvalidRequestError(
                _FIELD, f"the model's chat template fails: {_describe(error)}"
            ) from error

    def _join(self, template: jinja2.Template, messages: Sequence[ChatMessage]) -> str:
        parts: list[str] = []
        num_characters = 0
        rendering = template.generate(
            self._globals,
            messages=[{"role": message.role, "content": message.content} for message in messages],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            raise_exception=_refuse,
            **{_PASS_COUNTER: _pass_counter(self._max_passes)},
        )
        for part in rendering:
            num_characters += len(part)
            if num_characters > self._max_characters:
                raise TemplateLimitError(
                    f"it renders to more than {self._max_characters} characters"
                )
            parts.append(part)
        return "".join(parts)


class _GenerationTag(Extension):
    """Hugging Face's `{% generation %}`, which marks answers for training: renders its body."""

    tags = {"generation"}  # noqa: RUF012  # the attribute that Jinja's Extension declares

    def parse(self, parser: Parser) -> list[nodes.Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        extensions=[_GenerationTag, loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    tree = environment.parse(source)
    repeated = (nodes.For, nodes.Macro, nodes.CallBlock)
    for node in tree.find_all(repeated):
        assert isinstance(node, repeated), f"find_all returned a {type(node)}"
        counter = nodes.Call(nodes.Name(_PASS_COUNTER, "load"), [], [], None, None)
        counted = nodes.ExprStmt(counter).set_lineno(node.lineno).set_environment(environment)
        node.body.insert(0, counted)
    return environment.from_string(tree)


def _pass_counter(max_passes: int) -> Callable[[], None]:
    num_passes = 0

    def count() -> None:
        nonlocal num_passes
        num_passes += 1
        if num_passes > max_passes:
            raise TemplateLimitError(f"it runs more than {max_passes} loop passes")

    return count


def _refuse(message: str) -> None:
    raise TemplateRefusalError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Hugging Face's `tojson`: plain JSON, nothing escaped for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _describe(error: Exception) -> str:
    message = str(error) or type(error).__name__
    return message if len(message) <= 300 else message[:300] + "…"
