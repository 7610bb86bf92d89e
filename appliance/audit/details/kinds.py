"""Which action has which details, and how stored details are read.

Nothing that stands in the database makes these functions raise: earlier releases wrote fewer fields, and whoever can
write the database can put any value there. An action that is not in `KINDS` has no details, and so may any event: the
recorder leaves them out where it cannot store them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from appliance.audit.details.codec import UNREADABLE, Details, UnreadableDetails, read_first
from appliance.audit.details.denials import (
    BodyTooLarge,
    KeyLimitReached,
    PromptTooLarge,
    QuotaReached,
    QuotaSpent,
    RepeatedDenial,
    ScopeMissing,
)
from appliance.audit.details.exchange import ConversationExported, ConversationImported
from appliance.audit.details.markings import ConversationMarked
from appliance.audit.details.review import (
    EventsExported,
    FindingDetails,
    KeyReplaced,
    RangeExported,
    SearchDetails,
    VerificationDetails,
)
from appliance.audit.details.site import (
    ApplianceStarted,
    AttemptRefused,
    PackedWeights,
    ProcessEnded,
    ProcessPaused,
    ReleaseDiffers,
    ReleaseIntact,
    ReleaseReturned,
    SchemaUpgraded,
)
from appliance.audit.details.turns import FinishedAnswer, LostAnswer, PromptDetails, UnfinishedAnswer
from appliance.audit.event import Action

# Where an action has several forms, the first that fits is read: those with more fields stand first.
KINDS: Final[Mapping[Action, tuple[type[Details], ...]]] = {
    "prompt": (PromptDetails,),
    "answer": (FinishedAnswer, LostAnswer, UnfinishedAnswer),
    "denied": (PromptTooLarge, RepeatedDenial, KeyLimitReached, QuotaReached, ScopeMissing, BodyTooLarge, QuotaSpent),
    "review_search": (SearchDetails,),
    "record_verified": (VerificationDetails,),
    "evidence_exported": (EventsExported, RangeExported),
    "conversation_exported": (ConversationExported,),
    "conversation_imported": (ConversationImported,),
    "conversation_marked": (ConversationMarked,),
    "record_finding": (FindingDetails,),
    "finding_acknowledged": (FindingDetails,),
    "signing_key_replaced": (KeyReplaced,),
    "appliance_started": (ApplianceStarted,),
    "process_ended": (ProcessEnded,),
    "process_paused": (ProcessPaused,),
    "attempt_refused": (AttemptRefused,),
    "release_compared": (ReleaseIntact, ReleaseDiffers),
    "weights_packed": (PackedWeights,),
    "weights_compared": (PackedWeights,),
    "schema_upgraded": (SchemaUpgraded,),
    "release_returned": (ReleaseReturned,),
}


def parse_details(action: Action, stored: object) -> Details:
    """The details in JSON text as it is stored, or `UnreadableDetails`."""
    try:
        values = json.loads(stored)  # type: ignore[arg-type]
    except UNREADABLE as exc:
        return UnreadableDetails(problem=f"the details are not JSON: {exc}")
    return details_of(action, values)


def details_of(action: Action, values: object) -> Details:
    """The details in JSON values, or `UnreadableDetails`."""
    return Details() if values == {} else read_first(KINDS.get(action, (Details,)), values)


def check_details(action: Action, details: Details) -> None:
    """Raises: RuntimeError: events of this action have other details."""
    if type(details) not in (Details, *KINDS.get(action, ())):
        raise RuntimeError(f"internal error: {type(details).__name__} are no details of {action}")
