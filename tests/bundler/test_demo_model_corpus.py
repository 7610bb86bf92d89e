"""The demo model's corpus keeps its promises: size, split, honest commands, efforts that differ, calls that fit."""

from __future__ import annotations

import json
import random
import re
from datetime import date

import click
import pytest

from appliance.cli import main as appliance_command
from appliance.engine.harmony import Vocabulary, render_prompt
from bench.demo_model_eval import turn_request
from bundler.cli import main as bundler_command
from bundler.demo_model import corpus as corpus_module
from bundler.demo_model.corpus import Corpus, CorpusError, load_corpus, normalise
from bundler.demo_model.dialogues import EFFORTS, Dialogue, Maker
from bundler.demo_model.examination import held_out_dialogues
from bundler.demo_model.lessons import Teacher, taught_dialogues
from bundler.demo_model.prompts import encode_prompt, harmony
from bundler.demo_model.words import common_words
from installer.cli import main as installer_command

COMMANDS = {"appliance": appliance_command, "bundler": bundler_command, "installer": installer_command}
MAKE_TARGETS = {"demo", "demo-clean", "test"}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.fixture(scope="module")
def lessons(corpus: Corpus) -> list[Dialogue]:
    teacher = Teacher(corpus, common_words(), seed=7)
    return [teacher.next() for _ in range(3000)]


def questions(dialogue: Dialogue) -> list[str]:
    return [said.text for said in dialogue.said if said.role == "user"]


def test_has_at_least_400_distinct_dialogues(corpus: Corpus) -> None:
    dialogues = taught_dialogues(corpus)
    distinct = {(tuple(questions(d)), d.answer.text, d.answer.call) for d in dialogues}
    assert len(distinct) == len(dialogues) >= 400


def test_holds_out_about_a_tenth_of_the_wordings(corpus: Corpus) -> None:
    wordings = [entry.ask for group in (corpus.topics, corpus.declines, corpus.tools) for entry in group]
    held_out, taught = sum(len(w.held_out) for w in wordings), sum(len(w.taught) for w in wordings)
    assert 0.08 <= held_out / (held_out + taught) <= 0.12
    assert all(entry.ask.held_out for entry in corpus.topics)


def test_no_held_out_question_is_ever_taught(corpus: Corpus, lessons: list[Dialogue]) -> None:
    held_out = {normalise(questions(d)[-1]) for d in held_out_dialogues(corpus)}
    taught = {normalise(text) for d in (*lessons, *taught_dialogues(corpus)) for text in questions(d)}
    assert not held_out & taught


def test_refuses_a_wording_that_occurs_twice(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    read = corpus_module._read

    def with_twin(name: str) -> dict[str, list[dict[str, list[str]]]]:
        body = read(name)
        if name == "topics":
            body["topic"][1]["ask"].append(body["topic"][0]["ask"][0].upper())
        return body

    monkeypatch.setattr(corpus_module, "_read", with_twin)
    with pytest.raises(CorpusError, match="twice"):
        load_corpus.__wrapped__()


def commands_quoted(corpus: Corpus) -> set[str]:
    texts = [text for topic in corpus.topics for text in (topic.answer, *topic.more.values())]
    lines = [line.strip() for text in texts for line in re.findall(r"^(?:\w+ .*|make \S+)$", text, re.MULTILINE)]
    quoted = [span for text in texts for span in re.findall(r"`([^`\n]+)`", text)]
    return {line for line in (*lines, *quoted) if line.split()[0] in (*COMMANDS, "make") and " " in line}


def test_every_command_it_teaches_exists_with_these_options(corpus: Corpus) -> None:
    quoted = {line for line in commands_quoted(corpus) if "--" in line or line.startswith("make ")}
    assert len(quoted) >= 15
    for line in quoted:
        program, *words = line.split()
        if program == "make":
            assert words[0] in MAKE_TARGETS, line
            continue
        command: click.Command = COMMANDS[program]
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        _require_accepted(command, words, line)


def _require_accepted(command: click.Command, words: list[str], line: str) -> None:
    """Require that the words are options and arguments of this command, and that no required one is missing."""
    options, arguments, _ = command.make_parser(click.Context(command)).parse_args(args=words)
    assert not arguments, f"{line}: {arguments} is too much"
    missing = [p.name for p in command.params if p.required and options.get(p.name or "") is None]
    assert not missing, f"{line}: lacks {missing}"


@pytest.mark.parametrize(
    "words", [["--home"], ["--home", "DIR", "NAME", "TOO-MUCH"], ["NAME"], ["--house", "DIR", "NAME"]]
)
def test_a_wrong_command_line_would_be_noticed(words: list[str]) -> None:
    users = COMMANDS["appliance"].commands["users"]
    assert isinstance(users, click.Group)
    with pytest.raises((AssertionError, click.UsageError)):
        _require_accepted(users.commands["add"], words, "appliance users add")


def test_efforts_differ_clearly_in_length(corpus: Corpus) -> None:
    maker = Maker(corpus, "taught", random.Random(1))
    for topic in corpus.topics:
        low, medium, high = (
            len(maker.topic(topic, topic.ask.taught[0], effort).answer.reasoning.split()) for effort in EFFORTS
        )
        assert low < medium
        assert medium * 1.5 < high


def test_calls_fit_the_schema_of_a_function_on_offer(lessons: list[Dialogue]) -> None:
    calls = [d for d in lessons if d.answer.call is not None]
    assert len({d.answer.call.name for d in calls if d.answer.call}) > 20
    types = {"string": str, "integer": int}
    for dialogue in calls:
        assert dialogue.answer.call is not None
        schema = {f.name: f.parameters for f in dialogue.functions}[dialogue.answer.call.name]
        arguments = json.loads(dialogue.answer.call.arguments)
        assert set(schema["required"]) <= set(arguments) <= set(schema["properties"])
        assert all(type(value) is types[schema["properties"][name]["type"]] for name, value in arguments.items())
        assert all(str(value) in dialogue.said[-1].text for value in arguments.values())


def test_prompts_are_what_the_engine_renders(corpus: Corpus, lessons: list[Dialogue]) -> None:
    vocabulary = Vocabulary(harmony())
    for dialogue in (*(d for d in lessons[:300] if d.date), *held_out_dialogues(corpus)):
        request = turn_request(dialogue, seed=1, temperature=1.0)
        assert encode_prompt(dialogue) == render_prompt(vocabulary, request, today=date.fromisoformat(dialogue.date))
