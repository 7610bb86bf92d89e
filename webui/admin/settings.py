"""The page of settings: what each does now, since when and by whom; the few that change while the site serves."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, Final

from flask import Response, make_response, redirect, render_template, request, url_for

from appliance.audit.rows import newest_of
from appliance.config import Config, settings_by_section
from appliance.database.transactions import as_datetime
from appliance.people.live_settings import LIVE, Chosen, Live
from appliance.people.users import AccountError
from webui.admin.routes import blueprint
from webui.admin.setting_words import sentence_of, why_not
from webui.handover import answer, hand_over, take
from webui.live import live_services
from webui.services import services
from webui.session import current_actor

_NOTICES: Final = {"saved": "The setting is saved. It holds for everybody within a second; no answer ended."}


@dataclass(frozen=True)
class PageSetting:
    """One setting. ``live`` is None where it cannot be changed here, and ``why_not`` says why."""

    name: str
    sentence: str
    value: Any
    live: Live | None
    why_not: str
    source: str
    since: datetime | None
    is_chosen: bool


@blueprint.get("/settings")
def settings() -> Response:
    left = take()
    page = render_template(
        "admin_settings.html", settings=_sections(), error=left.get("error"), at=left.get("at", ""),
        notice=None if left else _NOTICES.get(request.args.get("notice", "")),
    )  # fmt: skip
    return answer(page, left)


@blueprint.post("/settings/<name>")
def change_setting(name: str) -> Response:
    """Change a setting, or give up what was chosen. One that is dangerous asks for its word."""
    live, settings = LIVE.get(name), live_services().settings
    try:
        if live is None:
            raise AccountError(f"{name} cannot be changed here. {why_not(name)}")
        if live.word and request.form.get("word", "").strip().lower() != live.word:
            raise AccountError(f"Nothing was changed: type the word {live.word} to change {name}.")
        if request.form.get("do") == "file":
            settings.return_to_file(name, by=current_actor())
        else:
            settings.choose(name, request.form.get("value", ""), by=current_actor())
    except AccountError as exc:
        left = {"status": 400, "error": str(exc), "at": name}
        return hand_over(url_for("admin.settings"), left)
    live_services().look()
    return make_response(redirect(url_for("admin.settings", notice="saved"), 303))


def _sections() -> dict[str, list[PageSetting]]:
    chosen, config = live_services().settings.chosen(), services().config
    started = newest_of(services().record, ("appliance_started",))
    since = None if started is None else as_datetime(started.time_us)
    return {
        section: [_setting(f"{section}.{key}", field, config, chosen, since) for key, field in keys.items()]
        for section, keys in settings_by_section().items()
    }


def _setting(name: str, field: str, config: Config, chosen: dict[str, Chosen], started: datetime | None) -> PageSetting:
    mine, value, live = chosen.get(name), getattr(config, field), LIVE.get(name)
    source = (
        f"chosen by {mine.by}" if mine else "the default" if value == _DEFAULTS.get(field) else "the operator's file"
    )
    return PageSetting(
        name, sentence_of(name, config, field), "" if value is None else value, live,
        "" if live else why_not(name), source, mine.at if mine else started, mine is not None,
    )  # fmt: skip


_DEFAULTS: Final[dict[str, Any]] = {one.name: one.default for one in fields(Config) if one.default is not MISSING}
