"""Times at which settings take effect, and the changes that a reload applies."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import given

from streamasr.config import listing
from streamasr.config.changes import compare, reload
from streamasr.config.listing import settings
from streamasr.config.notes import RELOAD, Effect
from streamasr.config.sections import ServerConfig, Settings
from streamasr.core.errors import ConfigError
from tests.support.errors import raises
from tests.support.settings import VALUES, changed, configs


def test_every_setting_says_when_it_takes_effect() -> None:
    assert {one.path for one in settings()} == set(VALUES)
    assert {one.effect for one in settings()} == {*Effect}


def test_a_setting_that_does_not_say_when_it_takes_effect_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent(msgspec.Struct, frozen=True):
        new: int = 1

    class Sections(msgspec.Struct):
        silent: Silent = Silent()
        spoken: Annotated[Silent, RELOAD] = Silent()

    monkeypatch.setattr(listing, "Settings", Sections)
    with pytest.raises(TypeError, match=r"silent\.new"):
        settings.__wrapped__()


@given(configs())
def test_nothing_has_changed_between_equal_settings(config: Settings) -> None:
    changes = compare(config, config)
    assert (changes.applied, changes.needs_restart) == ((), ())
    assert reload(config, config) == config


@given(configs(), configs())
def test_a_reload_applies_some_settings_and_leaves_the_others(
    running: Settings, wanted: Settings
) -> None:
    changes = compare(running, wanted)
    try:
        after = reload(running, wanted)
    except ConfigError:
        # The longest segment stays, and the search for cuts may not.
        assert "segmentation.max_segment_s" in changes.needs_restart
        return
    assert compare(running, after) == type(changes)(changes.applied, ())
    assert compare(after, wanted) == type(changes)((), changes.needs_restart)


def test_a_reload_lists_settings_that_need_a_restart() -> None:
    wanted = changed(
        {
            "server.port": 1,
            "model.name": "other",
            "segmentation.max_segment_s": 30.0,
            "segmentation.hangover_s": 0.9,
            "log.level": "debug",
            "dictation.mode": "live",
        }
    )
    changes = compare(Settings(), wanted)
    assert changes.applied == ("segmentation.hangover_s", "log.level")
    assert changes.needs_restart == ("model.name", "server.port", "segmentation.max_segment_s")


def test_a_reload_cannot_remove_the_token_of_an_open_address() -> None:
    running = Settings(server=ServerConfig(host="0.0.0.0", token_file=Path("/token")))
    with raises(ConfigError, "token_required"):
        reload(running, Settings())


def test_settings_of_dictation_do_not_change_the_daemon() -> None:
    wanted = changed({"dictation.mode": "live", "dictation.hold": True})
    changes = compare(Settings(), wanted)
    assert (changes.applied, changes.needs_restart) == ((), ())
