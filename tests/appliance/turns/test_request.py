"""One rule for ids and seeds of all turns, whoever asks."""

from __future__ import annotations

import json

from appliance.turns.request import DRAWN_SEED_BITS, Message, TurnRequest, new_request

HELLO = (Message("user", "Hello"),)


def test_drawn_seeds_differ_and_survive_a_client_that_reads_numbers_as_doubles() -> None:
    seeds = [new_request("u", HELLO).seed for _ in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**DRAWN_SEED_BITS for seed in seeds)
    assert all(int(float(json.dumps(seed))) == seed for seed in seeds)
    assert max(seeds) > 2 ** (DRAWN_SEED_BITS - 4)  # all of the bits are used


def test_a_chosen_seed_is_kept_and_a_negative_one_becomes_one_that_can_be_recorded() -> None:
    assert new_request("u", HELLO, seed=0).seed == 0
    assert new_request("u", HELLO, seed=2**63 - 1).seed == 2**63 - 1
    assert new_request("u", HELLO, seed=-1).seed == 2**63 - 1


def test_each_request_has_an_id_of_its_own_with_the_prefix_that_was_asked_for() -> None:
    ids = {new_request("u", HELLO, id_prefix="chatcmpl-").id for _ in range(50)}
    assert len(ids) == 50
    assert all(one.startswith("chatcmpl-") and len(one) == len("chatcmpl-") + 32 for one in ids)


def test_what_is_left_open_has_the_defaults_of_the_request() -> None:
    made = new_request("u", HELLO)
    assert made == TurnRequest(made.id, "u", HELLO, made.seed)
