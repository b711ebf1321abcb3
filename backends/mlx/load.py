"""Loads a model: what is checked in which order, and what the operator is told when it fails."""

from collections.abc import Callable
from importlib.metadata import version

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from backends.host_memory import FreeMemory, host_memory
from backends.mlx import adapter, self_check
from backends.mlx.adapter import AdaptedModel, Layers
from backends.mlx.backend import MlxBackend
from backends.mlx.kv_batch import KvLayout
from backends.mlx.kv_types import (
    BITS,
    DEFAULT_GROUP_SIZE,
    GROUP_SIZES,
    KvType,
    find_kv_type,
    usable_types,
)
from backends.mlx.memory import (
    Device,
    Needs,
    find_device,
    host_left_bytes,
    memory_use,
    needs,
    pool,
    stay_within,
)
from backends.mlx.model_folder import ModelFolder
from backends.mlx.tokenizer import MlxTokenizer
from edged.backend import BackendConfig, BackendInfo, LoadProgress
from edged.core.memory import KvWanted, MemoryReport, check_weights, choose_kv
from edged.core.types import KvGeometry
from edged.errors import ModelLoadError, Reason

_GROUP_OPTION = "kv_group_size"
_LEAST_TOKENS = 256
"""Fewer cells are of no use to anybody."""
_LOADED_FRACTION = 0.9
"""Progress when the weights are in memory; the rest is the check of the model."""


def create(config: BackendConfig, progress: LoadProgress) -> MlxBackend:
    """Load a folder of MLX or Hugging Face; see `edged.backend.CreateBackend`."""
    return load(config, progress, host_memory(), find_device)


def load(
    config: BackendConfig,
    progress: LoadProgress,
    host: FreeMemory,
    device_for: Callable[[int, FreeMemory], Device],
) -> MlxBackend:
    """As `create`, with the memory and the device that there are."""
    group_size = _check_config(config)
    adapter.check_version()
    folder = ModelFolder(config.model_path)
    device = device_for(config.gpu_layers, host)
    reserved_bytes = config.reserved_bytes.get(device.pool, 0)
    check_weights((pool(device, reserved_bytes, folder.num_bytes, None),), folder.name)
    tokenizer = MlxTokenizer(folder.path, folder.control_tokens, folder.added_bos_token)
    try:
        model = adapter.load_weights(folder.path)
        layers = adapter.layers_of(model, folder.name, folder.config)
        layout, num_cells, memory = _plan_memory(
            config, group_size, folder, layers, device=device, host=host
        )
        adapted = _check_model(model, layers, folder.name, progress)
        backend = MlxBackend(
            _info(config, folder, tokenizer, layers, layout, num_cells, memory, device),
            adapted,
            tokenizer,
            layout,
        )
    except ModelLoadError:
        raise
    except Exception as error:  # MLX and mlx-lm raise whatever comes to be
        raise _failure(folder.name, device.label, error) from error
    finally:
        mx.clear_cache()
    stay_within(device, memory.uses[0])
    progress(1.0)
    return backend


def _failure(name: str, label: str, error: Exception) -> ModelLoadError:
    first_line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or "allocate" in first_line:
        detail = f"model {name!r} does not fit into the memory of {label}: {first_line}"
        return ModelLoadError(Reason.OUT_OF_MEMORY, detail)
    return ModelLoadError(
        Reason.BAD_MODEL_FILE,
        f"model {name!r} cannot be computed: {type(error).__name__}: {first_line}",
    )


def _check_config(config: BackendConfig) -> int:
    """The size of groups that is wanted.

    Raises:
        ModelLoadError: BAD_CONFIG, naming the key, the value and the rule.
    """
    if config.kv_type not in BITS:
        raise _bad_config(f"kv_type is {config.kv_type!r}; backend mlx has {', '.join(BITS)}")
    unknown = sorted(config.options.keys() - {_GROUP_OPTION})
    if unknown:
        raise _bad_config(f"backend mlx has the option {_GROUP_OPTION}, not {', '.join(unknown)}")
    given = config.options.get(_GROUP_OPTION, str(DEFAULT_GROUP_SIZE))
    if given not in map(str, GROUP_SIZES):
        raise _bad_config(
            f"option {_GROUP_OPTION} is {given!r}; expected one of "
            f"{', '.join(map(str, sorted(GROUP_SIZES)))}"
        )
    if config.context_tokens is not None and config.context_tokens < 1:
        raise _bad_config(f"context_tokens is {config.context_tokens}; expected at least 1")
    if config.max_step_tokens < config.max_sequences:
        raise _bad_config(
            f"max_step_tokens is {config.max_step_tokens}; expected at least max_sequences, "
            f"{config.max_sequences}, so that all can decode in one step"
        )
    if config.num_threads not in (None, 1):
        raise _bad_config(
            f"num_threads is {config.num_threads}; backend mlx computes with one on the CPU: "
            'expected 1 or "none"'
        )
    if config.gpu_layers > 0:
        raise _bad_config(
            f"gpu_layers is {config.gpu_layers}; backend mlx puts all layers on the GPU (-1) or "
            "none (0)"
        )
    if config.main_gpu or config.tensor_split:
        raise _bad_config("backend mlx uses one GPU; expected no main_gpu and no tensor_split")
    return int(given)


def _plan_memory(
    config: BackendConfig,
    group_size: int,
    folder: ModelFolder,
    layers: Layers,
    *,
    device: Device,
    host: FreeMemory,
) -> tuple[KvLayout, int, MemoryReport]:
    """How KV is stored, how many cells there are, and what all of it takes.

    Raises:
        ModelLoadError: the type does not suit the model, or memory is short.
    """

    def wanted(kv_type: KvType) -> Needs:
        layout = KvLayout(layers.shapes, kv_type, config.max_step_tokens, layers.dtypes)
        return needs(layout, folder, layers.vocab_size, config.max_sequences)

    kv_type = find_kv_type(config.kv_type, group_size, layers.shapes)
    own = wanted(kv_type)
    reserved_bytes = config.reserved_bytes.get(device.pool, 0)
    before = pool(device, reserved_bytes, layers.num_bytes, own)
    choice = choose_kv(
        (before,),
        KvWanted(
            model=folder.name,
            kv_type=kv_type.name,
            bytes_per_token={
                one.name: max(1, wanted(one).kv_bytes_per_token)
                for one in usable_types(group_size, layers.shapes)
            },
            kv_bytes=config.kv_bytes,
            context_tokens=config.context_tokens,
            least_tokens=min(_LEAST_TOKENS, config.max_step_tokens),
            most_tokens=config.max_sequences * folder.train_context_tokens,
        ),
    )
    use = memory_use(device, layers.num_bytes, own, choice.num_tokens)
    report = MemoryReport(
        uses=(use,),
        pools=(before,),
        kv_limit_bytes=choice.limit_bytes,
        is_kv_limit_given=config.kv_bytes is not None,
        host_left_bytes=host_left_bytes(device, host, use),
    )
    layout = KvLayout(layers.shapes, kv_type, config.max_step_tokens, layers.dtypes)
    return layout, choice.num_tokens, report


def _check_model(
    model: nn.Module, layers: Layers, name: str, progress: LoadProgress
) -> AdaptedModel:
    """Read the weights, a part at a time, and see that the model computes what it did when it is
    adapted."""
    parts = [part for _, part in tree_flatten(model.parameters())]
    all_bytes = sum(part.nbytes for part in parts) or 1
    done_bytes = 0
    for part in parts:
        mx.eval(part)
        done_bytes += part.nbytes
        progress(_LOADED_FRACTION * done_bytes / all_bytes)
    reference = adapter.reference_logits(model, self_check.probe_tokens(layers.vocab_size))
    adapted = AdaptedModel(model)
    self_check.check(adapted, layers, reference, name)
    return adapted


def _info(  # noqa: PLR0917  # all that was found out of a model
    config: BackendConfig,
    folder: ModelFolder,
    tokenizer: MlxTokenizer,
    layers: Layers,
    layout: KvLayout,
    num_cells: int,
    memory: MemoryReport,
    device: Device,
) -> BackendInfo:
    return BackendInfo(
        backend="mlx",
        model_description=layers.description,
        model_bytes=layers.num_bytes,
        device=device.label,
        vocab_size=layers.vocab_size,
        train_context_tokens=folder.train_context_tokens,
        kv=_geometry(config, layout, num_cells),
        eog_token_ids=folder.eog_token_ids(tokenizer, layers.vocab_size),
        chat_template=folder.chat_template,
        bos_token=folder.special("bos_token"),
        eos_token=folder.special("eos_token"),
        can_swap=True,
        can_copy_prefix=not layout.has_windows,
        can_cut_snapshot=not layout.has_windows,
        can_interrupt=False,
        runtime=f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}",
        memory=memory,
    )


def _geometry(config: BackendConfig, layout: KvLayout, num_cells: int) -> KvGeometry:
    per_token = layout.kv_type.bytes_per_token(layout.shapes)
    return KvGeometry(
        num_slots=config.max_sequences,
        num_cells=num_cells,
        max_cells_per_slot=num_cells if config.kv_unified else num_cells // config.max_sequences,
        bytes_per_cell=per_token,
        snapshot_bytes_per_cell=per_token,
        snapshot_bytes_fixed=0,
        effective_type_k=layout.kv_type.name,
        effective_type_v=layout.kv_type.name,
        storage=layout.describe(),
        restores_parts=True,
    )


def _bad_config(detail: str) -> ModelLoadError:
    return ModelLoadError(Reason.BAD_CONFIG, detail)
