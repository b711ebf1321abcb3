"""What loading promises: progress, the facts of what was loaded, and errors with a reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from edged.backend import Backend, find_backend
from edged.errors import ModelLoadError, Reason
from tests.contract.cases import CONFIG, BackendCase
from tests.contract.driver import MakeBackend, Run, answer_alone, step


@pytest.fixture
def config_path(case: BackendCase, tmp_path: Path) -> Path:
    if case.needs is not None:
        case.needs()
    return tmp_path


def test_progress_goes_up_to_one(case: BackendCase, config_path: Path) -> None:
    seen: list[float] = []
    case.create(case.config(config_path), seen.append).close()
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert seen[0] >= 0
    assert seen[-1] == 1.0
    assert seen.count(1.0) == 1


def test_the_info_is_what_was_asked_for(backend: Backend, case: BackendCase) -> None:
    info, kv = backend.info, backend.info.kv
    assert info.backend == case.backend
    assert kv.num_slots == CONFIG.max_sequences
    assert kv.num_cells >= CONFIG.context_tokens
    share = 1 if case.kv_unified else CONFIG.max_sequences
    assert kv.max_cells_per_slot == kv.num_cells // share
    assert (kv.effective_type_k, kv.effective_type_v) == (case.kv_type, case.kv_type)
    assert kv.bytes_per_cell > 0
    assert info.eog_token_ids
    assert all(0 <= token_id < info.vocab_size for token_id in info.eog_token_ids)


@pytest.mark.parametrize(
    ("field", "config"),
    [
        ("no_such_option", replace(CONFIG, options={"no_such_option": "1"})),
        ("q5_1", replace(CONFIG, kv_type="q5_1")),
    ],
    ids=["option", "kv_type"],
)
def test_a_setting_it_does_not_know_is_named(
    case: BackendCase, config_path: Path, field: str, config: object
) -> None:
    assert isinstance(config, type(CONFIG))
    path = case.config(config_path).model_path
    with pytest.raises(ModelLoadError, match=field) as raised:
        case.create(replace(config, model_path=path), lambda _fraction: None)
    assert raised.value.reason is Reason.BAD_CONFIG


def test_an_unknown_backend_is_named_with_those_there_are() -> None:
    with pytest.raises(ModelLoadError, match=r"no backend 'nowhere'.*llama_cpp"):
        find_backend("nowhere")


def test_two_backends_of_one_process_do_not_disturb_each_other(make_backend: MakeBackend) -> None:
    expected = answer_alone(make_backend(), "the lazy dog", 8)
    first, second = make_backend(), make_backend()
    runs = [Run(first, "the lazy dog"), Run(second, "the lazy dog")]
    for _ in range(8):
        step(first, runs[:1])
        step(second, runs[1:])
    assert [run.answer for run in runs] == [expected, expected]
