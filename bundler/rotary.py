"""Rotary position caches with YaRN scaling (arXiv:2309.00071), as gpt-oss uses them.

An angle is position times frequency in float32. The published implementations (OpenAI's and Transformers') compute it
so, and the model was trained with it: exact angles would change logits by about 1e-3 at position 4,352. Everything
before and after that product is float64 and is rounded once.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bundler.model_config import ModelConfig


def rotary_caches(config: ModelConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines of every position, times YaRN's concentration (0.1 ln(factor) + 1 unless a model has its own).

    Returns:
        two arrays (context, head_dim / 2).
    """
    positions = np.arange(config.context, dtype=np.float32)[:, None]
    angles = (positions * inverse_frequencies(config).astype(np.float32)).astype(np.float64)
    concentration = config.yarn.concentration
    return (np.cos(angles) * concentration).astype(np.float32), (np.sin(angles) * concentration).astype(np.float32)


def inverse_frequencies(config: ModelConfig) -> NDArray[np.float64]:
    """Radians per position, (head_dim / 2,).

    A dimension that turns more than ``beta_fast`` times within the original context keeps its frequency. One that turns
    less than ``beta_slow`` times is slowed by ``factor``. Those between are blended along a straight ramp.
    """
    half = config.head_dim // 2
    dimensions = np.arange(half, dtype=np.float64)
    frequencies = config.rope_theta ** (-dimensions / half)
    start, end = _dimension_of(config, config.yarn.beta_fast), _dimension_of(config, config.yarn.beta_slow)
    if config.yarn.truncate:
        start, end = math.floor(start), math.ceil(end)
    start, end = max(start, 0), min(end, config.head_dim - 1)
    slowed = np.clip((dimensions - start) / max(end - start, 0.001), 0, 1)
    blended: NDArray[np.float64] = frequencies * (1 - slowed) + frequencies / config.yarn.factor * slowed
    return blended


def _dimension_of(config: ModelConfig, turns: float) -> float:
    """The (fractional) dimension that turns this many times within the original context."""
    return (
        config.head_dim
        * math.log(config.yarn.original_context / (turns * 2 * math.pi))
        / (2 * math.log(config.rope_theta))
    )
