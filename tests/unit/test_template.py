"""Chat templates: what Hugging Face's templates expect, and the bounds of a hostile one."""

from datetime import datetime

import pytest

from edged.engine.template import MAX_PASSES, ChatTemplate
from edged.engine.wire import ChatMessage
from edged.errors import InvalidRequestError

HELLO = (ChatMessage("system", "Be brief."), ChatMessage("user", "Hi <|there|>!"))


def template(
    source: str | None, *, max_characters: int = 10_000, max_passes: int = 1_000
) -> ChatTemplate:
    return ChatTemplate(
        source,
        bos_token="<s>",
        eos_token="</s>",
        local_time=lambda: datetime(2026, 11, 22),
        max_characters=max_characters,
        max_passes=max_passes,
    )


def render(source: str, messages: tuple[ChatMessage, ...] = HELLO) -> str:
    return template(source).render(messages)


def test_a_model_without_a_template_gets_chatml() -> None:
    assert template(None).render(HELLO) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi <|there|>!<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_blocks_leave_no_blank_lines_and_no_indentation() -> None:
    source = """\
{{ bos_token }}
{% for message in messages %}
    {% if message['role'] == 'user' %}
[INST] {{ message.content | trim }} [/INST]
    {% endif %}
{% endfor %}
{{ eos_token }}
"""
    assert render(source) == "<s>\n[INST] Hi <|there|>! [/INST]\n</s>"


def test_a_template_has_what_hugging_face_gives_it() -> None:
    source = (
        "{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} "
        "{{ strftime_now('%d %b %Y') }} {{ {'k': '<é>'} | tojson }} "
        "{% generation %}answer{% endgeneration %} "
        "{% for n in [1, 2, 3, 4] %}{% if n == 2 %}{% continue %}{% endif %}"
        "{% if n == 4 %}{% break %}{% endif %}{{ n }}/{{ loop.index }} {% endfor %}"
        "{% set ns = namespace(seen=0) %}{% for m in messages %}{% set ns.seen = ns.seen + 1 %}"
        "{% endfor %}{{ ns.seen }}{{ messages[1:] | length }}"
    )
    assert render(source) == 'True True True 22 Nov 2026 {"k": "<é>"} answer 1/1 3/3 21'


def test_a_refusal_by_the_template_reaches_the_caller_in_its_words() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        render("{{ raise_exception('System role not supported') }}")
    assert caught.value.violations[0].field == "prompt.chat"
    assert "refuses the conversation: System role not supported" in caught.value.detail


def test_no_messages_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"prompt\.chat: has no messages"):
        render("x", ())


def test_a_template_that_does_not_compile_is_reported_when_it_is_used() -> None:
    broken = template("{% if messages %}")
    with pytest.raises(InvalidRequestError, match=r"prompt\.chat: .*does not compile"):
        broken.render(HELLO)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% include 'other' %}", "no loader"),
        ("{{ messages[7].role }}", "no element 7"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ strftime_now(3) }}", "argument"),
    ],
)
def test_what_fails_in_the_sandbox_is_an_error_of_the_prompt(source: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"prompt\.chat: .*fails: .*{message}"):
        render(source)


def test_a_long_error_of_a_template_is_cut() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        render("{{ ('x' * 5000) + 1 }}{{ raise_exception('y') }}{{ {}['" + "k" * 5000 + "'].z }}")
    assert len(caught.value.detail) < 400


def test_output_is_bounded_at_the_limit() -> None:
    source = "{% for _ in range(10) %}0123456789{% endfor %}"
    assert len(template(source, max_characters=100).render(HELLO)) == 100
    with pytest.raises(InvalidRequestError, match="renders to more than 99 characters"):
        template(source, max_characters=99).render(HELLO)


def test_loop_passes_are_bounded_at_the_limit() -> None:
    source = "{% for _ in range(10) %}{% for _ in range(10) %}{% endfor %}{% endfor %}done"
    assert template(source, max_passes=110).render(HELLO) == "done"
    with pytest.raises(InvalidRequestError, match="runs more than 109 loop passes"):
        template(source, max_passes=109).render(HELLO)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for _ in range(99999) %}" * 3 + "{% endfor %}" * 3, "loop passes"),
        (
            "{% macro m(n) %}{{ m(n - 1) if n }}{{ m(n - 1) if n }}{% endmacro %}{{ m(90) }}",
            "loop passes",
        ),
        (
            "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
            + "{% call m() %}" * 18
            + "{% endcall %}" * 18,
            "loop passes",
        ),
        ("{% for _ in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion"),
        ("{{ range(100001) }}", "Range too big"),
        (
            "{% set namespace = 1 %}{% set count = 1 %}{% for _0pass in range(999) %}"
            "{% for x in range(9999) %}{% endfor %}{% endfor %}",
            "loop passes",
        ),
    ],
)
def test_a_template_that_would_run_for_ever_is_stopped(source: str, message: str) -> None:
    stopped = ChatTemplate(source, bos_token="", eos_token="")
    with pytest.raises(InvalidRequestError, match=message):
        stopped.render(HELLO)


def test_a_long_conversation_stays_far_below_the_limit_of_passes() -> None:
    messages = HELLO * 5_000
    text = ChatTemplate(None, bos_token="", eos_token="").render(messages)
    assert text.count("<|im_start|>") == len(messages) + 1
    assert len(messages) * 10 <= MAX_PASSES
