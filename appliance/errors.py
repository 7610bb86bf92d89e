"""The one root of the appliance's errors; each module adds its own subclasses beside the code that raises them.

The message is one plain sentence for an operator: no traceback, no prompt, no key.
"""

from __future__ import annotations


class ApplianceError(Exception):
    """Something the operator can act on; the command line prints it as one line and exits with 1."""
