"""More conversations than memory could hold at their longest: who begins, who waits, and what gives way.

The model is a fake that refuses to take more memory than there is (`FakeModel._take`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from appliance.engine.harmony import Vocabulary
from appliance.engine.job_queue import Load
from appliance.engine.jobs import Job
from appliance.engine.sampling import TopLogits
from appliance.engine.scheduler import MOST_STREAMS, Scheduler
from appliance.engine.slots import SlotMemory, SlotTable
from appliance.engine.steps import Append
from appliance.turns.events import Done, Failed, Started
from tests.appliance.engine.test_scheduler import LONG, WINDOWS, Bench, SlowModel, final

CAPACITY = 1024


@pytest.fixture
def bench(vocabulary: Vocabulary) -> Bench:
    """The memory of four conversations of 1,024 tokens, for up to 64."""
    return sharing(vocabulary)


def sharing(
    vocabulary: Vocabulary,
    *,
    slots: int = 64,
    cache_tokens: int = 4 * CAPACITY,
    streams: int = 16,
    queue_limit: int = 100,
) -> Bench:
    return Bench(
        vocabulary, slots=slots, capacity=CAPACITY, cache_tokens=cache_tokens, streams=streams, queue_limit=queue_limit
    )


def together(bench: Bench) -> int:
    """The most answers that one step decoded."""
    return max(step[1] for step in bench.model.steps if step[0] == "decode")


def prompt_of(seed: int, length: int) -> list[int]:
    return random.Random(seed).sample(range(1000, 100_000), length)


def test_sixteen_short_streams_run_where_four_long_ones_would_fill_memory(bench: Bench) -> None:
    for number in range(16):
        bench.turn(f"{number}", final("word " * 40), prompt=prompt_of(number, 60), max_tokens=100)
    bench.run()
    assert together(bench) == 16
    assert all(bench.answer(f"{number}") == "word " * 40 for number in range(16))


def test_four_long_streams_run_together_as_they_did_in_slots_of_their_own(vocabulary: Vocabulary) -> None:
    bench = sharing(vocabulary, streams=4)
    for number in range(5):
        bench.turn(f"{number}", final("word " * 100), prompt=prompt_of(number, 900))
    bench.run()
    assert together(bench) == 4
    assert all(bench.answer(f"{number}") == "word " * 100 for number in range(5))


def test_how_many_decode_at_once_is_apart_from_how_many_are_kept(vocabulary: Vocabulary) -> None:
    bench = sharing(vocabulary, streams=3)
    prompts = {f"{number}": prompt_of(number, 60) for number in range(12)}
    for name, prompt in prompts.items():
        bench.turn(name, final("word " * 20), prompt=prompt)
    bench.run()
    assert together(bench) == 3
    for name, prompt in prompts.items():
        bench.turn(f"{name} again", final("x"), prompt=[*prompt, 7])
        bench.run()
        assert bench.done(f"{name} again").cached_tokens == len(prompt)


@pytest.mark.parametrize(("pause_s", "expected"), [(0.3, 4), (0.25, 3), (10.0, MOST_STREAMS)])
def test_streams_join_only_while_steps_leave_time_for_prompts(
    vocabulary: Vocabulary, pause_s: float, expected: int
) -> None:
    """A step of n streams takes 0.03 + 0.02 n seconds; n + 1 are expected to take (n + 1) / n of it."""
    bench = sharing(vocabulary)
    bench.model = SlowModel(bench.clock, slots=64, capacity=CAPACITY, cache_tokens=CAPACITY)
    bench.scheduler = Scheduler(bench.model, vocabulary, queue_limit=100, longest_pause_s=pause_s, clock=bench.clock)
    for number in range(20):
        bench.turn(f"{number}", final("x " * 20), prompt=prompt_of(number, 3), max_tokens=30)
    bench.run()
    assert together(bench) == expected


def test_memory_that_is_not_set_to_be_shared_is_used_as_ever(vocabulary: Vocabulary) -> None:
    """As on CUDA: every slot is whole, and there are as many answers at once as slots."""
    bench = Bench(vocabulary, slots=3, capacity=CAPACITY)
    for number in range(5):
        bench.turn(f"{number}", final("word " * 200), prompt=prompt_of(number, 700))
    bench.run()
    assert together(bench) == 3
    assert not [step for step in bench.model.steps if step[0] == "give back"]


def test_what_was_unused_for_longest_gives_way_first_and_from_its_end(vocabulary: Vocabulary) -> None:
    bench = sharing(vocabulary, cache_tokens=2048)
    prompts = {name: prompt_of(at, 600) for at, name in enumerate("abc")}
    for name, prompt in prompts.items():
        bench.turn(name, final("x"), prompt=prompt)
        bench.run()
    bench.turn("a again", final("x"), prompt=[*prompts["a"], 7])  # now b is the oldest
    bench.run()
    bench.model.steps.clear()
    bench.turn("new", final("x"), prompt=prompt_of(9, 300))
    bench.run()
    slot_b = next(at for at, held in enumerate(bench.model.held) if held[:200] == prompts["b"][:200])
    given_back = [step[1:] for step in bench.model.steps if step[0] == "give back"]
    assert {slot for slot, _ in given_back} == {slot_b}
    assert [kept for _, kept in given_back] == [512, 256]  # not more than the prompt needs, as it needs it
    for name in "ac":
        bench.turn(f"{name} 3", final("x"), prompt=[*prompts[name], 8])
        bench.run()
        assert bench.done(f"{name} 3").cached_tokens >= len(prompts[name])


def test_memory_behind_a_short_conversation_gives_way_before_what_another_holds(vocabulary: Vocabulary) -> None:
    bench = sharing(vocabulary, slots=3, cache_tokens=2048)
    kept = prompt_of(3, 300)
    for name, prompt in {"long": prompt_of(1, 900), "middle": prompt_of(2, 600), "kept": kept}.items():
        bench.turn(name, final("x"), prompt=prompt)
        bench.run()
    bench.turn("short", final("x"), prompt=prompt_of(4, 60))  # in the slot of "long", which keeps its memory
    bench.run()
    bench.turn("new", final("x"), prompt=prompt_of(5, 900))  # in the slot of "middle", which must grow
    bench.run()
    assert {step[1] for step in bench.model.steps if step[0] == "give back"} == {0}  # that of "long"
    bench.turn("kept again", final("x"), prompt=[*kept, 7])
    bench.run()
    assert bench.done("kept again").cached_tokens >= len(kept)


def test_a_stream_that_gets_no_more_goes_on_in_what_it_was_granted() -> None:
    memory = SlotMemory(1100, bytes_of=lambda held: held, give_back=lambda slot, kept: None, copies=False)
    table = SlotTable(2, CAPACITY, memory)
    older, _ = table.acquire("ann", prompt_of(1, 10), 1000)
    younger, _ = table.acquire("bob", prompt_of(2, 10), 500)
    assert table.grow(older, 10)
    assert table.grow(younger, 100)
    table.append(younger, 0, prompt_of(2, 99))
    assert table.grow_to_decode(younger)
    table.append(younger, younger.length, [7])
    assert not table.grow_to_decode(younger)  # the older one may still need the rest


def test_the_beginning_of_what_gave_way_can_still_be_used(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=64, capacity=8192, cache_tokens=8192, streams=4)
    prompt = prompt_of(1, 5000)
    bench.turn("a", final("x"), prompt=prompt)
    bench.run()
    bench.turn("b", final("x"), prompt=prompt_of(2, 4500), user="bob")
    bench.run()
    bench.turn("a again", final("y"), prompt=[*prompt, 7])
    bench.run()
    assert bench.done("a again").cached_tokens == 3072  # the last snapshot of what was left: one every 1,024 tokens
    assert bench.answer("a again") == "y"


def test_what_gave_way_is_gone_for_everybody(vocabulary: Vocabulary) -> None:
    bench = sharing(vocabulary, cache_tokens=CAPACITY, streams=1)
    secret = prompt_of(1, 900)
    bench.turn("ann", final("x"), prompt=secret)
    bench.run()
    bench.turn("bob", final("x"), prompt=prompt_of(2, 1000), user="bob")
    bench.run()
    assert not [held for held in bench.model.held if held[:1] == secret[:1]]
    bench.turn("ann again", final("y"), prompt=secret)
    bench.run()
    assert bench.done("ann again").cached_tokens == 0
    assert bench.answer("ann again") == "y"


def test_a_stream_that_waits_for_memory_goes_on_when_older_ones_have_ended(vocabulary: Vocabulary) -> None:
    """Neither said how long its answer would be. The younger outgrows what the older leaves, and waits for it."""
    bench = Bench(vocabulary, slots=64, capacity=8192, cache_tokens=12_288, streams=16)
    lengths = {"old": 3500, "younger": 2500, "youngest": 2500}
    for at, (name, length) in enumerate(lengths.items()):
        bench.turn(name, final("word " * length), prompt=prompt_of(at, 60))
    bench.run()
    for name, length in lengths.items():
        assert bench.answer(name) == "word " * length
    decoded = [step[1] for step in bench.model.steps if step[0] == "decode"]
    begun, alone = decoded.index(3), decoded.index(1, decoded.index(3))
    assert 2 in decoded[alone:], "the younger ones did not go on after the old one"
    assert decoded[begun:alone].count(3) < 2500, "there was memory for all three"


def test_no_request_overtakes_a_long_one_that_waits_for_memory(vocabulary: Vocabulary) -> None:
    bench = sharing(vocabulary, cache_tokens=2 * CAPACITY)
    for name in ("a", "b"):
        bench.turn(name, final("word " * 300), prompt=prompt_of(ord(name), 500))
    bench.scheduler.step()
    bench.turn("long", final("x"), prompt=prompt_of(3, 1000), user="bob")
    for number in range(20):
        bench.turn(f"short {number}", final("x"), prompt=prompt_of(10 + number, 5), max_tokens=3, user=f"user {number}")
    begun: list[str] = []
    while bench.scheduler.step():
        begun += [name for name, sent in bench.sent.items() if sent and name not in begun]
    assert begun.index("long") == 2
    assert len(begun) == 23
    assert bench.answer("long") == "x"


def test_short_answers_begin_beside_a_long_one_if_they_say_that_they_are_short(vocabulary: Vocabulary) -> None:
    bench = sharing(vocabulary, cache_tokens=CAPACITY + 256)
    bench.turn("long", final("word " * 200), prompt=prompt_of(1, 500))
    bench.turn("short", final("x"), prompt=prompt_of(2, 100), max_tokens=100)
    bench.turn("any", final("x"), prompt=prompt_of(3, 100))
    bench.scheduler.step()
    assert [bool(bench.sent[name]) for name in ("long", "short", "any")] == [True, True, False]
    bench.run()
    assert bench.answer("any") == "x"


def test_a_request_that_waits_for_memory_fills_the_queue(vocabulary: Vocabulary) -> None:
    bench = sharing(vocabulary, cache_tokens=CAPACITY, queue_limit=2)
    bench.turn("running", final("word " * 100), prompt=prompt_of(1, 500))
    bench.scheduler.step()
    for name in "abc":
        bench.turn(name, final("x"), prompt=prompt_of(ord(name), 500))
        bench.scheduler.step()
    assert bench.scheduler.load() == Load(1, 2)
    refused = bench.sent["c"][0]
    assert isinstance(refused, Failed)
    assert refused.code == "overloaded"
    bench.run()
    assert bench.answer("b") == "x"


def test_a_cancelled_turn_leaves_its_memory_to_others(vocabulary: Vocabulary) -> None:
    bench = sharing(vocabulary, cache_tokens=CAPACITY)
    running = bench.turn("a", LONG, prompt=prompt_of(1, 500))
    bench.turn("b", final("y"), prompt=prompt_of(2, 900), user="bob")
    for _ in range(20):
        bench.scheduler.step()
    assert not bench.sent["b"]
    bench.scheduler.cancel(running)
    bench.scheduler.step()
    assert isinstance(bench.sent["b"][0], Started)
    bench.run()
    assert bench.answer("b") == "y"


def test_a_failed_step_gives_all_memory_of_its_slots_back(bench: Bench) -> None:
    bench.model.fail_next.add("decode")
    bench.turn("a", final("x"), prompt=prompt_of(1, 500))
    bench.run()
    assert isinstance(bench.sent["a"][-1], Failed)
    assert sum(bench.model.taken) == 0


def test_conversations_with_the_same_beginning_keep_what_is_their_own(bench: Bench) -> None:
    """One user's agents begin with the same long instructions; none takes another's slot."""
    system = prompt_of(1, 150)
    histories = {name: [*system, *prompt_of(ord(name), 20)] for name in "abcdef"}
    for turn in range(3):
        for name, history in histories.items():
            bench.turn(f"{name}{turn}", final("x"), prompt=history)
            bench.run()
            expected = len(system) if turn == 0 and name != "a" else len(history) - 20 if turn else 0
            assert bench.done(f"{name}{turn}").cached_tokens >= expected
            history += prompt_of(1000 * turn + ord(name), 20)


def test_what_is_copied_from_gives_way_last(vocabulary: Vocabulary) -> None:
    """It is the longest unused, and the prompt is another one with the same beginning."""
    bench = sharing(vocabulary, cache_tokens=2304)
    old = prompt_of(1, 700)
    for name, prompt in {"old": old, "b": prompt_of(2, 600), "c": prompt_of(3, 600)}.items():
        bench.turn(name, final("x"), prompt=prompt, public=300)
        bench.run()
    bench.turn("copy", final("y"), prompt=[*old[:650], *prompt_of(4, 40)], public=300)
    bench.run()
    assert bench.answer("copy") == "y"
    assert bench.done("copy").cached_tokens == 650
    assert old in [held[:700] for held in bench.model.held]


def test_a_source_that_must_give_way_is_not_copied_from(vocabulary: Vocabulary) -> None:
    """All memory is the new prompt's, which shares what the only other slot holds."""
    bench = Bench(vocabulary, slots=4, capacity=1024, cache_tokens=1024, windows=None)
    old = prompt_of(1, 700)
    bench.turn("old", final("x"), prompt=old)
    bench.run()
    bench.turn("copy", final("y"), prompt=[*old[:600], *prompt_of(4, 400)])
    bench.run()
    assert bench.answer("copy") == "y"
    assert 0 < bench.done("copy").cached_tokens < 600


def test_less_memory_than_one_conversation_takes_is_a_broken_promise(vocabulary: Vocabulary) -> None:
    with pytest.raises(RuntimeError, match="less memory than one full slot"):
        Bench(vocabulary, slots=4, capacity=1024, cache_tokens=1000)


def test_drafts_take_no_memory_that_was_not_granted(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The younger answer is longer than expected, and refused more memory with less left than drafts would take."""
    bench = Bench(vocabulary, slots=8, capacity=4096, cache_tokens=4096, drafts=True, streams=2)
    slots, decode = bench.scheduler._slots, bench.model.decode
    rooms: list[int] = []

    def watched(appends: Sequence[Append]) -> list[TopLogits]:
        for append in appends:
            assert append.length < slots.slots[append.slot].granted
        rooms.extend(slots.slots[append.slot].granted - append.length for append in appends)
        return decode(appends)

    monkeypatch.setattr(bench.model, "decode", watched)
    for name, limit in {"older": 2500, "younger": 2048}.items():
        bench.turn(name, final("one two three " * 600), prompt=prompt_of(len(name), 124 + len(name)), max_tokens=limit)
    bench.run()
    assert [bench.answer(name) for name in ("older", "younger")] == ["one two three " * 600] * 2
    assert bench.scheduler.drafting.accepted > 0
    assert min(rooms) == 1  # the last position that was granted was filled


@pytest.mark.parametrize("seed", range(30))
def test_whatever_arrives_memory_suffices_and_every_answer_is_right(vocabulary: Vocabulary, seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(
        vocabulary, slots=rng.randint(3, 12), capacity=512, cache_tokens=rng.choice([512, 700, 1500]),
        streams=rng.randint(1, 6), windows=rng.choice([None, WINDOWS]), mixes=rng.random() < 0.7,
        drafts=rng.random() < 0.5,
    )  # fmt: skip
    system = vocabulary.encode("What every prompt begins with, whoever asks. " * 4)
    histories = {user: system + vocabulary.encode(f"{user} begins. ") for user in "abcde"}
    expected: dict[str, str] = {}
    cancelled: set[str] = set()
    for number in range(30):
        user = rng.choice("abcde")
        name, text = f"{user}{number}", f"{user} {number} " * rng.randint(1, 30)
        if rng.random() < 0.6:
            histories[user] = histories[user] + vocabulary.encode(f" turn {number} " * rng.randint(1, 20))
        if rng.random() < 0.2 or len(histories[user]) > 300:
            histories[user] = histories[user][: rng.randint(len(system), 200)]
        turn: Job = bench.turn(
            name, final(text), prompt=[*histories[user], number], user=user, public=len(system),
            max_tokens=rng.choice([None, None, 200]),
        )  # fmt: skip
        expected[name] = text
        for _ in range(rng.randint(0, 25)):
            bench.scheduler.step()
        if rng.random() < 0.2:
            bench.scheduler.cancel(turn)
            cancelled.add(name)
    bench.run()
    for name, text in expected.items():
        if name not in cancelled:
            assert isinstance(bench.sent[name][-1], Done)
            assert bench.answer(name) == text
    assert bench.scheduler.load() == Load(0, 0)
    assert sum(map(bench.model.slot_bytes, bench.model.taken)) <= bench.model.cache_bytes
