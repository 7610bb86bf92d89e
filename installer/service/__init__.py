"""From an installed release to a running appliance: the systemd units of a site, and the keeper that starts it.

    plan = plan_service(site, owner)          # refuses what cannot work, writes nothing
    write_service(plan, root=Path("/"))       # idempotent
    remove(prefix, root=Path("/"))            # tolerant: what is not there is removed already

`units.py` has the texts, `files.py` writes and removes them, `manager.py` talks to the service manager, and `keeper.py`
is what a start runs around the appliance.
"""

from __future__ import annotations

from installer.service.files import ServiceFiles, find_service, remove, write_keeper, write_service
from installer.service.manager import has_systemd
from installer.service.units import ServicePlan, plan_service

__all__ = [
    "ServiceFiles",
    "ServicePlan",
    "find_service",
    "has_systemd",
    "plan_service",
    "remove",
    "write_keeper",
    "write_service",
]
