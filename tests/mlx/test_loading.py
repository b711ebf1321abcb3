"""What MLX serves, and what an operator is told of what it does not serve."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.host_memory import FreeMemory
from edged.backend import BackendConfig
from edged.errors import ModelLoadError, Reason
from tests.contract.cases import CONFIG
from tests.contract.driver import answer_alone
from tests.models import require_mlx
from tests.tiny_mlx import write_tiny_mlx

require_mlx()

import mlx.core as mx  # noqa: E402  # after the skip where it is missing
import numpy as np  # noqa: E402  # as above
from mlx.utils import tree_flatten  # noqa: E402  # as above

from backends.mlx import adapter, create  # noqa: E402  # as above
from backends.mlx.load import load  # noqa: E402  # as above
from backends.mlx.memory import Device  # noqa: E402  # as above
from tests.mlx.driver import TinyModel  # noqa: E402  # as above

MIB = 2**20


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """One to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "tiny"))


def refused(folder: Path, **changes: object) -> ModelLoadError:
    config = replace(CONFIG, model_path=str(folder), **changes)  # type: ignore[arg-type]  # by name
    with pytest.raises(ModelLoadError) as caught:
        create(config, lambda _fraction: None)
    assert str(folder.parent) not in caught.value.detail, "a path is nobody's business"
    return caught.value


# ── Files ────────────────────────────────────────────────────────────────────────────────────────


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _truncate(name: str) -> Callable[[Path], None]:
    def truncate(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return truncate


def _set(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def _sick(folder: Path) -> None:
    weights = mx.load(str(folder / "model.safetensors"))
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shutil.rmtree, "'tiny': does not exist; expected a folder"),
        (_remove("config.json"), "'tiny': has no config.json"),
        (_truncate("config.json"), "'tiny': config.json cannot be read"),
        (_remove("model.safetensors"), "'tiny': has no model*.safetensors"),
        (_truncate("model.safetensors"), "'tiny' cannot be loaded"),
        (_remove("tokenizer.json"), "'tiny' has no usable tokenizer: it has no tokenizer.json"),
        (_truncate("tokenizer.json"), "'tiny' has no usable tokenizer: tokenizer.json"),
        (_set(model_type="nonesuch"), "'tiny' cannot be loaded: Model type nonesuch not supported"),
        (_set(hidden_size=64), "'tiny' cannot be loaded"),
        (_set(model_file="x.py"), "'tiny' cannot be loaded"),
        (_sick, "'tiny' is damaged: with its weights the largest logit is nan"),
    ],
)
def test_a_damaged_folder_is_refused_with_what_is_wrong(
    folder: Path, damage: Callable[[Path], None], expected: str
) -> None:
    damage(folder)
    error = refused(folder)
    assert error.reason is Reason.BAD_MODEL_FILE
    assert expected in error.detail


def test_a_file_is_no_folder(tiny_folder: Path) -> None:
    error = refused(tiny_folder.with_suffix(".gguf"))
    assert "is a file, not a folder" in error.detail


# ── Models ───────────────────────────────────────────────────────────────────────────────────────


def _other_model(
    folder: Path, model_type: str, *, dtype: mx.Dtype = mx.float32, **changes: Any
) -> None:
    """Random weights of another architecture."""
    from mlx_lm.utils import _get_classes

    config = json.loads((folder / "config.json").read_text()) | changes
    config["model_type"] = model_type
    (folder / "config.json").write_text(json.dumps(config))
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    model.set_dtype(dtype)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


def test_a_recurrent_model_is_refused_by_name(folder: Path) -> None:
    sizes = {"state_size": 8, "conv_kernel": 4, "expand": 2, "use_bias": False}
    sizes |= {"use_conv_bias": True, "time_step_rank": 8}
    _other_model(folder, "mamba", **sizes)
    error = refused(folder)
    assert error.reason is Reason.BAD_MODEL_FILE
    assert "layer 0 keeps a ArraysCache; expected layers that attend" in error.detail


def test_attention_that_cannot_be_batched_is_noticed(folder: Path) -> None:
    """A Gemma 2 computes its attention itself, from what the cache hands back."""
    _other_model(folder, "gemma2", query_pre_attn_scalar=32, attn_logit_softcapping=50.0)
    error = refused(folder)
    assert error.reason is Reason.BAD_MODEL_FILE
    assert "has attention that edged cannot batch" in error.detail


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "phi3", "olmo2", "mixtral"])
def test_models_of_the_zoo_compute_what_mlx_lm_computes(folder: Path, model_type: str) -> None:
    """That is checked when they are loaded."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if "mixtral" in model_type else {}
    _other_model(folder, model_type, **experts, partial_rotary_factor=1.0)
    config = replace(CONFIG, model_path=str(folder))
    with closing(create(config, lambda _fraction: None)) as backend:
        assert len(answer_alone(backend, "hello", 12)) == 12


def test_a_window_that_the_caches_do_not_know_of_is_noticed(folder: Path) -> None:
    """The text model in a Mistral 3 has one, and makes no caches for it."""
    text = json.loads((folder / "config.json").read_text())
    text |= {"model_type": "llama", "sliding_window": 8}
    text |= {"layer_types": ["sliding_attention", "full_attention"]}
    _other_model(folder, "mistral3", text_config=text)
    error = refused(folder)
    assert error.reason is Reason.BAD_MODEL_FILE
    assert "a window of 8 tokens over a cache of all" in error.detail


SINKS = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_hidden_layers": 2,
    "rope_scaling": None,
    "rope_theta": 10000,
}
WINDOWED = {"sliding_window": 16, "sliding_window_pattern": 2, "query_pre_attn_scalar": 32}


@pytest.mark.parametrize(
    ("model_type", "changes", "dtype"),
    [
        ("gpt_oss", SINKS, "float32"),  # on a CPU MLX has no other mixture of experts
        ("gemma3_text", WINDOWED, "float32"),
        ("gemma3_text", WINDOWED, "bfloat16"),
        ("cohere2", WINDOWED | {"layer_norm_eps": 1e-5}, "float32"),
        ("cohere2", WINDOWED | {"layer_norm_eps": 1e-5}, "float16"),
    ],
)
def test_windows_and_sinks_compute_what_mlx_lm_computes(
    folder: Path, model_type: str, changes: dict[str, Any], dtype: str
) -> None:
    """Far beyond the window, which the check at load does not reach."""
    _other_model(folder, model_type, dtype=getattr(mx, dtype), **changes)
    tokens = [4 + index * 7 % 240 for index in range(150)]
    expected = np.array(adapter.reference_logits(adapter.load_weights(folder), tokens))
    model = TinyModel(folder, "f16")
    assert any(shape.window == 16 for shape in model.layers.shapes)
    row = model.row(tokens[:-5], chunk=40)
    for token_id in tokens[-5:]:
        found = model.decode(row, [token_id])[0]
    tolerance = 1e-4 if dtype == "float32" else 0.05
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_weights_are_served(tmp_path: Path, bits: int) -> None:
    folder = write_tiny_mlx(tmp_path / "tiny", bits=bits)
    whole = write_tiny_mlx(tmp_path / "whole")
    with closing(create(replace(CONFIG, model_path=str(folder)), lambda _: None)) as backend:
        assert f"{bits}-bit" in backend.info.model_description
        assert len(answer_alone(backend, "hello", 8)) == 8
        model_bytes = backend.info.model_bytes
    with closing(create(replace(CONFIG, model_path=str(whole)), lambda _: None)) as backend:
        assert model_bytes < 0.5 * backend.info.model_bytes


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kv_type": "q5_0"}, "kv_type is 'q5_0'; backend mlx has f16, q8_0, q4_0"),
        ({"options": {"speed": "9"}}, "backend mlx has the option kv_group_size, not speed"),
        (
            {"options": {"kv_group_size": "48"}},
            "kv_group_size is '48'; expected one of 32, 64, 128",
        ),
        ({"context_tokens": 0}, "context_tokens is 0; expected at least 1"),
        ({"max_step_tokens": 2}, "max_step_tokens is 2; expected at least max_sequences, 4"),
        ({"num_threads": 4}, "num_threads is 4; backend mlx computes with one on the CPU"),
        ({"gpu_layers": 7}, "gpu_layers is 7; backend mlx puts all layers on the GPU (-1) or none"),
        ({"main_gpu": 1}, "backend mlx uses one GPU"),
        ({"tensor_split": (1.0, 1.0)}, "backend mlx uses one GPU"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(
    tiny_folder: Path, change: dict[str, object], expected: str
) -> None:
    error = refused(tiny_folder, **change)
    assert error.reason is Reason.BAD_CONFIG
    assert expected in error.detail


@pytest.mark.parametrize(("wanted", "found"), [("128", 32), ("64", 32), ("32", 32)])
def test_groups_are_as_large_as_heads_allow(tiny_folder: Path, wanted: str, found: int) -> None:
    config = replace(CONFIG, model_path=str(tiny_folder), options={"kv_group_size": wanted})
    with closing(create(config, lambda _fraction: None)) as backend:
        assert backend.info.kv.storage == f"8 bits in groups of {found}"


def test_a_window_is_told(windowed_folder: Path) -> None:
    config = replace(CONFIG, model_path=str(windowed_folder))
    with closing(create(config, lambda _fraction: None)) as backend:
        storage = "8 bits in groups of 32, 5 layers of the last 32 tokens"
        assert backend.info.kv.storage == storage
        assert not backend.info.can_cut_snapshot


@pytest.mark.parametrize("found", ["0.31.4", "0.32.1", "0.33.0", "1.0.0"])
def test_another_version_of_mlx_lm_is_refused(found: str) -> None:
    with pytest.raises(ModelLoadError, match=f"mlx-lm is {found}; expected at least 0.32.2 and"):
        adapter.check_version(found)


def test_the_installed_version_of_mlx_lm_was_tried() -> None:
    """If this fails: try the new version, mend `adapter.py`, and move `adapter.TESTED`."""
    adapter.check_version()


# ── Memory ───────────────────────────────────────────────────────────────────────────────────────


def _loaded_with(config: BackendConfig, free_bytes: int) -> Any:
    memory = FreeMemory(free_bytes, free_bytes)
    device = Device("cpu", "host", memory)
    return load(config, lambda _fraction: None, memory, lambda _layers, _host: device)


def test_what_does_not_fit_is_refused_with_what_would_fit(tiny_folder: Path) -> None:
    config = replace(CONFIG, model_path=str(tiny_folder), context_tokens=1_000_000, kv_type="f16")
    with pytest.raises(ModelLoadError) as caught:
        _loaded_with(config, 700 * MIB)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert "'tiny' needs" in caught.value.detail
    assert "1000000 tokens of f16 KV, but 188 MiB can be taken" in caught.value.detail
    assert "what fits: context_tokens = " in caught.value.detail
    assert "with kv_type q4_0" in caught.value.detail


def test_weights_that_do_not_fit_are_not_read(tiny_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="'tiny' needs 1 MiB for weights, but 0 MiB can be"):
        _loaded_with(replace(CONFIG, model_path=str(tiny_folder)), 100 * MIB)


def test_what_is_counted_is_what_is_wanted(tiny_folder: Path) -> None:
    config = replace(CONFIG, model_path=str(tiny_folder), context_tokens=None)
    with closing(_loaded_with(config, 1024 * MIB)) as backend:
        memory, kv = backend.info.memory, backend.info.kv
        assert memory is not None
        [use] = memory.uses
        assert use.kv_bytes == kv.num_cells * kv.bytes_per_cell
        assert use.num_bytes <= 512 * MIB
        assert kv.num_cells == CONFIG.max_sequences * 2048, "more are of no use to anybody"


def test_an_end_that_no_row_of_logits_has_is_left_out(folder: Path) -> None:
    _set(eos_token_id=[1, 100_000])(folder)
    with closing(create(replace(CONFIG, model_path=str(folder)), lambda _: None)) as backend:
        assert 1 in backend.info.eog_token_ids
        assert max(backend.info.eog_token_ids) < backend.info.vocab_size


@pytest.mark.parametrize(("has_channels", "ends"), [(False, True), (True, False)])
def test_the_end_of_a_message_is_no_end_of_an_answer_in_channels(
    folder: Path, *, has_channels: bool, ends: bool
) -> None:
    described = json.loads((folder / "tokenizer.json").read_text())
    tokens = ["<|end|>", *(("<|return|>", "<|call|>") if has_channels else ())]
    for token_id, token in enumerate(tokens, start=200):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        described["added_tokens"].append(
            {"id": token_id, "content": token, "special": True} | flags
        )
        described["model"]["vocab"] = {
            key: value for key, value in described["model"]["vocab"].items() if value != token_id
        } | {token: token_id}
    (folder / "tokenizer.json").write_text(json.dumps(described))
    with closing(create(replace(CONFIG, model_path=str(folder)), lambda _: None)) as backend:
        assert (200 in backend.info.eog_token_ids) is ends
        assert (201 in backend.info.eog_token_ids) is has_channels


def test_a_closed_backend_gives_its_memory_back(tiny_folder: Path) -> None:
    before = mx.get_active_memory()
    create(replace(CONFIG, model_path=str(tiny_folder)), lambda _fraction: None).close()
    assert mx.get_active_memory() <= before
