"""What followed the last three tokens where they stood together before is found, in little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from appliance.engine.draft_lookup import DraftLookup
from tests.appliance.engine.test_drafting import noise


def drafted(tokens: Sequence[int], most: int = 8) -> list[int]:
    lookup = DraftLookup(tokens[:-1])
    lookup.append(tokens[-1])
    return lookup.draft(most)


def test_what_followed_the_last_three_tokens_is_drafted() -> None:
    assert drafted([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 4) == [4, 5, 6, 7]
    assert drafted([1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3], 1) == [5]  # the last time counts


@pytest.mark.parametrize("tokens", [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 2, 3], [5, 2, 3, 4, 6, 2, 3]])
def test_nothing_is_drafted_where_three_tokens_never_stood_together(tokens: list[int]) -> None:
    assert drafted(tokens) == []


def test_a_repetition_is_drafted_beyond_its_own_end() -> None:
    assert drafted([7, 7, 7, 7], 5) == [7] * 5
    assert drafted([1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]


def test_a_source_is_followed_although_its_tokens_stand_elsewhere_too() -> None:
    lookup = DraftLookup([1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 9, 1, 2])
    lookup.append(3)
    for token in (4, 5):
        assert lookup.append(token) is True
    assert lookup.draft(3) == [6, 7, 8]  # 3 4 5 stood before 9 the last time


def test_a_token_that_differs_from_the_source_is_told() -> None:
    lookup = DraftLookup([1, 2, 3, 4, 5, 1, 2])
    assert [lookup.append(token) for token in (3, 9, 9)] == [None, False, None]
    assert lookup.draft(3) == []


def test_the_longest_prompt_is_known_at_once_but_for_threes_that_lost_their_entry() -> None:
    prompt = noise(131_072, 1)
    found = 0
    for begin in range(0, 131_000, 1310):
        lookup = DraftLookup([*prompt, *prompt[begin : begin + 2]])
        lookup.append(prompt[begin + 2])
        found += lookup.draft(2) == prompt[begin + 3 : begin + 5]
    assert found >= 70  # of 101


def test_threes_with_the_same_entry_are_told_apart() -> None:
    prompt, follows = noise(3000, 2), DraftLookup([])._follows
    lookup = DraftLookup(prompt)
    lookup._follows[:] = np.where(follows == 0, 500, 0)  # every three has the entry of this one
    for token in noise(50, 3):
        lookup.append(token)
        assert lookup.draft(1) == []
        lookup._follows[:] = 500


def test_the_longest_conversation_takes_little_memory() -> None:
    """The plan of memory has no line for drafts: 8 streams must fit into its reserve."""
    prompt = noise(131_072, 1)
    tracemalloc.start()
    lookup = DraftLookup(prompt[:100_000])
    for token in prompt[100_000:]:
        lookup.append(token)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 << 20
