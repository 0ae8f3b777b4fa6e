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
from tests.support.settings import A_HASH, changed, complaint, load, two_places


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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[server]\nprot = 1", "there is no setting 'server.prot'; did you mean server.port?"),
        ("[server]\nhistory_days = 1", "did you mean storage.history_days?"),
        ("[segmentation]\nhangover = 1", "did you mean segmentation.hangover_s?"),
        ('"a\\nb" = 1', r"there is no section 'a\nb'."),
        ('[server]\n"a\\nb" = 1', r"there is no setting 'server.a\nb'."),
        ('[model]\nname = "~nobody-here/a"', "model.name: expected a path, ~nobody-here/a has"),
        ('[model]\nname = "/\\u0000"', "model.name: expected a path."),
        ("[server]\nxyz = 1", "there is no setting 'server.xyz'."),
        ("[servers]", "there is no section 'servers'; did you mean server?"),
        ("port = 1", "there is no section 'port'; did you mean server.port?"),
        ("server = 1", "server must be a table, [server]."),
        ("[[server]]", "server must be a table, [server]."),
        ('[server]\nport = "1"', "server.port: expected `int`, got `str`."),
        ("[server]\nport = true", "server.port: expected `int`, got `bool`."),
        ("[server]\nport = 70000", "server.port: expected `int` <= 65535."),
        ("[server]\nport = -1", "server.port: expected `int` >= 0."),
        ("[model]\nhotwords = [1]", "model.hotwords[0]: expected `str`, got `int`."),
        ("[model]\nproviders = []", "model.providers: expected `array` of length >= 1."),
        ("[model]\nencoder_window_s = 3", "model.encoder_window_s: expected one of 1, 2, 4, 8."),
        ("[model]\naligner_idle_s = 0", "model.aligner_idle_s: expected `float` >= 1.0."),
        ('[live]\ncommit = "never"', "live.commit: expected one of agreement, endpoint."),
        ("[live]\npartial_interval_s = 0", "live.partial_interval_s: expected `float` > 0.0."),
        ("[live]\npartial_interval_s = nan", "live.partial_interval_s: expected `float` > 0.0."),
        ('[dictation]\nmode = "fast"', "dictation.mode: expected one of stable, final, live."),
        ('[dictation]\noutput = "x"', "dictation.output: expected one of wtype, dotool, ydotool,"),
        ("[dictation]\npre_roll_s = 11", "dictation.pre_roll_s: expected `float` <= 10.0."),
        ("[dictation]\npush_to_talk = false\nhold = true", "[dictation] hold is a kind of push"),
        (
            '[dictation]\nmode = "live"\noutput = "paste"',
            "[dictation] mode live corrects by single",
        ),
        ("[dictation]\npre_roll = 1", "did you mean dictation.pre_roll_s?"),
        ("[storage]\nhistory_days = -1", "storage.history_days: expected `int` >= 0."),
        ("[microphone]\ninput = 1", "microphone.input: expected a path, got `int`."),
        ('[microphone]\ninput = ""', "microphone.input: expected a path."),
        ('[microphone]\ninput = "a\\u0000"', "microphone.input: expected a path."),
        ('[microphone]\ninput = "~nobody-here/a"', "no home directory"),
        ("[segmentation]\nhangover_s = 0.01", "[segmentation] hangover (0.01 s) must be at least"),
        ("[vad]\naggressiveness = 9", "[vad] aggressiveness is 9; it must be 0, 1, 2 or 3."),
        ('[server]\nallow_origin = ["https://a.example/"]', "'https://a.example/' is not what"),
        ('[server]\nallow_origin = ["a.example"]', "'a.example' is not what"),
        ('[server]\nallow_origin = ["*"]', "'*' is not what"),
        (f'[server]\nsocket = "/{"x" * 107}"', "socket: a path of more than 107 bytes"),
        ('[download]\nendpoint = "ftp://a.example"', "endpoint: 'ftp://a.example' is no address"),
        ('[download]\nendpoint = "https://me:word@a.example"', "no user and no password"),
        ('[download]\nendpoint = "https://a.example:x"', "endpoint: Port could not be cast"),
        ("models = 1", "models must be a table, [models]."),
        ("[models]\nmine = 1", "models.mine must be a table, [models.mine]."),
        ("[models.mine]", "models.mine: expected either a repository or a url."),
        ('[models.mine]\nrepository = "x"', "models.mine.repository: expected `str` matching"),
        (
            '[models.mine]\nrepositry = "a/b"',
            "setting 'models.mine.repositry'; did you mean repository?",
        ),
        ("[models.mine]\nxyz = 1", "'models.mine.xyz'; there are family, files,"),
        ('[models.q-0.6b]\nurl = "x"', 'with dots is quoted, as in [models."q-0.6b"].'),
        ('[models.mine]\nurl = "file:///etc"', "models.mine: 'file:///etc' is no address"),
        ('[models.mine]\nurl = "https://[a"', "models.mine: invalid IPv6 URL."),
        (f'[models.mine]\nrepository = "a/b"\nsha256 = "{A_HASH}"', "sha256 and size are of a url"),
        ('[models.mine]\nurl = "http://a/b"\nrevision = "x"', "are of a repository, not of a url"),
        ('[models.mine]\nurl = "http://a/b"\nsha256 = "AB"', "models.mine.sha256: expected `str`"),
        (
            '[models.mine]\nrepository = "a/b..c"',
            "models.mine: repository and revision hold no '..'",
        ),
        ('[models.mine]\nrepository = "a/b"\nfamily = "x"', "models.mine.family: expected one of"),
        ('[models.tiny]\nrepository = "a/b"', "models: 'tiny' is the name of the embedded model."),
        ('[models.".a"]\nrepository = "a/b"', "models: '.a' cannot be a model's name"),
        ("x = [", "is not TOML: Invalid value (at end of document)."),
        ("[server]\nport =\n", "is not TOML: Invalid value (at line 2, column 7)."),
        ("x = " + 5000 * "[", "is not TOML"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_that_names_file_and_setting(
    path: Path, text: str, sentence: str
) -> None:
    said = complaint(path, text)
    assert said.startswith(str(path))
    assert sentence in said
    assert "\n" not in said


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with raises(ConfigError, "no_such_file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"is not UTF-8: .* at byte 5"):
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


def test_what_the_command_line_says_wrong_is_not_blamed_on_the_file(path: Path) -> None:
    said = complaint(path, "[server]\nport = 1", {"server": {"port": 99999}})
    assert said == "command line: server.port: expected `int` <= 65535."
    said = complaint(path, "[server]\nport = 1", {"server": {"host": "0.0.0.0"}})
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


def test_a_file_that_was_named_is_taken_though_it_be_missing(
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
