"""What an engine decides before it serves: accelerator, slots and context; then it loads the release's model."""

from __future__ import annotations

import logging

from appliance.config import Config
from appliance.engine.harmony import ALL_TOKENS, Vocabulary, load_vocabulary
from appliance.engine.host import wants_cuda
from appliance.engine.memory_needs import read_needs
from appliance.engine.memory_plan import MemoryPlan, plan_memory
from appliance.engine.model import ModelError
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import free_memory_bytes, load_model
from appliance.installed_release import InstalledRelease, load_release

_log = logging.getLogger("appliance.engine")


def choose_accelerator(config: Config, release: InstalledRelease) -> str:
    """The accelerator to run on: the configured one. "auto" is CUDA if the release has its graph and a GPU is there.

    Raises:
        ModelError: the release has no graph for it.
    """
    wanted = "cuda" if wants_cuda(config.accelerator, release.graphs) else "cpu"
    if wanted not in release.graphs:
        raise ModelError(f"release {release.version} has no {wanted} graph; it has {', '.join(release.graphs)}")
    return wanted


def plan_engine(config: Config, release: InstalledRelease) -> MemoryPlan:
    """How many conversations of how many tokens this machine serves now.

    Raises:
        MemoryPlanError: the configured ones do not fit, or where none are configured, not even the smallest.
        ApplianceError: the release does not say what it needs, or has no graph for this machine.
    """
    accelerator = choose_accelerator(config, release)
    needs = read_needs(release, accelerator, config)
    available = free_memory_bytes(accelerator)
    return plan_memory(needs, available, slots=config.slots, context_tokens=config.context_tokens)


def load_engine(config: Config) -> tuple[InstalledRelease, OnnxModel, Vocabulary]:
    """Load what the configured release needs.

    Raises:
        MemoryPlanError: it does not fit into memory.
        ApplianceError: the release, its vocabulary or its graph cannot be used here.
    """
    release = load_release(config.release_dir)
    plan = plan_engine(config, release)  # before anything is loaded: a refusal takes no time and no memory
    _log.info("%s", plan.sentence())
    vocabulary = load_vocabulary(release.vocabulary)
    accelerator = plan.needs.accelerator
    model = load_model(
        release.graphs[accelerator],
        accelerator=accelerator,
        slots=plan.sharing,
        context_tokens=plan.context_tokens,
        cache_bytes=plan.cache_bytes,
        packed_dir=config.packed_dir / release.version,
        cache=config.cache,
    )
    if model.shape.cache != plan.needs.cache:
        raise ModelError(f"{release.graphs[accelerator]}: its caches are not those that {release.config} describes")
    if model.shape.vocab < ALL_TOKENS:
        raise ModelError(f"the model has {model.shape.vocab:,} tokens; Harmony's vocabulary has {ALL_TOKENS:,}")
    return release, model, vocabulary
