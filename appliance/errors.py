"""The one root of the appliance's errors; each module adds its own subclasses beside the code that raises them.

The message is one plain sentence for an operator: no traceback, no prompt, no key.
"""

from __future__ import annotations

# The exit status of a program that somebody must help before it is started again: EX_CONFIG of sysexits.h. It stands
# here because every program of the appliance may read this module, and not every one the supervisor's.
CANNOT_SERVE = 78

# The exit status of a packer that has made the packed weights anew, where 0 says that it found them.
PACKED_ANEW = 10


class ApplianceError(Exception):
    """Something the operator can act on; the command line prints it as one line and exits with 1."""
