"""The record's actions and outcomes in the reviewer's words, and the choices of the filter."""

from __future__ import annotations

from typing import Final

from appliance.audit.event import Action, Outcome

ACTION_WORDS: Final[dict[Action, str]] = {
    "prompt": "Asked",
    "answer": "Was answered",
    "sign_in": "Signed in",
    "sign_out": "Signed out",
    "denied": "Was refused",
    "link_made": "Made a one-time link",
    "link_withdrawn": "Withdrew a one-time link",
    "session_ended": "Ended somebody's sessions",
    "group_changed": "Changed a group",
    "quota_changed": "Changed a quota",
    "setting_changed": "Changed a setting",
    "marking_changed": "Changed the list of markings",
    "conversation_marked": "Marked a conversation",
    "shared_prompt_changed": "Changed a shared prompt",
    "conversation_shared": "Shared a conversation",
    "conversation_unshared": "Ended sharing a conversation",
    "shared_conversation_read": "Read a shared conversation",
    "user_created": "Added an account",
    "user_disabled": "Disabled an account",
    "user_enabled": "Enabled an account",
    "roles_changed": "Changed roles",
    "password_changed": "Changed a password",
    "api_key_created": "Made an API key",
    "api_key_changed": "Changed an API key",
    "api_key_revoked": "Revoked an API key",
    "approval_requested": "Asked a second administrator",
    "approval_confirmed": "Confirmed a request",
    "approval_refused": "Refused a request",
    "approval_expired": "A request expired",
    "review_search": "Searched the record",
    "review_read": "Read an event",
    "evidence_exported": "Exported evidence",
    "content_erased": "Erased content",
    "conversation_deleted": "Deleted a conversation",
    "conversation_exported": "Exported a conversation",
    "conversation_imported": "Imported a conversation",
    "response_deleted": "Deleted a kept response",
    "appliance_started": "Appliance started",
    "appliance_stopped": "Appliance stopped",
    "engine_restarted": "Engine restarted",
    "process_ended": "A process ended",
    "process_paused": "A process was stopped from outside",
    "disk_filling": "Disk is filling",
    "disk_full": "Disk is full",
    "disk_freed": "Disk has room again",
    "release_compared": "Compared the release",
    "weights_packed": "Packed the weights",
    "weights_compared": "Compared the packed weights",
    "attempt_refused": "Attempt refused by the kernel",
    "watch_ended": "Refused attempts no longer seen",
    "record_verified": "Verified the record",
    "checkpoint_exported": "Exported a checkpoint",
    "erasure_finished": "Finished erasing",
    "record_finding": "Found the record broken",
    "finding_acknowledged": "Acknowledged a finding",
    "signing_key_replaced": "Replaced the signing key",
    "index_rebuilt": "Rebuilt the search index",
    "schema_upgraded": "Upgraded the database",
    "release_returned": "Returned to the release before",
}


def title_of(action: Action, outcome: Outcome) -> str:
    """What was done. A refused sign-in was only tried."""
    return "Tried to sign in" if (action, outcome) == ("sign_in", "denied") else ACTION_WORDS[action]


_OF_CONVERSATIONS: Final[tuple[Action, ...]] = (
    "conversation_deleted", "conversation_exported", "conversation_imported", "conversation_marked",
    "conversation_shared", "conversation_unshared", "shared_conversation_read",
)  # fmt: skip
# The choices of the filter: the value in the address, the words, the actions (none: everything but reviewing).
ACTION_GROUPS: Final[tuple[tuple[str, str, tuple[Action, ...]], ...]] = (
    ("", "Everything", ()),
    ("turns", "Questions and answers", ("prompt", "answer", *_OF_CONVERSATIONS, "response_deleted")),
    ("prompts", "Questions", ("prompt",)),
    ("answers", "Answers", ("answer",)),
    ("access", "Signing in, refusals", ("sign_in", "sign_out", "denied")),
    (
        "accounts", "Accounts and keys",
        ("link_made", "link_withdrawn", "session_ended", "group_changed", "quota_changed", "setting_changed",
         "marking_changed", "shared_prompt_changed",
         "user_created", "user_disabled", "user_enabled", "roles_changed", "password_changed",
         "api_key_created", "api_key_changed", "api_key_revoked", "approval_requested", "approval_confirmed",
         "approval_refused", "approval_expired"),
    ),
    (
        "review", "Reviewing",
        ("review_search", "review_read", "record_verified", "checkpoint_exported", "evidence_exported",
         "content_erased", "erasure_finished"),
    ),
    (
        "integrity", "Integrity",
        ("record_finding", "finding_acknowledged", "record_verified", "checkpoint_exported", "signing_key_replaced",
         "index_rebuilt"),
    ),
    (
        "appliance", "The appliance",
        ("appliance_started", "appliance_stopped", "engine_restarted", "process_ended",
         "process_paused", "disk_filling", "disk_full", "disk_freed", "release_compared", "weights_packed",
         "weights_compared", "schema_upgraded", "release_returned",
         "attempt_refused", "watch_ended"),
    ),
)  # fmt: skip

OUTCOME_WORDS: Final[dict[Outcome, tuple[str, str]]] = {  # word, kind of tag
    "ok": ("", ""),
    "denied": ("Refused", "bad"),
    "failed": ("Failed", "bad"),
    "cancelled": ("Stopped", "warn"),
    "abandoned": ("Ended early", "warn"),
    "interrupted": ("Interrupted", "bad"),
}
