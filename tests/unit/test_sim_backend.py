"""The simulated backend: draws that notice a wrong cell, strictness, time, faults, options."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from backends.sim import Faults, SeededFaults, SimBackend, SimModel, StepFault, StepProfile, create
from backends.sim.faults import TriggerFaults, Triggers
from backends.sim.tokenizer import BOS_ID, EOS_ID, NUM_TOKENS, TURN_START_ID, ByteTokenizer
from edged.backend import BackendConfig, find_backend
from edged.clock import ManualClock
from edged.core.plan import Chunk, Sampling
from edged.core.types import SampledToken, SamplingParams, SeqId, SlotId
from edged.errors import BackendStepError, KvTransferError, ModelLoadError, Reason

PROMPT = tuple(b"the quick brown fox")
INSTANT = StepProfile(step_s=0, prefill_token_s=0, decode_token_s=0)


def sim(
    *,
    config: BackendConfig | None = None,
    clock: ManualClock | None = None,
    profile: StepProfile = INSTANT,
    faults: Faults | None = None,
    model: SimModel | None = None,
) -> SimBackend:
    config = config or BackendConfig(model_path="", context_tokens=256, max_sequences=4)
    return SimBackend(config, clock or ManualClock(), profile, faults, model)


def configured(options: Mapping[str, str], kv_type: str = "q8_0") -> BackendConfig:
    return BackendConfig(model_path="", kv_type=kv_type, options=options)


class Driver:
    """One sequence in one slot of a backend: a scheduler that never decides anything."""

    def __init__(
        self, backend: SimBackend, params: SamplingParams | None = None, slot: int = 0
    ) -> None:
        self.backend = backend
        self.slot = SlotId(slot)
        self.token_ids = list(PROMPT)
        self.sampling = Sampling(params or SamplingParams(), self.token_ids, len(PROMPT))
        self.num_computed_tokens = 0

    def chunk(self, num_tokens: int | None = None) -> Chunk:
        start = self.num_computed_tokens
        end = len(self.token_ids) if num_tokens is None else start + num_tokens
        sampling = self.sampling if end == len(self.token_ids) else None
        return Chunk(SeqId(self.slot), self.slot, start, self.token_ids[start:end], sampling)

    def step(self, num_tokens: int | None = None) -> SampledToken | None:
        chunk = self.chunk(num_tokens)
        drawn = self.backend.step([chunk]).get(chunk.seq_id)
        self.num_computed_tokens += len(chunk.token_ids)
        if drawn is not None:
            self.token_ids.append(drawn.token_id)
        return drawn

    def answer(self, num_tokens: int) -> list[int]:
        while len(self.token_ids) - len(PROMPT) < num_tokens:
            self.step()
        return self.token_ids[len(PROMPT) :][:num_tokens]


def test_an_answer_does_not_depend_on_how_its_prompt_was_chunked() -> None:
    whole, chunked = Driver(sim()), Driver(sim())
    for num_tokens in (1, 7, 2):
        chunked.step(num_tokens)
    assert chunked.answer(40) == whole.answer(40)


def test_an_answer_goes_on_alike_in_another_slot_after_a_swap() -> None:
    expected = Driver(sim()).answer(30)
    driver = Driver(sim())
    driver.answer(10)
    snapshot = driver.backend.save_kv(driver.slot)
    driver.backend.clear(driver.slot)
    driver.slot = SlotId(3)
    driver.backend.restore_kv(driver.slot, snapshot)
    assert driver.answer(30) == expected


def test_a_replay_with_tokens_generated_before_draws_the_same_tokens() -> None:
    expected = Driver(sim()).answer(30)
    replay = Driver(sim())
    replay.token_ids.extend(expected[:12])
    assert replay.answer(30) == expected


def test_a_copied_prefix_counts_as_computed() -> None:
    backend = sim()
    first = Driver(backend)
    expected = first.answer(20)
    second = Driver(backend, slot=1)
    backend.copy_prefix(first.slot, second.slot, len(PROMPT) - 1)
    second.num_computed_tokens = len(PROMPT) - 1
    assert second.answer(20) == expected


def test_one_wrong_cell_changes_the_answer() -> None:
    right, wrong = Driver(sim()), Driver(sim())
    wrong.token_ids[0] += 1
    assert right.answer(20) != wrong.answer(20)


def test_the_seed_changes_the_answer_but_not_a_greedy_one() -> None:
    drawn = [Driver(sim(), SamplingParams(seed=seed)).answer(20) for seed in (1, 2)]
    greedy = [Driver(sim(), SamplingParams(seed=seed, temperature=0)).answer(20) for seed in (1, 2)]
    assert drawn[0] != drawn[1]
    assert greedy[0] == greedy[1]


def test_an_answer_is_valid_utf8_with_characters_spread_over_tokens() -> None:
    answer = bytes(Driver(sim()).answer(200))
    text = answer.decode(errors="ignore")
    assert answer.startswith(text.encode())
    assert any(len(character.encode()) > 1 for character in text)
    assert len(answer) - len(text.encode()) < 4


def test_a_draw_whose_cells_are_not_the_sequences_tokens_is_refused() -> None:
    driver = Driver(sim())
    chunk = driver.chunk()
    driver.token_ids[3] += 1
    with pytest.raises(AssertionError, match="cells are not the tokens"):
        driver.backend.step([chunk])


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([Chunk(SeqId(0), SlotId(0), 1, [5], None)], "I3: slot 0: 1 != 0 cells"),
        ([Chunk(SeqId(0), SlotId(0), 0, [], None)], "chunk of slot 0 is empty"),
        ([Chunk(SeqId(i), SlotId(0), 0, [5], None) for i in (1, 2)], "two chunks for a slot"),
        ([Chunk(SeqId(0), SlotId(0), 0, [NUM_TOKENS], None)], "token 260 of 260"),
        ([Chunk(SeqId(0), SlotId(0), 0, [5] * 65, None)], "I2: 65 cells in slot 0, at most 64"),
        ([Chunk(SeqId(i), SlotId(i), 0, [5] * 33, None) for i in (0, 1)], "66 tokens in a step"),
        ([], "without chunks"),
    ],
)
def test_a_step_that_breaks_the_contract_is_refused(chunks: Sequence[Chunk], message: str) -> None:
    config = BackendConfig(
        model_path="", context_tokens=256, max_sequences=4, max_step_tokens=65, kv_unified=False
    )
    with pytest.raises(AssertionError, match=message):
        sim(config=config).step(chunks)


def test_more_cells_than_there_are_is_refused_at_the_limit() -> None:
    backend = sim(config=BackendConfig(model_path="", context_tokens=64, max_sequences=2))
    backend.step([Chunk(SeqId(i), SlotId(i), 0, [5] * 32, None) for i in (0, 1)])
    with pytest.raises(AssertionError, match=r"I2: 64 \+ 1 cells of 64"):
        backend.step([Chunk(SeqId(0), SlotId(0), 32, [5], None)])
    backend.clear(SlotId(1))
    backend.step([Chunk(SeqId(0), SlotId(0), 32, [5] * 32, None)])


def test_restoring_into_a_slot_that_is_not_empty_is_refused() -> None:
    driver = Driver(sim())
    driver.step()
    snapshot = driver.backend.save_kv(driver.slot)
    with pytest.raises(AssertionError, match="I1: slot 0 holds 19 cells"):
        driver.backend.restore_kv(driver.slot, snapshot)


def test_a_step_advances_the_manual_clock_as_the_profile_says() -> None:
    clock = ManualClock()
    profile = StepProfile(
        step_s=1.0,
        prefill_token_s=0.1,
        decode_token_s=0.01,
        cell_s=0.001,
        prefill_cell_s=0.0001,
        swap_byte_s=1e-6,
    )
    model = SimModel(bytes_per_cell=1000)
    driver = Driver(sim(clock=clock, profile=profile, model=model))
    driver.step()
    assert clock.now_s() == pytest.approx(1 + 0.1 * 19 + 0.0001 * 190)
    before_s = clock.now_s()
    driver.step()
    assert clock.now_s() - before_s == pytest.approx(1 + 0.01 + 0.001 * 20)
    before_s = clock.now_s()
    snapshot = driver.backend.save_kv(driver.slot)
    assert snapshot.num_bytes == 20_000
    assert clock.now_s() - before_s == pytest.approx(0.02)


def test_eos_is_never_drawn_unless_asked_for() -> None:
    assert EOS_ID not in Driver(sim()).answer(200)


def test_eos_comes_at_its_rate_and_is_left_out_on_request() -> None:
    model = SimModel(eos_rate=0.2)
    drawn = Driver(sim(model=model)).answer(200)
    assert 20 <= drawn.count(EOS_ID) <= 60
    assert EOS_ID not in Driver(sim(model=model), SamplingParams(ignore_eos=True)).answer(200)


def test_a_caller_may_dictate_the_length_of_an_answer() -> None:
    lengths: list[Sequence[int]] = []

    def length_of(prompt: Sequence[int]) -> int | None:
        lengths.append(tuple(prompt))
        return 5

    for draws_text in (True, False):
        model = SimModel(length_of=length_of, draws_text=draws_text)
        answer = Driver(sim(model=model)).answer(6)
        assert answer.index(EOS_ID) == 5
        assert (len(set(answer)) > 2) == draws_text
    assert lengths == [PROMPT, PROMPT]


def test_logprobs_report_the_drawn_token_as_the_likeliest() -> None:
    drawn = Driver(sim(), SamplingParams(logprobs=3)).step()
    assert drawn is not None
    assert drawn.logprob is not None
    assert drawn.logprob < 0
    assert drawn.top[0].token_id == drawn.token_id
    assert len({token.token_id for token in drawn.top}) == 3
    logprobs = [token.logprob for token in drawn.top]
    assert logprobs == sorted(logprobs, reverse=True)
    none_asked = Driver(sim(), SamplingParams(logprobs=0)).step()
    assert none_asked is not None
    assert none_asked.top == ()
    assert none_asked.logprob is not None


class LoseFirst:
    """Every step fails; the slot of its first chunk is lost. Saves and restores fail too."""

    def step(self, chunks: Sequence[Chunk]) -> StepFault | None:
        return StepFault("broken", (chunks[0].slot,)) if chunks[0].start else None

    def save_fails(self, slot: SlotId) -> bool:
        return slot == 0

    def restore_fails(self, slot: SlotId) -> bool:
        return True


def test_a_failed_step_clears_lost_slots_and_leaves_the_others() -> None:
    backend = sim(faults=LoseFirst())
    drivers = [Driver(backend, slot=slot) for slot in (0, 1)]
    backend.step([driver.chunk(5) for driver in drivers])
    with pytest.raises(BackendStepError) as caught:
        backend.step([Chunk(SeqId(i), SlotId(i), 5, [7], None) for i in (0, 1)])
    assert caught.value.lost == (0,)
    assert backend.cells_of(SlotId(0)) == ()
    assert backend.cells_of(SlotId(1)) == PROMPT[:5]


def test_a_failed_save_changes_nothing_and_a_failed_restore_leaves_the_slot_empty() -> None:
    backend = sim(faults=LoseFirst())
    backend.step([Driver(backend, slot=slot).chunk(5) for slot in (0, 1)])
    with pytest.raises(KvTransferError):
        backend.save_kv(SlotId(0))
    assert backend.cells_of(SlotId(0)) == PROMPT[:5]
    snapshot = backend.save_kv(SlotId(1))
    backend.clear(SlotId(0))
    with pytest.raises(KvTransferError):
        backend.restore_kv(SlotId(0), snapshot)
    assert backend.cells_of(SlotId(0)) == ()


def test_seeded_faults_are_the_same_for_the_same_seed() -> None:
    chunks = [Chunk(SeqId(i), SlotId(i), 0, [1], None) for i in range(4)]

    def drawn(seed: int) -> list[StepFault | bool | None]:
        faults = SeededFaults(seed, step_rate=0.3, save_rate=0.5, restore_rate=0.5)
        steps = [faults.step(chunks) for _ in range(50)]
        return [*steps, faults.save_fails(SlotId(0)), faults.restore_fails(SlotId(0))]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert any(isinstance(fault, StepFault) and fault.lost for fault in drawn(1))


@pytest.mark.parametrize("always", [False, True])
def test_a_trigger_token_fails_its_step_and_loses_its_slot(always: bool) -> None:
    triggers = Triggers(fail_step_on_token=PROMPT[0], fail_step_always=always)
    driver = Driver(sim(faults=TriggerFaults(triggers)))
    with pytest.raises(BackendStepError) as caught:
        driver.backend.step([driver.chunk()])
    assert caught.value.lost == (0,)
    if always:
        with pytest.raises(BackendStepError):
            driver.backend.step([driver.chunk()])
    else:
        assert driver.step() is not None


def test_text_goes_through_the_tokenizer_and_back() -> None:
    tokenizer = ByteTokenizer()
    text = "<s>grüße 😀"
    token_ids = tokenizer.encode(text, add_special=True, parse_special=False)
    assert token_ids[0] == BOS_ID
    assert b"".join(map(tokenizer.piece, token_ids)).decode() == text


def test_control_tokens_in_a_text_are_read_only_on_request() -> None:
    tokenizer = ByteTokenizer()
    text = "<|im_start|>user"
    assert tokenizer.encode(text, add_special=False, parse_special=True) == [
        TURN_START_ID,
        *b"user",
    ]
    assert tokenizer.encode(text, add_special=False, parse_special=False) == list(text.encode())


def test_the_backend_is_found_by_name_and_reports_its_progress() -> None:
    seen: list[float] = []
    config = configured({"vocab_size": "500", "can_swap": "false"})
    backend = find_backend("sim")(config, seen.append)
    assert backend.info.vocab_size == 500
    assert not backend.info.can_swap
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    backend.close()


def test_loading_and_steps_take_real_time_on_the_real_clock() -> None:
    started_s = time.monotonic()
    backend = create(configured({"load_s": "0.02", "step_s": "0.03"}), lambda _: None)
    backend.step([Chunk(SeqId(0), SlotId(0), 0, [1], None)])
    assert time.monotonic() - started_s >= 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": "1"}, "speed.*known options are.*step_s"),
        ({"step_s": "fast"}, "float.*step_s"),
        ({"step_s": "-1"}, ">= 0.*step_s"),
        ({"step_s": "nan"}, ">= 0.*step_s"),
        ({"eos_rate": "1.5"}, "<= 1.*eos_rate"),
        ({"eos_rate": "0.5", "draws_text": "false"}, "eos_rate 0.5: expected 0"),
        ({"vocab_size": "100"}, ">= 260.*vocab_size"),
        ({"can_swap": "maybe"}, "bool.*can_swap"),
        ({"load_fail": "TIRED"}, "TIRED"),
    ],
)
def test_a_bad_option_is_refused_by_name(options: Mapping[str, str], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message) as caught:
        create(configured(options), lambda _: None)
    assert caught.value.reason is Reason.BAD_CONFIG


def test_an_unknown_kv_type_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="'q3_k'; expected one of f16"):
        create(configured({}, kv_type="q3_k"), lambda _: None)


def test_loading_fails_with_the_reason_asked_for() -> None:
    with pytest.raises(ModelLoadError) as caught:
        create(configured({"load_fail": "BAD_MODEL_FILE"}), lambda _: None)
    assert caught.value.reason is Reason.BAD_MODEL_FILE


def test_a_trigger_with_a_once_file_fires_once_for_all_processes(tmp_path: Path) -> None:
    once_file = tmp_path / "fired"
    once_file.touch()
    triggers = Triggers(abort_on_token=1, hang_on_token=1, once_file=str(once_file))
    chunk = Chunk(SeqId(0), SlotId(0), 0, [1], None)
    assert TriggerFaults(triggers).step([chunk]) is None
