"""`streamasr config`, and what the options of `streamasr run` say about settings."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings

from streamasr.cli.config import run
from streamasr.cli.run import overrides_from
from streamasr.config.changes import compare
from streamasr.config.document import manual, markdown, toml
from streamasr.config.file import load_config
from streamasr.config.listing import settings
from streamasr.config.sections import ServerConfig, Settings
from streamasr.core.errors import ConfigError
from tests.support.errors import raises
from tests.support.paths import REPOSITORY
from tests.support.settings import TOKEN, changed, configs, load, two_places, write_token

README = REPOSITORY / "streamasr" / "config" / "README.md"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return write_token(tmp_path / "token", f"{TOKEN}\n".encode())


# The command line


def options(**given: Any) -> Namespace:
    """Options of `streamasr run`."""
    names = """model aligner language context threads gpu gpu_layers mic device input speed
        host port socket token_file allow_origin"""
    silent = dict.fromkeys(names.split())
    return Namespace(**{**silent, "verbose": 0, "no_reuse": False, **given})


def test_a_silent_command_line_overrides_nothing() -> None:
    assert overrides_from(options()) == {}


@pytest.mark.parametrize(
    ("given", "path", "value"),
    [
        ({"model": "mine"}, "model.name", "mine"),
        ({"model": "./mine"}, "model.name", str(Path.cwd() / "mine")),
        ({"language": "en"}, "model.language", "en"),
        ({"languages": ("en", "de")}, "model.languages", ("en", "de")),
        ({"context": ""}, "model.context", ""),
        ({"threads": 3}, "model.threads", 3),
        ({"gpu_layers": 0}, "model.gpu_layers", 0),
        ({"gpu_layers": -1}, "model.gpu_layers", -1),
        ({"gpu": 1}, "model.gpu", 1),
        ({"gpu": "Vulkan0"}, "model.gpu", "Vulkan0"),
        ({"aligner": "none"}, "model.aligner", "none"),
        ({"aligner": "./its"}, "model.aligner", str(Path.cwd() / "its")),
        ({"no_reuse": True}, "model.reuse", False),
        ({"mic": False}, "microphone.enabled", False),
        ({"mic": True}, "microphone.enabled", True),
        ({"device": "3"}, "microphone.device", 3),
        ({"device": "USB"}, "microphone.device", "USB"),
        ({"device": "³"}, "microphone.device", "³"),
        ({"input": Path("/a/b.wav")}, "microphone.input", Path("/a/b.wav")),
        ({"input": Path("b.wav")}, "microphone.input", Path.cwd() / "b.wav"),
        ({"input": Path("b.wav")}, "microphone.enabled", True),
        ({"speed": 2.0}, "microphone.speed", 2.0),
        ({"host": "::1"}, "server.host", "::1"),
        ({"port": 0}, "server.port", 0),
        ({"socket": Path("/run/s")}, "server.socket", Path("/run/s")),
        ({"allow_origin": ["http://a"]}, "server.allow_origin", ("http://a",)),
        ({"verbose": 1}, "log.level", "info"),
        ({"verbose": 2}, "log.level", "debug"),
        ({"verbose": 3}, "log.level", "debug"),
    ],
)
def test_each_option_overrides_its_setting(
    given: dict[str, Any], path: str, value: object, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'model = {language = "de", context = "x"}\nlog.level = "error"\nmicrophone.enabled = false'
    )
    config = load_config(file, overrides_from(options(**given)))
    (setting,) = (one for one in settings() if one.path == path)
    assert setting.value(config) == value


def test_a_path_on_the_command_line_counts_from_here(
    token_file: Path, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.chdir(token_file.parent)
    overrides = overrides_from(options(token_file=Path("token"), host="0.0.0.0"))
    assert load(path, "", overrides).server.token_file == token_file


def test_an_option_takes_the_place_of_what_the_file_uses_instead(path: Path) -> None:
    text = '[server]\nsocket = "/run/s"\n[microphone]\ninput = "talk.flac"'
    assert load(path, text, overrides_from(options(port=1))).server.socket is None
    assert load(path, text, overrides_from(options(host="::1"))).server.socket is None
    assert load(path, text, overrides_from(options(device="1"))).microphone.input is None


@pytest.mark.parametrize(
    "given",
    [
        {"socket": Path("s"), "port": 0},
        {"socket": Path("s"), "host": "::1"},
        {"input": Path("a"), "device": "0"},
        {"input": Path("a"), "mic": False},
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, Any]) -> None:
    with raises(ConfigError, "options_contradict"):
        overrides_from(options(**given))


# What is printed


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(configs())
@example(changed({"microphone.device": '"\\\x7f\n\t\u2028#', "model.context": "一\U0001f600'''"}))
def test_printed_settings_load_back_to_the_same_settings(path: Path, config: Settings) -> None:
    assert load(path, toml(config, path)) == config


def test_a_token_file_and_an_open_address_load_back_too(path: Path, token_file: Path) -> None:
    server = ServerConfig(host="0.0.0.0", token_file=token_file)
    assert load(path, toml(Settings(server=server))).server == server


def test_defaults_are_commented_out_and_changes_are_not(path: Path) -> None:
    config = changed({"server.port": 1, "live.partials": False})
    active = [line for line in toml(config).splitlines() if line and line[0] not in "#["]
    assert active == ["port = 1", "partials = false"]


def test_every_default_and_example_can_be_uncommented(path: Path, token_file: Path) -> None:
    lines = toml(Settings()).splitlines()
    uncommented = [line[1:] if line[:1] == "#" and line[1:2].strip() else line for line in lines]
    shown = [one for one in settings() if not one.is_hidden]
    assert sum(" = " in line for line in uncommented if line[:1] != "#") == len(shown)
    config = load(path, "\n".join(uncommented))
    examples = {one.path for one in settings() if one.value(Settings()) is None}
    assert {*compare(Settings(), config).applied} == examples & {
        "model.language",
        "server.token_file",
    }
    without = [line for line in uncommented if "an example" not in line]
    assert load(path, "\n".join(without)) == Settings()


def test_every_setting_has_a_manual() -> None:
    for one in settings():
        text = manual(one.section)[one.name]
        assert text.endswith("."), one.path
        assert len(text) > 20, one.path


def test_no_line_is_too_long() -> None:
    assert max(map(len, toml(Settings()).splitlines())) <= 96


def test_a_file_with_an_odd_name_stays_in_its_comment(path: Path) -> None:
    odd = path.with_name("a\n[server]\nport = 'x'\udcff.toml")
    text = toml(Settings(), odd)
    assert r"a\n[server]\nport = 'x'\udcff.toml" in text.splitlines()[0]
    assert load(path, text) == Settings()


def test_a_path_that_is_not_utf_8_is_refused() -> None:
    with raises(ConfigError, "path_not_utf8"):
        toml(changed({"storage.directory": Path("/a\udcff")}))


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    return two_places(tmp_path, monkeypatch)


def ask(**given: Any) -> Namespace:
    return Namespace(
        **{"config": None, "default": False, "path": False, "markdown": False, **given}
    )


def test_config_prints_the_settings_of_its_file(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text("server.port = 7")
    assert run(ask(config=path)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"# Settings of streamasr: from {path}\n")
    assert "\nport = 7\n" in printed
    run(ask(config=path, default=True))
    assert "\n#port = 8765\n" in capsys.readouterr().out


def test_config_prints_where_the_file_is_looked_for(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(ask(path=True))
    assert capsys.readouterr().out.splitlines()[:2] == [str(place) for place in places]
    run(ask(path=True, config=Path("/named")))
    assert capsys.readouterr().out == "/named\n"


def test_config_without_a_file_prints_defaults(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(ask())
    assert capsys.readouterr().out == toml(Settings())


def test_the_tables_in_the_readme_match_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    run(ask(markdown=True))
    tables = capsys.readouterr().out
    assert tables == markdown()
    assert all((f"| `{one.key}`" in tables) is not one.is_hidden for one in settings())
    assert tables in README.read_text("utf-8")
