"""The colours have the contrast that the design rules demand, in both themes, computed from the tokens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.people.markings import STYLES
from webui.frame import words_on

STATIC = Path(__file__).parents[2] / "webui" / "static" / "css"
TEXT_CONTRAST = 4.5  # WCAG 2.2, 1.4.3
CONTROL_CONTRAST = 3.0  # WCAG 2.2, 1.4.11
THEMES = {"light": 0, "dark": 1}
SURFACES = ("surface", "surface-raised", "surface-sunken")
CODE = ("code-keyword", "code-string", "code-number", "code-comment", "code-name", "code-builtin", "bad")
TEXT_PAIRS = [
    *((word, ground) for word in ("text", "text-soft", "accent", "good", "warn", "bad") for ground in SURFACES),
    *((word, "surface-sunken") for word in CODE),
    ("on-accent", "accent"), ("accent", "accent-soft"), ("text", "accent-soft"), ("text-soft", "accent-soft"),
    ("text", "good-soft"), ("good", "good-soft"), ("text", "warn-soft"), ("warn", "warn-soft"), ("text", "bad-soft"),
    ("bad", "bad-soft"), ("warn", "accent-soft"), ("bad", "accent-soft"),
    ("on-bad", "bad-solid"), ("text", "selection"),
]  # fmt: skip
CONTROL_PAIRS = [(line, ground) for line in ("line-strong", "accent", "bad", "good", "warn") for ground in SURFACES]


def tokens() -> dict[str, tuple[str, str]]:
    """Each colour token's name with its light and its dark value."""
    pattern = r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);"
    return {name: (light, dark) for name, light, dark in re.findall(pattern, (STATIC / "tokens.css").read_text())}


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours "#rrggbb"."""
    darker, lighter = sorted(luminance(colour) for colour in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_measure_agrees_with_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # WCAG's own example of slightly too little


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("word", "ground"), TEXT_PAIRS)
def test_words_can_be_read(word: str, ground: str, theme: str) -> None:
    colours = tokens()
    assert contrast(colours[word][THEMES[theme]], colours[ground][THEMES[theme]]) >= TEXT_CONTRAST


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("line", "ground"), CONTROL_PAIRS)
def test_controls_and_the_focus_ring_can_be_seen(line: str, ground: str, theme: str) -> None:
    colours = tokens()
    assert contrast(colours[line][THEMES[theme]], colours[ground][THEMES[theme]]) >= CONTROL_CONTRAST


@pytest.mark.parametrize("colour", ["#000000", "#ffffff", "#1b6e3c", "#b91c1c", "#fce83a", "#757575", "#ff8c00"])
def test_the_banner_can_be_read_on_any_colour(colour: str) -> None:
    assert contrast(colour, words_on(colour)) >= TEXT_CONTRAST


def test_every_marking_can_be_read_on_its_colour() -> None:
    css = (STATIC / "tokens.css").read_text()
    styles = re.findall(r"\.banner-(\w+) \{ --banner: (#\w{6}); --on-banner: (#\w{6}); \}", css)
    assert {name for name, _, _ in styles} == set(STYLES)
    for name, ground, words in styles:
        assert contrast(ground, words) >= TEXT_CONTRAST, name


def test_every_token_that_is_used_is_defined() -> None:
    css = "".join(path.read_text() for path in STATIC.glob("*.css"))
    defined = set(re.findall(r"(--[a-z0-9-]+):", css))
    assert set(re.findall(r"var\((--[a-z0-9-]+)", css)) <= defined


def test_no_colour_stands_outside_the_tokens() -> None:
    for path in STATIC.glob("*.css"):
        if path.name == "tokens.css":
            continue
        outside = re.sub(r"@media print \{.*?\n\}", "", path.read_text(), flags=re.DOTALL)
        assert re.findall(r"#[0-9a-f]{3,8}\b|rgb\([^)]*\)", outside) == [], path.name
