"""The one root of the appliance's errors; each module adds its own subclasses beside the code that raises them.

The message is one plain sentence for an operator: no traceback, no prompt, no key.
"""

from __future__ import annotations

# The exit status of a program that needs a person's help before it can start again: EX_CONFIG of sysexits.h. It is
# defined here because every program of the appliance may import this module, but not the supervisor's.
CANNOT_SERVE = 78

# The exit status of a packer that has written the packed weights; 0 says that it found them.
PACKED_ANEW = 10


class ApplianceError(Exception):
    """Something the operator can act on; the command line prints it as one line and exits with 1."""
