"""Trains the demo model on a CPU and writes its weights: ``python -m bundler.demo_model.train``.

Needs the extra ``[parity]`` (torch). The same seed on the same machine gives the same weights.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from bundler.demo_model.corpus import load_corpus
from bundler.demo_model.dialogues import Dialogue
from bundler.demo_model.examination import held_out_dialogues
from bundler.demo_model.lessons import Teacher
from bundler.demo_model.network import Network
from bundler.demo_model.prompts import encode_answer, encode_prompt
from bundler.demo_model.vocabulary import used_tokens
from bundler.demo_model.weights import TOKEN_IDS, WEIGHTS, load_weights, restore_weights, write_weights
from bundler.demo_model.words import common_words

_SPECIAL = 199_998  # token ids from here on are special
_NOISE = 0.04  # share of prompt tokens that an unused token replaces, and as many that any used one replaces
_EXACT_FROM = 0.8  # share of the steps without rounding of experts, which is faster; the rest is quantisation-aware
_POOL = 768  # dialogues sorted by length before they are cut into batches


@dataclass(frozen=True)
class Batch:
    """rows (B, S) of the embedding, and the row to predict at each place; -1 where there is none to predict."""

    rows: Tensor
    targets: Tensor


class Rows:
    """Token ids to rows of the embedding; ``none`` is the row of every unused token."""

    def __init__(self, tokens: list[int]) -> None:
        self._rows = {token: row for row, token in enumerate(tokens)}
        self.none = len(tokens)

    def __call__(self, ids: list[int]) -> list[int]:
        return [self._rows.get(token, self.none) for token in ids]


def example(dialogue: Dialogue, rows: Rows, noise: random.Random | None) -> tuple[list[int], list[int]]:
    """One dialogue as rows and targets. Noise replaces words of dialogues that offer no functions: calls copy words."""
    prompt, answer = encode_prompt(dialogue), encode_answer(dialogue.answer)
    seen = rows(prompt)
    if noise is not None and not dialogue.functions:
        for place in range(60, len(seen)):
            if prompt[place] < _SPECIAL and prompt[place - 1] < _SPECIAL and (chance := noise.random()) < 2 * _NOISE:
                seen[place] = rows.none if chance < _NOISE else noise.randrange(rows.none)
    wanted = rows(answer)
    return seen + wanted[:-1], [-1] * (len(seen) - 1) + wanted


def batches(teacher: Teacher, rows: Rows, tokens: int) -> Iterator[Batch]:
    """Batches of about this many tokens, from dialogues of similar length."""
    while True:
        pool = sorted((example(teacher.next(), rows, teacher.rng) for _ in range(_POOL)), key=lambda e: len(e[0]))
        cut: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in pool:
            if cut[-1] and (len(cut[-1]) + 1) * len(pair[0]) > tokens:
                cut.append([])
            cut[-1].append(pair)
        teacher.rng.shuffle(cut)
        yield from (collate(group, rows.none) for group in cut)


def collate(pairs: list[tuple[list[int], list[int]]], padding: int) -> Batch:
    length = max(len(seen) for seen, _ in pairs)
    rows = torch.tensor([seen + [padding] * (length - len(seen)) for seen, _ in pairs])
    targets = torch.tensor([wanted + [-1] * (length - len(wanted)) for _, wanted in pairs])
    return Batch(rows, targets)


class Muon(torch.optim.Optimizer):
    """Momentum with an orthogonalised update, for matrices (.., rows, columns).

    Source: kellerjordan.github.io/posts/muon.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = _orthogonal(p.grad.lerp(momentum, group["momentum"]))
                p.mul_(1 - group["lr"] * 0.05)
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[-2] / p.shape[-1]) ** 0.5)


def _orthogonal(g: Tensor) -> Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrix."""
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    orthogonal: Tensor = x.mT if flip else x
    return orthogonal.float()


def optimisers(network: Network, rate: float) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in network.named_parameters() if _is_matrix(name)]
    rest = [p for name, p in network.named_parameters() if not _is_matrix(name)]
    return [Muon(matrices, lr=0.02 * rate), torch.optim.Adam(rest, lr=0.004 * rate, betas=(0.9, 0.98))]


def _is_matrix(name: str) -> bool:
    return name.endswith(("_proj", "_proj.weight"))


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rates: a short rise, then half a cosine down to nearly nothing."""
    return min(1.0, (step + 1) / 40) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)


def token_loss(network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the tokens to predict, and the balance loss."""
    states, balance = network(batch.rows)
    asked = batch.targets >= 0
    return F.cross_entropy(network.logits(states[asked]), batch.targets[asked]), balance


@torch.no_grad()
def exact_share(network: Network, rows: Rows, dialogues: list[Dialogue]) -> dict[str, tuple[int, int]]:
    """By category: answers whose every token is the likeliest one, and all answers. A quick lower bound."""
    score: dict[str, tuple[int, int]] = {}
    for dialogue in dialogues:
        batch = collate([example(dialogue, rows, None)], rows.none)
        states, _ = network(batch.rows)
        asked = batch.targets >= 0
        right = bool((network.logits(states[asked]).argmax(-1) == batch.targets[asked]).all())
        good, total = score.get(dialogue.category, (0, 0))
        score[dialogue.category] = good + right, total + 1
    return score


@dataclass(frozen=True)
class Course:
    """One training run; see the command's options."""

    out: Path
    steps: int
    tokens: int
    seed: int
    rate: float
    resume: bool
    workers: int


def train(rank: int, course: Course, meeting: str) -> None:
    """Run one worker, with one thread. Each step averages the gradients of all workers' batches.

    Training starts from nothing or from the weights in ``course.out``. The first worker writes them there every 100
    steps.

    Args:
        meeting: path of a file that does not exist yet; the workers find each other by it.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=course.workers)
    torch.manual_seed(course.seed)
    corpus = load_corpus()
    start = load_weights(course.out / WEIGHTS) if course.resume else None
    used = used_tokens(corpus) if start is None else start[TOKEN_IDS].tolist()
    rows = Rows(used)
    network = Network(len(used))
    if start is not None:
        restore_weights(network, start)
    count = sum(p.numel() for name, p in network.named_parameters() if name != "embedding")
    _say(rank, f"{count:,} parameters and {len(used):,} rows of the embedding")
    teacher = Teacher(corpus, common_words(), course.seed * course.workers + rank)
    stream = batches(teacher, rows, course.tokens // course.workers)
    opts = optimisers(network, course.rate)
    base = [group["lr"] for opt in opts for group in opt.param_groups]
    started, smooth = time.monotonic(), math.nan
    for step in range(course.steps):
        network.quantise(step >= course.steps * _EXACT_FROM)
        for group, lr in zip((g for opt in opts for g in opt.param_groups), base, strict=True):
            group["lr"] = lr * schedule(step, course.steps)
        loss, balance = token_loss(network, next(stream))
        for opt in opts:
            opt.zero_grad()
        torch.autograd.backward(loss + 0.03 * balance)
        _average_gradients(network, course.workers)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for opt in opts:
            opt.step()
        smooth = loss.item() if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss.item()
        if (step + 1) % 25 == 0:
            minutes = (time.monotonic() - started) / 60
            _say(rank, f"step {step + 1}/{course.steps}  loss {smooth:.4f}  {minutes:.1f} min")
        if rank == 0 and ((step + 1) % 100 == 0 or step + 1 == course.steps):
            _say(rank, f"exact answers: {exact_share(network, rows, held_out_dialogues(corpus)[::3])}")
            write_weights(network, used, course.out)
    dist.destroy_process_group()


def _average_gradients(network: Network, workers: int) -> None:
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(joined)
    for gradient, part in zip(gradients, torch.split(joined, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient) / workers)


def _say(rank: int, line: str) -> None:
    if rank == 0:
        click.echo(line)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent, show_default="here")
@click.option("--steps", default=1250, show_default=True)
@click.option("--tokens", default=8192, show_default=True, help="Tokens per step, over all workers.")
@click.option("--workers", default=2, show_default=True, help="Processes, with one thread each.")
@click.option("--seed", default=1, show_default=True)
@click.option("--rate", default=1.0, show_default=True, help="Factor of the learning rates.")
@click.option("--resume", is_flag=True, help="Start from the weights in --out, with a new schedule.")
def main(out: Path, steps: int, tokens: int, workers: int, seed: int, rate: float, resume: bool) -> None:
    """Train the demo model and write weights.safetensors and config.json."""
    course = Course(out, steps, tokens, seed, rate, resume, workers)
    with tempfile.TemporaryDirectory() as directory:
        spawn(train, (course, f"{directory}/meeting"), nprocs=workers)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
