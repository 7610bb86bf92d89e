"""Settings: an absent file is valid; anything else that is not understood is refused with one sentence."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from appliance.config import STATE_DIRS, ConfigError, init_state, load_config, settings_by_section


def _write(home: Path, text: str) -> Path:
    path = home / "state" / "config" / "appliance.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_every_setting_has_a_default(tmp_path: Path) -> None:
    config = load_config(tmp_path)
    assert config.listen_host == "127.0.0.1"
    assert config.listen_port == 8080
    assert config.banner_text is None
    assert config.database_url == f"sqlite:///{tmp_path}/state/database/appliance.sqlite3"


def test_release_dir_is_where_current_pointed_when_loaded(tmp_path: Path) -> None:
    (tmp_path / "releases" / "1").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1")
    config = load_config(tmp_path)
    (tmp_path / "current").unlink()
    assert config.release_dir == tmp_path / "releases" / "1"


def test_settings_of_the_file_are_taken(tmp_path: Path) -> None:
    _write(
        tmp_path,
        """
        [site]
        name = "Ops"
        banner_text = "RESTRICTED"
        banner_colour = "#B91C1C"
        [listen]
        host = "::1"
        port = 0
        [engine]
        accelerator = "cpu"
        slots = 2
        context_tokens = 4096
        [record]
        database_url = "postgresql://host/db"
        checkpoint_interval_s = 5
        """,
    )
    config = load_config(tmp_path)
    assert (config.site_name, config.banner_text, config.banner_colour) == ("Ops", "RESTRICTED", "#b91c1c")
    assert (config.listen_host, config.listen_port) == ("::1", 0)
    assert (config.accelerator, config.slots, config.context_tokens) == ("cpu", 2, 4096)
    assert (config.database_url, config.checkpoint_interval_s) == ("postgresql://host/db", 5.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[listen]\nport = 70000", "listen.port must be a whole number from 0 to 65535, not 70000"),
        ("[listen]\nport = true", "listen.port must be a whole number"),
        ("[listen]\nport = '80'", "listen.port must be a whole number"),
        ("[listen]\nhost = 'localhost'", "listen.host must be an IP address"),
        ("[engine]\naccelerator = 'tpu'", 'engine.accelerator must be "auto", "cpu" or "cuda"'),
        ("[engine]\nslots = 0", "engine.slots must be a whole number from 1"),
        ("[site]\nbanner_colour = 'red'", "site.banner_colour must be a colour"),
        ('[site]\nbanner_text = "two\\nlines"', "site.banner_text"),
        ("[site]\nname = '  '", "site.name must be one line"),
        ("[api]\nmodel_aliases = 'gpt-4o'", "api.model_aliases must be a list of up to 32 different names"),
        ("[api]\nmodel_aliases = ['']", "api.model_aliases must be a list"),
        ("[api]\nmodel_aliases = ['a', 'a']", "api.model_aliases must be a list"),
        ('[api]\nmodel_aliases = ["a\\u0007b"]', "api.model_aliases must be a list"),
        ('[api]\nmodel_aliases = ["a b"]', "api.model_aliases must be a list"),
        (f"[api]\nmodel_aliases = ['{'a' * 129}']", "api.model_aliases must be a list"),
        (f"[api]\nmodel_aliases = {[str(n) for n in range(33)]}", "api.model_aliases must be a list"),
        ("[record]\ndatabase_url = 'mysql://x'", "record.database_url must be a database URL"),
        ("[record]\ncheckpoint_interval_s = 61", "record.checkpoint_interval_s must be a number from 1 to 60"),
        ("[record]\ncheckpoint_interval_s = nan", "record.checkpoint_interval_s must be a number"),
        ("[web]\ncors_origins = ['*']", "web.cors_origins must be a list of at most 50 origins"),
        ("[web]\ncors_origins = ['null']", "web.cors_origins must be a list"),
        ("[web]\ncors_origins = ['https://a.example/x']", "web.cors_origins must be a list"),
        ("[web]\ncors_origins = 'https://a.example'", "web.cors_origins must be a list"),
        ("[site]\nnmae = 'x'", "unknown setting site.nmae"),
        ("[wbe]\nthreads = 3", "unknown section [wbe]"),
        ("listen = 3", "listen must be a section"),
        ("[listen", "at end of document"),
    ],
)
def test_refuses_what_it_does_not_understand_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


def test_origins_are_kept_as_browsers_write_them(tmp_path: Path) -> None:
    _write(tmp_path, "[web]\ncors_origins = ['HTTPS://Tools.Example:443/', 'http://[2001:DB8::1]:3000']")
    assert load_config(tmp_path).cors_origins == ("https://tools.example", "http://[2001:db8::1]:3000")


def test_state_directories_belong_to_their_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    init_state(tmp_path)
    init_state(tmp_path)
    for path in (tmp_path / "state", *(tmp_path / "state" / name for name in STATE_DIRS)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_state_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be prepared"):
        init_state(tmp_path)


def test_documented_settings_are_those_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    documented, section = set(), ""
    for line in page.splitlines():
        cells = [cell.strip().strip("`[]") for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[1] not in ("setting", "---"):
            section = cells[0] or section
            documented.add((section, cells[1]))
    assert documented == {(section, key) for section, keys in settings_by_section().items() for key in keys}


def test_signing_key_of_an_older_release_moves_to_where_only_who_signs_may_look(tmp_path: Path) -> None:
    old = tmp_path / "state" / "keys" / "audit.key"
    old.parent.mkdir(parents=True)
    old.write_text("the key")
    old.chmod(0o600)
    for _ in range(2):
        init_state(tmp_path)
        assert not old.exists()
        assert (tmp_path / "state" / "signer" / "audit.key").read_text() == "the key"
    old.write_text("another key, which does not take the place of the one in use")
    init_state(tmp_path)
    assert (tmp_path / "state" / "signer" / "audit.key").read_text() == "the key"


def test_a_database_that_a_group_may_read_is_closed_before_sqlite_asks_for_its_mode(tmp_path: Path) -> None:
    """SQLite would give the mode to its log beside it, by a call that is refused and reported as an attempt."""
    init_state(tmp_path)
    database = tmp_path / "state" / "database" / "appliance.sqlite3"
    files = [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]
    for path in files:
        path.touch()
        path.chmod(0o640)
    init_state(tmp_path, database)
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * 3


def test_a_link_in_the_place_of_the_database_is_not_followed(tmp_path: Path) -> None:
    init_state(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    elsewhere.chmod(0o640)
    database = tmp_path / "state" / "database" / "appliance.sqlite3"
    database.symlink_to(elsewhere)
    init_state(tmp_path, database)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o640
