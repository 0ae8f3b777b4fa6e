"""The file of settings: where it is, what it may say, what goes before it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamasr.config.file import config_places, find_config, load_config
from streamasr.config.listing import Setting, settings
from streamasr.config.sections import Settings
from streamasr.core.errors import ConfigError
from tests.support.errors import raises
from tests.support.settings import A_HASH, changed, error_of, load, two_places


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


# What a file may say


def test_no_file_and_an_empty_one_mean_the_defaults(path: Path) -> None:
    assert load_config(None) == Settings()
    assert load(path, "") == Settings()
    assert load(path, "[server]\n[vad]\n") == Settings()


def test_a_file_sets_what_it_names_and_nothing_else(path: Path) -> None:
    text = """
        [model]
        language = "en"
        hotwords = ["Ada", "Grace"]
        [server]
        port = 0
        resume_s = 5
        [microphone]
        device = 2
        [segmentation]
        hangover_s = 0.8
        [vad]
        floor_window_s = 4
    """
    assert load(path, text) == changed(
        {
            "model.language": "en",
            "model.hotwords": ("Ada", "Grace"),
            "server.port": 0,
            "server.resume_s": 5.0,
            "microphone.device": 2,
            "segmentation.hangover_s": 0.8,
            "vad.floor_window_s": 4.0,
        }
    )


def test_relative_paths_count_from_the_directory_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    text = """
        model.name = "models/mine"
        microphone.input = "../talk.flac"
        storage.directory = "~/speech"
        server.socket = "/run/streamasr"
        dictation.rules = "rules.toml"
    """
    config = load(path, text)
    assert config.model.name == str(path.parent / "models/mine")
    assert config.microphone.input == path.parent / "../talk.flac"
    assert config.storage.directory == Path("/home/ada/speech")
    assert config.server.socket == Path("/run/streamasr")
    assert config.dictation.rules == path.parent / "rules.toml"


def test_a_model_without_a_slash_is_a_name(path: Path) -> None:
    assert load(path, 'model.name = "mine"').model.name == "mine"


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 1\r\n")
    assert load_config(path).server.port == 1


SECTION, SETTING, VALUE = "unknown_section", "unknown_setting", "invalid_value"


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("[server]\nprot = 1", SETTING, "'server.prot'; did you mean server.port?"),
        ("[server]\nhistory_days = 1", SETTING, "did you mean storage.history_days?"),
        ("[segmentation]\nhangover = 1", SETTING, "did you mean segmentation.hangover_s?"),
        ('"a\\nb" = 1', SECTION, r"'a\nb'."),
        ('[server]\n"a\\nb" = 1', SETTING, r"'server.a\nb'."),
        ('[model]\nname = "~nobody-here/a"', VALUE, "model.name: expected a path, ~nobody-here/a"),
        ('[model]\nname = "/\\u0000"', VALUE, "model.name: expected a path."),
        ("[server]\nxyz = 1", SETTING, "'server.xyz'."),
        ("[servers]", SECTION, "'servers'; did you mean server?"),
        ("port = 1", SECTION, "'port'; did you mean server.port?"),
        ("server = 1", "not_a_table", "server must be a table, [server]."),
        ("[[server]]", "not_a_table", "server must be a table, [server]."),
        ('[server]\nport = "1"', VALUE, "server.port: expected `int`, got `str`."),
        ("[server]\nport = true", VALUE, "server.port: expected `int`, got `bool`."),
        ("[server]\nport = 70000", VALUE, "server.port: expected `int` <= 65535."),
        ("[server]\nport = -1", VALUE, "server.port: expected `int` >= 0."),
        ("[model]\nhotwords = [1]", VALUE, "model.hotwords[0]: expected `str`, got `int`."),
        ("[model]\nlanguages = 'en'", VALUE, "model.languages: expected `array`, got `str`."),
        ("[model]\nproviders = []", VALUE, "model.providers: expected `array` of length >= 1."),
        ("[model]\nencoder_window_s = 3", VALUE, "encoder_window_s: expected one of 1, 2, 4, 8."),
        ("[model]\naligner_idle_s = 0", VALUE, "model.aligner_idle_s: expected `float` >= 1.0."),
        ('[live]\ncommit = "never"', VALUE, "live.commit: expected one of agreement, endpoint."),
        ("[live]\npartial_interval_s = 0", VALUE, "live.partial_interval_s: expected `float` > 0"),
        ("[live]\npartial_interval_s = nan", VALUE, "partial_interval_s: expected `float` > 0.0."),
        (
            '[dictation]\nmode = "fast"',
            VALUE,
            "dictation.mode: expected one of stable, final, live",
        ),
        ('[dictation]\noutput = "x"', VALUE, "dictation.output: expected one of wtype, dotool,"),
        ("[dictation]\npre_roll_s = 11", VALUE, "dictation.pre_roll_s: expected `float` <= 10.0."),
        (
            "[dictation]\npush_to_talk = false\nhold = true",
            "settings_contradict",
            "[dictation] hold",
        ),
        ('[dictation]\nmode = "live"\noutput = "paste"', "settings_contradict", "[dictation] mode"),
        ("[dictation]\npre_roll = 1", SETTING, "did you mean dictation.pre_roll_s?"),
        ("[storage]\nhistory_days = -1", VALUE, "storage.history_days: expected `int` >= 0."),
        ("[microphone]\ninput = 1", VALUE, "microphone.input: expected a path, got `int`."),
        ('[microphone]\ninput = ""', VALUE, "microphone.input: expected a path."),
        ('[microphone]\ninput = "a\\u0000"', VALUE, "microphone.input: expected a path."),
        ('[microphone]\ninput = "~nobody-here/a"', VALUE, "no home directory"),
        (
            "[segmentation]\nhangover_s = 0.01",
            "value_out_of_range",
            "[segmentation] hangover (0.01",
        ),
        ("[vad]\naggressiveness = 9", "value_out_of_range", "[vad] aggressiveness is 9;"),
        ('[server]\nallow_origin = ["https://a.example/"]', "invalid_origin", "https://a.example/"),
        ('[server]\nallow_origin = ["a.example"]', "invalid_origin", "'a.example'"),
        ('[server]\nallow_origin = ["*"]', "invalid_origin", "'*'"),
        (f'[server]\nsocket = "/{"x" * 107}"', "socket_path_too_long", "107 bytes"),
        ('[download]\nendpoint = "ftp://a.example"', "invalid_url", "endpoint: 'ftp://a.example'"),
        ('[download]\nendpoint = "https://me:word@a.example"', "invalid_url", "user or password"),
        ('[download]\nendpoint = "https://a.example:x"', "invalid_url", "endpoint: Port could not"),
        ("models = 1", "not_a_table", "models must be a table, [models]."),
        ("[models]\nmine = 1", "not_a_table", "models.mine must be a table, [models.mine]."),
        ("[models.mine]", VALUE, "models.mine: expected either a repository or a url."),
        (
            '[models.mine]\nrepository = "x"',
            VALUE,
            "models.mine.repository: expected `str` matching",
        ),
        ('[models.mine]\nrepositry = "a/b"', SETTING, "'models.mine.repositry'; did you mean"),
        ("[models.mine]\nxyz = 1", SETTING, "'models.mine.xyz'; known are family, files,"),
        ('[models.q-0.6b]\nurl = "x"', SETTING, '[models."q-0.6b"].'),
        ('[models.mine]\nurl = "file:///etc"', VALUE, "models.mine: 'file:///etc'"),
        ('[models.mine]\nurl = "https://[a"', VALUE, "models.mine: invalid IPv6 URL."),
        (f'[models.mine]\nrepository = "a/b"\nsha256 = "{A_HASH}"', VALUE, "models.mine: sha256"),
        ('[models.mine]\nurl = "http://a/b"\nrevision = "x"', VALUE, "models.mine: revision"),
        ('[models.mine]\nurl = "http://a/b"\nsha256 = "AB"', VALUE, "models.mine.sha256: expected"),
        ('[models.mine]\nrepository = "a/b..c"', VALUE, "models.mine: repository"),
        (
            '[models.mine]\nrepository = "a/b"\nfamily = "x"',
            "unknown_family",
            "models.mine.family: ",
        ),
        ('[models.tiny]\nrepository = "a/b"', "invalid_model_name", "models: 'tiny'"),
        ('[models.".a"]\nrepository = "a/b"', "invalid_model_name", "models: '.a'"),
        ("x = [", "file_not_toml", "(at end of document)."),
        ("[server]\nport =\n", "file_not_toml", "(at line 2, column 7)."),
        ("x = " + 5000 * "[", "file_not_toml", ""),
    ],
)
def test_wrong_settings_are_refused_with_a_code_and_the_names_of_file_and_setting(
    path: Path, text: str, code: str, named: str
) -> None:
    with raises(ConfigError, code) as caught:
        load(path, text)
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    assert named in sentence
    assert "\n" not in sentence


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with raises(ConfigError, "no_such_file"):
        load_config(tmp_path / "none.toml")
    with raises(ConfigError, "file_unreadable"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with raises(ConfigError, "file_not_utf8"):
        load_config(tmp_path / "latin.toml")


LITERALS = [
    "1",
    "-1",
    "0.5",
    f"1{'0' * 30}",
    "nan",
    "inf",
    "true",
    '""',
    '"x"',
    "[]",
    "[[1]]",
    "{}",
]
LITERALS += ["1979-05-27", '["x"]', '"\\u0000"']


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.path)
def test_no_value_of_a_setting_ends_in_a_traceback(setting: Setting, path: Path) -> None:
    n_refused = 0
    for literal in LITERALS:
        try:
            load(path, f"[{setting.section}]\n{setting.key} = {literal}\n")
        except ConfigError as error:
            assert str(path) in str(error)  # noqa: PT017 - both ends are fine
            n_refused += 1
    assert n_refused >= len(LITERALS) // 2


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="ignore")))
@example(b"")
@example(b"\xff")
def test_no_file_ends_in_a_traceback(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        assert load_config(path) == Settings()  # it takes more luck to set something
    except ConfigError as error:
        assert str(path) in str(error)  # noqa: PT017 - both ends are fine


# The command line over the file


def test_the_command_line_wins_over_the_file(path: Path) -> None:
    config = load(
        path,
        "[server]\nport = 1\nmax_sessions = 2\n[log]\nlevel = 'error'",
        {"server": {"port": 3}},
    )
    assert (config.server.port, config.server.max_sessions, config.log.level) == (3, 2, "error")


def test_errors_on_the_command_line_are_not_blamed_on_the_file(path: Path) -> None:
    said = error_of(path, "[server]\nport = 1", {"server": {"port": 99999}})
    assert said == "command line: server.port: expected `int` <= 65535."
    said = error_of(path, "[server]\nport = 1", {"server": {"host": "0.0.0.0"}})
    assert said.startswith("command line: other machines")


# Where the file is


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    return two_places(tmp_path, monkeypatch)


def test_the_file_of_the_user_goes_before_that_of_the_system(places: tuple[Path, Path]) -> None:
    user, site = places
    assert config_places()[:2] == [user, site]
    assert find_config() is None
    site.touch()
    assert find_config() == site
    user.touch()
    assert find_config() == user


def test_a_named_file_is_used_even_if_it_is_missing(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    places[0].touch()
    monkeypatch.setenv("STREAMASR_CONFIG", "/named/by/environment")
    assert find_config() == Path("/named/by/environment")
    assert config_places() == [Path("/named/by/environment")]
    assert find_config(Path("/named")) == Path("/named")


# What it costs

SPY = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(module: str) -> set[str]:
    command = [sys.executable, "-c", SPY, module]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(json.loads(result.stdout))


@pytest.mark.process
def test_settings_load_nothing_heavy() -> None:
    heavy = {"onnxruntime", "llama_cpp", "av", "rich", "websockets", "asyncio", "platformdirs"}
    heavy |= {"numpy", "webrtcvad", "multiprocessing", "streamasr.engine"}
    assert not loaded_by("streamasr.config.file") & heavy


@pytest.mark.parametrize("child", ["encoder", "aligner"])
@pytest.mark.process
def test_a_child_loads_no_settings_but_the_values_it_is_given(child: str) -> None:
    loaded = loaded_by(f"streamasr.engine.{child}")
    assert "streamasr.engine.worker_config" in loaded
    assert not {name for name in loaded if name.startswith("streamasr.config")}
