"""Which of two checkouts a comparison calls the faster, and what it does where one cannot be measured."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from bench.against import Ratio, compare, measure


def test_more_tokens_a_second_and_fewer_seconds_both_count_as_faster() -> None:
    this = [{"decode_tok_s": 20.0, "first_byte_s": 0.5}, {"decode_tok_s": 30.0, "first_byte_s": 0.4}]
    other = [{"decode_tok_s": 10.0, "first_byte_s": 1.0}, {"decode_tok_s": 10.0, "first_byte_s": 1.2}]
    decode, first_byte = compare(this, other)
    assert decode == Ratio("decode_tok_s", 25.0, 10.0, (2.0, 3.0))
    assert first_byte.name == "first_byte_s"
    assert first_byte.ratios == pytest.approx((2.0, 3.0))
    assert decode.line().split() == ["decode_tok_s", "25.000", "10.000", "2.50", "2.00", "..", "3.00"]


def test_figures_of_one_checkout_alone_and_those_that_say_nothing_of_its_speed_are_left_out() -> None:
    this = [{"decode_tok_s": 1.0, "peak_rss_gb": 2.0, "read_gb_s": 40.0, "new_tok_s": 3.0}]
    other = [{"decode_tok_s": 1.0, "peak_rss_gb": 2.0, "read_gb_s": 30.0, "old_tok_s": 3.0}]
    assert [ratio.name for ratio in compare(this, other)] == ["decode_tok_s"]


def test_a_checkout_without_an_environment_is_named(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=f"{tmp_path}.*cannot be run: No such file or directory"):
        measure(tmp_path, [])


def test_a_failed_measurement_shows_the_end_of_its_output(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no such shape >&2\nexit 2\n")
    python.chmod(0o755)
    with pytest.raises(click.ClickException, match=r"bench\.engine failed:\nno such shape"):
        measure(tmp_path, ["--shape", "none"])
