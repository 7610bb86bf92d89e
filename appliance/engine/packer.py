"""The packer, ``python -m appliance.engine.packer [--thorough]``, packs weights for this processor before an engine.

It ends when the packed weights are complete. The engine, which takes input from people, can then read them and cannot
write them. With ``--thorough`` every digest is compared, as the engine does, so damage that stopped an engine is
repaired. Environment: APPLIANCE_HOME (the site).
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from appliance.config import Config, load_config
from appliance.engine.host import physical_cores, wants_cuda
from appliance.engine.operators import load_operators
from appliance.engine.packed_weights import has_packed, load_packing, open_packed
from appliance.engine.startup import plan_engine
from appliance.errors import CANNOT_SERVE, PACKED_ANEW, ApplianceError
from appliance.installed_release import load_release
from appliance.isolation.confinement import seal

_log = logging.getLogger("appliance.engine")


def pack(config: Config, *, thorough: bool) -> bool:
    """Make the packed weights of the site's release if they are missing; True if they were made now.

    Raises:
        MemoryPlanError: the engine would not start with them.
        ApplianceError: the release cannot be read or the weights cannot be packed.
    """
    release = load_release(config.release_dir)
    if wants_cuda(config.accelerator, release.graphs) or "cpu" not in release.graphs:
        return False
    plan_engine(config, release)  # packing takes minutes, and a refusal need not wait for it
    graph = release.graphs["cpu"]
    packing, cache, operators = load_packing(graph.parent), config.packed_dir / release.version, load_operators()
    if not thorough and has_packed(packing, cache, operators):
        return False
    return open_packed(packing, graph.parent, cache, operators, threads=physical_cores()).made


def main() -> int:
    """The process's exit code: PACKED_ANEW if it packed, CANNOT_SERVE after an error that a person must resolve, and 1
    after any other error."""
    seal(os.environ)
    logging.basicConfig(level=logging.INFO, format="engine: %(message)s", stream=sys.stderr)
    try:
        if pack(load_config(Path(os.environ["APPLIANCE_HOME"])), thorough="--thorough" in sys.argv[1:]):
            _log.info("packed the weights for this processor")
            return PACKED_ANEW
    except ApplianceError as exc:
        _log.error("%s", exc)
        return CANNOT_SERVE
    except OSError as exc:
        _log.error("%s", exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
