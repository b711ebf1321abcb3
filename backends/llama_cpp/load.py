"""Loads a model: what is checked in which order, and what the operator is told when it fails."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from math import isfinite
from pathlib import Path

from backends.host_memory import FreeMemory, host_memory
from backends.llama_cpp import prompt_context
from backends.llama_cpp.backend import LlamaBackend
from backends.llama_cpp.devices import default_threads, device_label, uses_gpu
from backends.llama_cpp.failures import context_failure, model_failure
from backends.llama_cpp.kv_probe import fallback_warnings
from backends.llama_cpp.kv_types import (
    KvShape,
    KvType,
    check_device,
    check_head_size,
    find_kv_type,
    kv_shape,
    stored_type,
    usable_types,
)
from backends.llama_cpp.memory import LoadMemory, memory_uses
from backends.llama_cpp.model_file import check_model_file
from backends.llama_cpp.native import (
    DECODE_OK,
    MAX_DEVICES,
    AbortFlag,
    Batch,
    Context,
    ContextShape,
    Gpu,
    Model,
    NativeCallError,
    gpus,
    library_digest,
    max_sequences,
)
from backends.llama_cpp.prompt_context import PromptContext
from backends.llama_cpp.runtime_log import RuntimeLog
from edged.backend import BackendConfig, BackendInfo, LoadProgress
from edged.core.memory import (
    HOST_TOKENS,
    KvWanted,
    MemoryReport,
    check_weights,
    choose_kv,
)
from edged.core.types import KvGeometry
from edged.errors import ModelLoadError, Reason

_MAX_CELLS = 2**31 - 1
"""Positions are 32-bit integers in the library."""
_UBATCH_TOKENS = 512
_LEAST_TOKENS = 256
"""Fewer cells are not allocated."""
_LOADED_FRACTION = 0.95
"""Progress when the weights are in memory; the rest is the KV cache and the first decode."""


def create(config: BackendConfig, progress: LoadProgress) -> LlamaBackend:
    """Load a GGUF file; see `edged.backend.CreateBackend`."""
    return load(config, progress, host_memory(), gpus())


def load(
    config: BackendConfig, progress: LoadProgress, host: FreeMemory, devices: Sequence[Gpu]
) -> LlamaBackend:
    """As `create`, with the memory that there is."""
    kv_type = _check_config(config)
    memory = LoadMemory(config, check_model_file(config.model_path), host, devices)
    check_device(kv_type, device_label(config, devices))
    check_weights(memory.pools(None, (), 0), Path(config.model_path).name)
    log = RuntimeLog()
    try:
        model = _load_model(config, progress, log)
        try:
            backend = _allocate(config, kv_type, model, memory, log)
        except BaseException:
            model.free()
            raise
    except BaseException:
        log.free()
        raise
    log.take()
    progress(1.0)
    return backend


def _check_config(config: BackendConfig) -> KvType:
    """Raises ModelLoadError: BAD_CONFIG, naming the key, the value and the rule."""
    if config.options:
        names = ", ".join(sorted(config.options))
        raise _bad_config(f"backend llama_cpp has no options; given: {names}")
    if config.context_tokens is not None and not 1 <= config.context_tokens <= _MAX_CELLS:
        raise _bad_config(f"context_tokens is {config.context_tokens}; expected 1 to {_MAX_CELLS}")
    if not 1 <= config.max_sequences <= max_sequences():
        raise _bad_config(
            f"max_sequences is {config.max_sequences}; expected 1 to {max_sequences()}"
        )
    most = max_sequences() - config.max_sequences
    if not 0 <= config.cached_sequences <= most:
        raise _bad_config(
            f"cached_sequences is {config.cached_sequences}; expected 0 to {most}, so that there "
            f"are {max_sequences()} at most with max_sequences, {config.max_sequences}"
        )
    if config.max_step_tokens < config.max_sequences:
        raise _bad_config(
            f"max_step_tokens is {config.max_step_tokens}; expected at least max_sequences, "
            f"{config.max_sequences}, so that all can decode in one step"
        )
    if config.num_threads is not None and config.num_threads < 1:
        raise _bad_config(f"num_threads is {config.num_threads}; expected at least 1")
    if len(config.tensor_split) > MAX_DEVICES:
        raise _bad_config(
            f"tensor_split names {len(config.tensor_split)} devices; at most {MAX_DEVICES}"
        )
    return find_kv_type(config.kv_type)


def _bad_config(detail: str) -> ModelLoadError:
    return ModelLoadError(Reason.BAD_CONFIG, detail)


def _load_model(config: BackendConfig, progress: LoadProgress, log: RuntimeLog) -> Model:
    reporter = _ProgressReporter(progress)
    reporter.report(0.0)
    try:
        return Model(
            config.model_path,
            gpu_layers=config.gpu_layers,
            main_gpu=config.main_gpu,
            tensor_split=config.tensor_split,
            progress=reporter.report,
        )
    except NativeCallError as error:
        if reporter.failure is not None:
            raise reporter.failure from None
        raise model_failure(Path(config.model_path).name, log.take()) from error


class _ProgressReporter:
    """Keeps progress from going back, and an exception of the listener from getting lost in C."""

    def __init__(self, progress: LoadProgress) -> None:
        self._progress = progress
        self._reported = -1.0
        self.failure: BaseException | None = None

    def report(self, fraction: float) -> bool:
        """Pass on a fraction of the weights; False ends the load."""
        reached = min(fraction, 1.0) * _LOADED_FRACTION
        if reached > self._reported:
            self._reported = reached
            try:
                self._progress(reached)
            except BaseException as failure:
                # It is raised again by `_load_model`, once the library has cleaned up.
                self.failure = failure
                return False
        return True


def _allocate(
    config: BackendConfig, kv_type: KvType, model: Model, memory: LoadMemory, log: RuntimeLog
) -> LlamaBackend:
    if not model.facts.generates_text:
        raise ModelLoadError(
            Reason.BAD_MODEL_FILE,
            f"{Path(config.model_path).name!r} ({model.facts.description}) does not generate text "
            "token by token; expected a decoder-only language model",
        )
    shape = kv_shape(model)
    check_head_size(shape, kv_type)
    device = device_label(config, memory.gpus)
    on_gpu = uses_gpu(config, memory.gpus)
    shapes = _context_shapes(config, model, config.context_tokens or HOST_TOKENS, on_gpu=on_gpu)
    pools = memory.pools(model, shapes, shape.bytes_per_cell(kv_type))
    choice = choose_kv(pools, _wanted(config, model, shape))
    shapes = _context_shapes(config, model, choice.num_tokens, on_gpu=on_gpu)
    abort = AbortFlag()
    contexts: list[Context] = []
    warnings: tuple[str, ...] = ()
    buffers = log.take_buffers()
    try:
        if on_gpu:
            warnings = fallback_warnings(model, config.kv_type, shapes[0].threads, device)
            log.take_buffers()  # of contexts that are gone
        contexts.append(context := Context(model, shapes[0], abort))
        buffers += log.take_buffers()
        contexts.extend(Context(model, one, abort) for one in shapes[1:])
        uses = memory_uses(buffers, log.take_buffers(), memory.gpus)
        geometry = _geometry(config, model, context, kv_type, on_gpu=on_gpu)
        is_given = config.kv_bytes is not None
        left = memory.host_left_bytes(uses)
        report = MemoryReport(uses, pools, choice.limit_bytes, is_given, left)
        return LlamaBackend(
            replace(_info(config, model, geometry, report, device), warnings=warnings),
            model,
            context,
            PromptContext(contexts[1]) if len(contexts) > 1 else None,
            abort=abort,
            max_step_tokens=config.max_step_tokens,
            unified=config.kv_unified,
            log=log,
        )
    except BaseException as error:
        for one in contexts:
            one.free()
        if isinstance(error, NativeCallError):
            raise context_failure(config.kv_type, choice.num_tokens, log.take()) from error
        raise


def _wanted(config: BackendConfig, model: Model, shape: KvShape) -> KvWanted:
    longest = model.facts.train_context_tokens or HOST_TOKENS
    return KvWanted(
        model=Path(config.model_path).name,
        kv_type=config.kv_type,
        bytes_per_token={one.name: shape.bytes_per_cell(one) for one in usable_types(shape)},
        kv_bytes=config.kv_bytes,
        context_tokens=config.context_tokens,
        least_tokens=max(config.max_step_tokens, _LEAST_TOKENS),
        most_tokens=config.max_sequences * longest,
    )


def _geometry(
    config: BackendConfig, model: Model, context: Context, kv_type: KvType, *, on_gpu: bool
) -> KvGeometry:
    """What was allocated, in the types that the library stores."""
    shape = kv_shape(model)
    fixed_bytes, saved_bytes = _warm_up(context, Path(config.model_path).name)
    stored = stored_type(shape, saved_bytes)
    effective_type = stored or kv_type
    train_tokens = model.facts.train_context_tokens or context.num_cells
    return KvGeometry(
        num_slots=config.max_sequences,
        num_cache_slots=_num_cache_slots(config, model),
        idle_cells_cost=not on_gpu,
        num_cells=context.num_cells,
        max_cells_per_slot=min(context.max_cells_per_sequence, train_tokens),
        bytes_per_cell=shape.bytes_per_cell(stored) if stored else saved_bytes,
        snapshot_bytes_per_cell=saved_bytes,
        snapshot_bytes_fixed=fixed_bytes,
        effective_type_k=effective_type.name,
        effective_type_v=effective_type.name,
        storage="" if stored else "not checked: layers keep something else than keys and values",
    )


def _context_shapes(
    config: BackendConfig, model: Model, num_cells: int, *, on_gpu: bool
) -> list[ContextShape]:
    """The main one, and one for prompts where that is faster."""
    main = ContextShape(
        cells=num_cells,
        max_batch_tokens=config.max_step_tokens,
        max_ubatch_tokens=min(_UBATCH_TOKENS, config.max_step_tokens),
        sequences=config.max_sequences + _num_cache_slots(config, model),
        threads=config.num_threads or default_threads(),
        kv_type=config.kv_type,
        unified=config.kv_unified,
    )
    if not config.kv_unified or on_gpu or model.facts.has_recurrent_state:
        return [main]
    cells = min(num_cells, prompt_context.MAX_CELLS)
    prompts = replace(
        main,
        cells=cells,
        max_batch_tokens=min(cells, config.max_step_tokens),
        max_ubatch_tokens=min(prompt_context.UBATCH_TOKENS, config.max_step_tokens),
        sequences=1,
    )
    return [main, prompts]


def _can_copy_prefix(model: Model) -> bool:
    """Not where the runtime keeps one state for all tokens. Layers with a window keep every cell
    too, as the context is made by default; but only those in the window are saved."""
    return not model.facts.has_recurrent_state


def _num_cache_slots(config: BackendConfig, model: Model) -> int:
    """Separate caches are of one sequence each."""
    return config.cached_sequences if config.kv_unified and _can_copy_prefix(model) else 0


def _warm_up(context: Context, file_name: str) -> tuple[int, int]:
    """Decode two tokens, so that the first request does not pay for the first touch of weights
    and buffers. Returns the bytes of a saved sequence of no cells, and what a cell adds."""
    batch = Batch(1, 1)
    sizes: list[int] = []
    for position in range(2):
        batch.fill([0], [position], [0], [True])
        code = context.decode(batch)
        if code != DECODE_OK:
            raise ModelLoadError(
                Reason.MODEL_FAILED, f"the first decode of the model failed with code {code}"
            )
        sizes.append(context.state_bytes(0))
    largest = float(context.logits(1)[0].max())
    if not isfinite(largest):
        raise ModelLoadError(
            Reason.BAD_MODEL_FILE,
            f"{file_name!r} is damaged: with its weights the largest logit is {largest}",
        )
    context.remove(0, 0)
    cell_bytes = sizes[1] - sizes[0]
    return sizes[0] - cell_bytes, cell_bytes


def _info(
    config: BackendConfig, model: Model, geometry: KvGeometry, memory: MemoryReport, device: str
) -> BackendInfo:
    facts, vocabulary = model.facts, model.vocabulary
    return BackendInfo(
        backend="llama_cpp",
        model_description=facts.description,
        model_bytes=facts.num_bytes,
        device=device,
        vocab_size=vocabulary.size,
        train_context_tokens=facts.train_context_tokens,
        kv=geometry,
        eog_token_ids=frozenset(filter(vocabulary.ends_generation, range(vocabulary.size))),
        chat_template=facts.chat_template,
        bos_token=_special_piece(model, vocabulary.bos_id),
        eos_token=_special_piece(model, vocabulary.eos_id),
        can_swap=True,
        can_copy_prefix=_can_copy_prefix(model),
        can_cut_snapshot=_can_copy_prefix(model) and model.facts.window_tokens == 0,
        can_interrupt=device == "cpu" and not facts.has_recurrent_state,
        runtime=f"llama-cpp-python {version('llama-cpp-python')} ({library_digest()})",
        memory=memory,
    )


def _special_piece(model: Model, token_id: int | None) -> str:
    if token_id is None:
        return ""
    return model.vocabulary.piece(token_id, special=True).decode("utf-8", "replace")
