"""How much KV a model is given, and what is told when it does not fit."""

from dataclasses import replace

import pytest

from edged.core.memory import (
    HOST,
    HOST_TOKENS,
    KvWanted,
    Pool,
    check_weights,
    choose_kv,
    margin_bytes,
)
from edged.errors import ModelLoadError, Reason

MIB = 2**20
GIB = 2**30
WANTED = KvWanted(
    model="m.gguf",
    kv_type="q8_0",
    bytes_per_token={"f16": 2000, "q8_0": 1000, "q4_0": 500},
    kv_bytes=None,
    context_tokens=None,
    least_tokens=512,
    most_tokens=10**6,
)


def pool(name: str = HOST, free_bytes: int = GIB, share: float = 1.0, per_token: int = 0) -> Pool:
    return Pool(
        name,
        free_bytes=free_bytes,
        reserved_bytes=0,
        margin_bytes=100 * MIB,
        weights_bytes=200 * MIB,
        compute_bytes=24 * MIB,
        compute_bytes_per_token=per_token,
        share=share,
    )


def test_host_memory_is_not_filled_unasked() -> None:
    choice = choose_kv((pool(),), WANTED)
    assert choice == (HOST_TOKENS, 700 * MIB // 1000 * 1000)


def test_a_device_of_its_own_is_filled_but_for_the_margin() -> None:
    choice = choose_kv((pool("cuda:0"),), WANTED)
    assert choice.num_tokens == 700 * MIB // 1000 // 256 * 256
    assert choice.limit_bytes == 700 * MIB // 1000 * 1000


def test_no_more_is_allocated_than_can_be_used() -> None:
    wanted = replace(WANTED, most_tokens=4096)
    assert choose_kv((pool("cuda:0"),), wanted).num_tokens == 4096


def test_what_others_were_promised_is_not_free() -> None:
    reserved = pool("cuda:0")._replace(reserved_bytes=500 * MIB)
    assert choose_kv((reserved,), WANTED).num_tokens == 200 * MIB // 1000 // 256 * 256


def test_what_computing_takes_for_each_cell_counts() -> None:
    choice = choose_kv((pool("cuda:0", per_token=1000),), WANTED)
    assert choice.num_tokens == 700 * MIB // 2000 // 256 * 256
    assert choice.limit_bytes == 700 * MIB // 2000 * 1000


def test_kv_lies_beside_the_layers_and_the_first_full_pool_ends_it() -> None:
    pools = (pool("cuda:0", share=0.75), pool("cuda:1", free_bytes=GIB // 2, share=0.25))
    assert choose_kv(pools, WANTED).num_tokens == 188 * MIB * 4 // 1000 // 256 * 256


def test_given_bytes_are_filled_even_in_host_memory() -> None:
    wanted = replace(WANTED, kv_bytes=100 * MIB)
    assert choose_kv((pool(),), wanted) == (100 * MIB // 1000 // 256 * 256, 100 * MIB)


def test_given_bytes_may_not_go_into_the_margin() -> None:
    wanted = replace(WANTED, kv_bytes=701 * MIB)
    with pytest.raises(ModelLoadError, match="but 924 MiB can be taken"):
        choose_kv((pool(),), wanted)


def test_wanted_tokens_are_allocated_to_the_last_one_that_fits() -> None:
    most = 700 * MIB // 1000
    assert choose_kv((pool(),), replace(WANTED, context_tokens=most)).num_tokens == most
    with pytest.raises(ModelLoadError) as raised:
        choose_kv((pool(),), replace(WANTED, context_tokens=most + 1))
    assert raised.value.reason is Reason.OUT_OF_MEMORY


def test_a_refusal_tells_the_sum_and_what_would_fit() -> None:
    tight = pool("cuda:0")._replace(reserved_bytes=300 * MIB)
    with pytest.raises(ModelLoadError) as raised:
        choose_kv((tight,), replace(WANTED, context_tokens=10**6))
    assert raised.value.detail == (
        "'m.gguf' needs 200 MiB for weights, 24 MiB for computing and 954 MiB for 1000000 tokens "
        "of q8_0 KV, but 624 MiB of cuda:0 can be taken (1.0 GiB are free, 300 MiB are reserved "
        "for other models, 100 MiB stay free); what fits: context_tokens = 419328 with kv_type "
        "q8_0, or context_tokens = 838656 with kv_type q4_0"
    )


def test_a_refusal_for_the_given_bytes_names_them() -> None:
    wanted = replace(WANTED, kv_bytes=10 * MIB, context_tokens=20_000)
    expected = (
        "19 MiB for 20000 tokens of q8_0 KV, but kv_memory is 10 MiB; what fits: context_tokens = "
        "10240 with kv_type q8_0, or context_tokens = 20736 with kv_type q4_0"
    )
    with pytest.raises(ModelLoadError, match=expected):
        choose_kv((pool(),), wanted)


def test_where_no_type_fits_the_least_is_named() -> None:
    with pytest.raises(ModelLoadError, match="expected kv_memory of at least 512000"):
        choose_kv((pool(),), replace(WANTED, kv_bytes=100_000))
    with pytest.raises(ModelLoadError, match="use a smaller model, or free memory"):
        choose_kv((pool(free_bytes=324 * MIB),), WANTED)


def test_weights_that_do_not_fit_are_refused_before_they_are_read() -> None:
    check_weights((pool(free_bytes=300 * MIB),), "m.gguf")
    expected = "needs 200 MiB for weights, but 199 MiB can be taken .299 MiB are free, 100 MiB stay"
    with pytest.raises(ModelLoadError, match=expected):
        check_weights((pool(free_bytes=299 * MIB),), "m.gguf")


def test_the_margin_is_a_share_but_never_small() -> None:
    assert margin_bytes(4 * GIB) == 512 * MIB
    assert margin_bytes(100 * GIB) == 5 * GIB
