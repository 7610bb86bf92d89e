"""Whatever the model wrote, the stream of sampled tokens becomes events. APPLIANCE_FUZZ_STREAMS sets the number of
streams.
"""

from __future__ import annotations

import json
import os
import random

import openai_harmony as oh
import pytest

from appliance.engine.harmony import CALL, CHANNEL, END, MESSAGE, RETURN, START, Vocabulary
from appliance.engine.harmony_parser import HarmonyParser
from appliance.turns.events import AnswerDelta, ToolCallDelta
from tests.appliance.engine.parsed_turn import Parsed, parse

SPECIAL = range(199_998, 201_088)


ANALYSIS = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant"


def test_reasoning_then_answer(vocabulary: Vocabulary) -> None:
    parsed = parse(vocabulary, ANALYSIS + "<|channel|>final<|message|>Hello **you**.<|return|>")
    assert (parsed.reasoning, parsed.answer, parsed.outcome) == ("Think.", "Hello **you**.", ("stop", False))
    assert parsed.parser.reasoning_tokens == 2


def test_a_tool_call_is_name_first_then_arguments_as_written(vocabulary: Vocabulary) -> None:
    call = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Köln"}<|call|>'
    parsed = parse(vocabulary, ANALYSIS + call, functions=["get_weather"])
    assert parsed.calls == [("get_weather", '{"city": "Köln"}')]
    assert parsed.outcome == ("tool_calls", False)
    first, *rest = [d for d in parsed.deltas if isinstance(d, ToolCallDelta)]
    assert (first.name, first.arguments) == ("get_weather", "")
    assert all(d.name is None and d.id == first.id for d in rest)


def test_the_recipient_may_stand_before_the_channel(vocabulary: Vocabulary) -> None:
    parsed = parse(vocabulary, " to=functions.f<|channel|>commentary json<|message|>{}<|call|>", functions=["f"])
    assert (parsed.calls, parsed.outcome) == ([("f", "{}")], ("tool_calls", False))


def test_two_calls_have_two_indices_and_ids(vocabulary: Vocabulary) -> None:
    one = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}"
    parsed = parse(vocabulary, f"{one}<|end|><|start|>assistant{one}<|call|>", functions=["f"])
    assert parsed.calls == [("f", "{}"), ("f", "{}")]
    assert len({d.id for d in parsed.deltas if isinstance(d, ToolCallDelta)}) == 2


def test_a_preamble_is_shown_to_the_user(vocabulary: Vocabulary) -> None:
    call = "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    parsed = parse(vocabulary, "<|channel|>commentary<|message|>I will look.<|end|>" + call, functions=["f"])
    assert (parsed.answer, parsed.calls, parsed.outcome) == ("I will look.", [("f", "{}")], ("tool_calls", False))


def test_a_message_in_the_name_of_the_user_ends_the_turn(vocabulary: Vocabulary) -> None:
    parsed = parse(vocabulary, "<|channel|>final<|message|>Yes.<|end|><|start|>user<|message|>And?")
    assert (parsed.answer, parsed.outcome) == ("Yes.", ("stop", True))


def test_characters_split_over_tokens_come_whole(vocabulary: Vocabulary) -> None:
    text = "家族👨‍👩‍👧 ﷽ 𒐫 ᚠ"
    tokens = [CHANNEL, *vocabulary.encode("final"), MESSAGE, *vocabulary.encode(text), RETURN]
    assert any(not _is_text(vocabulary.token_bytes(t)) for t in tokens)
    parsed = Parsed(vocabulary, tokens)
    assert parsed.answer == text
    assert not any("\ufffd" in d.text for d in parsed.deltas if isinstance(d, AnswerDelta))


def test_a_character_never_completed_becomes_the_replacement_character(vocabulary: Vocabulary) -> None:
    half = next(t for t in vocabulary.encode("𒐫") if not _is_text(vocabulary.token_bytes(t)))
    parsed = Parsed(vocabulary, [CHANNEL, *vocabulary.encode("final"), MESSAGE, half, RETURN])
    assert parsed.answer == "\ufffd"


def _is_text(piece: bytes | None) -> bool:
    try:
        return piece is None or bool(piece.decode())
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        (["\n\nQ:"], "One two"),
        (["wo\n"], "One t"),
        (["zzz", "two", "One two"], ""),
        (["never"], "One two\n\nQ: three"),
        (["three!"], "One two\n\nQ: three"),
    ],
)
def test_stop_texts_end_the_answer_across_tokens(vocabulary: Vocabulary, stop: list[str], shown: str) -> None:
    tokens = [CHANNEL, *vocabulary.encode("final"), MESSAGE]
    tokens += [vocabulary.encode(character)[0] for character in "One two\n\nQ: three"]  # one token for each character
    parsed = Parsed(vocabulary, [*tokens, RETURN], stop=stop)
    assert parsed.answer == shown
    assert parsed.outcome == ("stop", False)


def test_stop_texts_do_not_look_at_reasoning_or_arguments(vocabulary: Vocabulary) -> None:
    call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{STOP}<|call|>"
    parsed = parse(vocabulary, ANALYSIS.replace("Think", "STOP") + call, functions=["f"], stop=["STOP"])
    assert (parsed.reasoning, parsed.calls) == ("STOP.", [("f", "{STOP}")])


@pytest.mark.parametrize(
    "text",
    [
        "Hello there.<|return|>",
        "Hello there.",
        " Hello there.<|end|>",
        "<|message|>Hello there.<|return|>",
        "<|channel|><|message|>Hello there.<|return|>",
        "<|channel|>answer<|message|>Hello there.<|return|>",
        "<|channel|>final Hello there.<|return|>",
        "<|channel|>final<|channel|>final<|message|>Hello there.<|return|>",
        "<|channel|>final<|message|><|message|>Hello there.<|return|>",
        "<|start|>assistant<|channel|>final<|message|>Hello there.<|return|>",
        "<|start|><|start|>assistant<|channel|>final<|message|>Hello there.<|return|>",
        "<|start|><|channel|>final<|message|>Hello there.<|return|>",
        "<|start|>assistantfinal<|message|>Hello there.<|return|>",
        "final<|message|>Hello there.<|return|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>Hello there.<|return|>",
        "<|end|>assistant<|channel|>final<|message|>Hello there.<|return|>",
        "<|channel|>final<|message|>Hello <|constrain|>there.<|return|>",
        "<|channel|>final<|message|>Hello <|reserved_200500|>there.<|return|>",
        "<|channel|>final<|message|>Hello there.<|endoftext|>",
        "<|channel|>final<|message|>Hello there.<|call|>",
        "<|channel|>final<|message|>Hello there.<|start|>user<|message|>More?",
        "<|start|>user<|message|>X",
    ],
)
def test_malformed_headers_are_salvaged(vocabulary: Vocabulary, text: str) -> None:
    parsed = parse(vocabulary, text)
    assert parsed.answer.strip() == ("" if "X" in text else "Hello there.")
    assert parsed.parser.malformed
    assert parsed.reasoning == ""
    assert "tool_calls" not in parsed.outcome


def test_a_split_character_survives_where_a_header_should_be(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.encode("𒐫 yes")
    assert not _is_text(vocabulary.token_bytes(tokens[0]))
    thought = vocabulary.encoding.encode("<|channel|>analysis<|message|>Hm.<|end|>", allowed_special="all")
    assert Parsed(vocabulary, tokens).answer == "𒐫 yes"
    assert Parsed(vocabulary, [*thought, *tokens, RETURN]).answer == "𒐫 yes"


def test_text_in_a_header_that_starts_again_is_kept(vocabulary: Vocabulary) -> None:
    parsed = parse(vocabulary, "<|channel|>analysis So.<|channel|>final<|message|>Yes.<|return|>")
    assert (parsed.reasoning, parsed.answer, parsed.outcome) == (" So.", "Yes.", ("stop", True))


def test_a_long_text_where_a_header_should_be_streams_before_it_ends(vocabulary: Vocabulary) -> None:
    story = "<|channel|>analysis" + " We need to think about this." * 40
    tokens = vocabulary.encoding.encode(story, allowed_special="all")
    parser = HarmonyParser(vocabulary, turn_id="t")
    seen = [bool(parser.push(token)) for token in tokens]
    assert seen.index(True) < len(seen) // 2
    assert parse(vocabulary, story).reasoning == " We need to think about this." * 40


def test_a_header_cut_off_by_the_token_limit_is_not_shown(vocabulary: Vocabulary) -> None:
    header = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    tokens = vocabulary.encoding.encode(header, allowed_special="all")
    for cut in range(len(tokens) + 1):
        parsed = Parsed(vocabulary, tokens[:cut], functions=["get_weather"])
        assert (parsed.answer, parsed.reasoning, parsed.outcome) == ("", "", (None, False)), cut


def test_a_call_to_a_function_not_offered_is_no_call(vocabulary: Vocabulary) -> None:
    for recipient in ("functions.rm", "browser.search", "python", "functions.", "functions.f<|end|>"):
        text = f"<|channel|>commentary to={recipient} <|constrain|>json<|message|>" + "{}<|call|>"
        parsed = parse(vocabulary, text, functions=["get_weather"])
        assert parsed.calls == []
        assert parsed.parser.malformed


def test_a_function_named_without_its_namespace_is_called(vocabulary: Vocabulary) -> None:
    parsed = parse(vocabulary, "<|channel|>commentary to=f <|constrain|>json<|message|>{}<|call|>", functions=["f"])
    assert (parsed.calls, parsed.outcome) == ([("f", "{}")], ("tool_calls", True))


def test_call_ids_repeat_with_the_turn_and_differ_between_turns(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.encoding.encode(
        "<|channel|>commentary to=functions.f<|message|>{}<|call|>", allowed_special="all"
    )
    ids = []
    for turn in ("a", "a", "b"):
        parser = HarmonyParser(vocabulary, turn_id=turn, functions=["f"])
        deltas = [delta for token in tokens for delta in parser.push(token)]
        ids.append(next(d.id for d in deltas if isinstance(d, ToolCallDelta)))
    assert ids[0] == ids[1] != ids[2]


def test_sound_streams_parse_as_the_library_parses_them(vocabulary: Vocabulary) -> None:
    rng = random.Random(3)
    words = ["alpha", " beta", "\n\n", "家", "👨‍👩‍👧", " `code`", "{}", '"q"', " to=functions.f", "analysis"]
    for _ in range(60):
        text = ""
        for channel in rng.choices(["analysis", "commentary", "commentary to=functions.f <|constrain|>json"], k=3):
            body = "".join(rng.choices(words, k=rng.randint(1, 12)))
            body = json.dumps(body) if "functions" in channel else body
            text += f"<|channel|>{channel}<|message|>{body}<|end|><|start|>assistant"
        text += "<|channel|>final<|message|>" + "".join(rng.choices(words, k=9)) + "<|return|>"
        tokens = vocabulary.encoding.encode(text, allowed_special="all")
        parsed = Parsed(vocabulary, tokens, functions=["f"])
        messages = vocabulary.encoding.parse_messages_from_completion_tokens(tokens, oh.Role.ASSISTANT)
        texts = [(m.channel, m.recipient, m.content[0].text) for m in messages]
        assert parsed.reasoning == "\n\n".join(t for c, _, t in texts if c == "analysis")
        assert parsed.answer == "\n\n".join(t for c, r, t in texts if c == "final" or (c == "commentary" and not r))
        assert [a for _, a in parsed.calls] == [t for _, r, t in texts if r == "functions.f"]
        assert not parsed.parser.malformed


def test_no_stream_of_tokens_raises_and_every_text_is_text(vocabulary: Vocabulary) -> None:
    rng = random.Random(1)
    structural = [START, END, MESSAGE, CHANNEL, RETURN, CALL, 200003, 199999]
    words = [
        token
        for text in ("assistant", "analysis", "commentary", "final", " to=functions.f", " json", "user", "{}", "Hello")
        for token in vocabulary.encode(text)
    ]
    broken = [t for t in rng.sample(range(100_000), 20_000) if not _is_text(vocabulary.token_bytes(t))][:50]
    finished = 0
    for _ in range(int(os.environ.get("APPLIANCE_FUZZ_STREAMS", "100000"))):
        tokens = [
            rng.choice(rng.choices((structural, words, broken, SPECIAL, range(201_100)), (6, 6, 1, 0.2, 2))[0])
            for _ in range(rng.randint(1, 40))
        ]
        parsed = Parsed(vocabulary, tokens, functions=["f"], stop=rng.choice([(), ("lo",), ("a", "{}")]))
        finished += parsed.parser.finished is not None
        for delta in parsed.deltas:
            text = delta.arguments if isinstance(delta, ToolCallDelta) else delta.text
            text.encode()
        assert parsed.parser.flush() == []
        assert parsed.parser.reasoning_tokens <= parsed.used
        assert (parsed.parser.finished == "tool_calls") <= bool(parsed.calls)
    assert finished > 100
