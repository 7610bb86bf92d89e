"""What a request takes from the responses that its owner keeps: the conversation before it, and items by their ids.

An item's id is made of its response's id, so that no further index is needed. A reference is kept as a reference: what
it names is never copied, and is gone with its response.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from appliance.people.responses import (
    ChainBrokenError,
    KeptResponse,
    ResponseNotFoundError,
    Responses,
    StillRunningError,
    TooMuchKeptError,
)
from installer.formats.checks import FaultError, check
from webui.api.errors import ApiError
from webui.api.responses.items import InputItem, Item, KeptItems, Reference, item_object
from webui.api.responses.present import ID_PREFIX

_ITEM_ID: Final = re.compile(r"(?:msg|rs|fc|fco)_([0-9a-f]{32})_(in)?([0-9]{1,5})")
_KINDS: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
_FIELD: Final = "previous_response_id"


def input_objects(response_id: str, items: Sequence[InputItem]) -> list[dict[str, Any]]:
    """The items of a request as they are kept."""
    drawn = [item_object(item, "") for item in items]
    stem = response_id.removeprefix(ID_PREFIX)
    ids = [f"{_KINDS[entry['type']]}_{stem}_in{place}" if entry["id"] == "" else entry["id"]
           for place, entry in enumerate(drawn)]  # fmt: skip
    return [{**entry, "id": item_id} for entry, item_id in zip(drawn, ids, strict=True)]


@dataclass(frozen=True)
class Earlier:
    """The kept responses of one person."""

    responses: Responses
    user_id: str

    def before(self, response_id: str | None) -> list[Item]:
        """The conversation that ends with a response.

        Raises:
            ApiError: 400, it cannot be continued.
        """
        if response_id is None:
            return []
        if not self.responses.are_kept:
            message = "This site keeps no responses; send the items of the conversation instead."
            raise ApiError(400, "previous_response_not_found", message, param=_FIELD)
        try:
            chain = self.responses.chain(self.user_id, response_id)
            entries = [entry for kept in chain for entry in (*kept.input, *kept.response["output"])]
            return self.resolved(check(KeptItems, entries))
        except StillRunningError as exc:
            raise ApiError(400, "previous_response_running", f"{exc}.", param=_FIELD) from exc
        except (ResponseNotFoundError, ChainBrokenError) as exc:
            raise ApiError(400, "previous_response_not_found", f"{exc}".rstrip(".") + ".", param=_FIELD) from exc
        except TooMuchKeptError as exc:
            raise ApiError(400, "context_length_exceeded", f"{exc}.", param=_FIELD) from exc
        except FaultError as exc:
            message = "An item before it is no longer kept or cannot be read; send the items of the conversation."
            raise ApiError(400, "previous_response_not_found", message, param=_FIELD) from exc

    def resolved(self, items: Sequence[InputItem]) -> list[Item]:
        """The items, each reference replaced by what it names.

        Raises:
            FaultError: a reference names nothing that is kept.
            TooMuchKeptError: the references name more than any context holds.
        """
        names = [found[1] for item in items if isinstance(item, Reference) and (found := _ITEM_ID.fullmatch(item.id))]
        kept = self.responses.find(self.user_id, [ID_PREFIX + name for name in names]) if names else {}
        return [
            self._named(item, kept, index) if isinstance(item, Reference) else item for index, item in enumerate(items)
        ]

    def input_of(self, kept: KeptResponse) -> list[dict[str, Any]]:
        """The items of a kept response's request. A reference is listed as what it names, or not if that is gone."""
        listed = []
        for entry in kept.input:
            if entry["type"] != "item_reference":
                listed.append(entry)
                continue
            try:
                [item] = self.resolved([Reference(entry["id"])])
            except FaultError:
                continue
            listed.append(item_object(item, entry["id"]))
        return listed

    def _named(self, reference: Reference, kept: dict[str, KeptResponse], index: int) -> Item:
        fault = FaultError("names no item that is kept", at=("input", index, "id"))
        found = _ITEM_ID.fullmatch(reference.id)
        response = kept.get(ID_PREFIX + found[1]) if found else None
        if found is None or response is None:
            raise fault
        entries = response.input if found[2] else response.response["output"]
        named = [entry for entry in entries if entry.get("id") == reference.id]
        read: tuple[InputItem, ...] = check(KeptItems, named)
        if not read or isinstance(read[0], Reference):
            raise fault
        return read[0]
