"""The file of settings: what it may say, what it says when printed, what a reload takes from it."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamasr.catalogue.known import KnownModel
from streamasr.commands.config import manual, markdown, overrides_from, run_config, toml
from streamasr.config import listing
from streamasr.config.changes import compare, reload
from streamasr.config.cores import (
    MAX_THREADS,
    Threads,
    available_cores,
    cores_of_quota,
    share_cores,
)
from streamasr.config.door import is_loopback, read_token
from streamasr.config.file import config_places, find_config, load_config
from streamasr.config.listing import Setting, settings
from streamasr.config.notes import RELOAD, RESTART
from streamasr.config.recognition import RecognitionConfig
from streamasr.config.sections import DaemonConfig, ServerConfig
from streamasr.errors import ConfigError
from streamasr.models.languages import language_name
from streamasr.segmentation.chunker import ChunkerConfig
from streamasr.segmentation.vad import VadConfig

README = Path(__file__).parent.parent / "README.md"

TOKEN = "correct-horse-battery"

a_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
a_name = a_text.filter(bool)
a_path = a_name.filter(lambda text: "\0" not in text).map(lambda text: Path("/", text[:20]))
a_time = st.floats(0.001, 1e9) | st.integers(1, 10**9).map(float)


def times(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high)


A_HASH = "0123456789abcdef" * 4

a_known_model = st.builds(
    KnownModel,
    repository=st.sampled_from(["Qwen/Qwen3-ASR-0.6B", "a/b"]),
    revision=st.sampled_from(["main", "refs/pr/1", "0a1b"]),
    files=st.lists(a_name, max_size=2).map(tuple),
    title=a_text,
    family=st.sampled_from([None, "qwen3-asr", "qwen3-forced-aligner"]),
    languages=st.lists(a_text, max_size=2).map(tuple),
    licence=a_text,
) | st.builds(
    KnownModel,
    url=st.sampled_from(["https://h.example/a.zip", "http://h.example:80/b?c=d"]),
    sha256=st.none() | st.just(A_HASH),
    size=st.none() | st.integers(1, 1 << 40),
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model.name": a_name.filter(lambda text: "/" not in text and "\0" not in text),
    "model.language": st.none() | a_text,
    "model.context": a_text,
    "model.hotwords": st.lists(a_name, max_size=3).map(tuple),
    "model.threads": st.none() | st.integers(1, 512),
    "model.providers": st.lists(a_name, min_size=1, max_size=3).map(tuple),
    "model.gpu_layers": st.integers(-1, 10_000),
    "model.gpu": st.none() | st.integers(0, 100) | a_name,
    "model.aligner": st.none() | a_name.filter(lambda text: "/" not in text and "\0" not in text),
    "model.aligner_gpu": st.booleans(),
    "model.encoder_window_s": st.sampled_from([1, 2, 4, 8]),
    "model.aligner_idle_s": st.floats(1, 1e9),
    "model.reuse": st.booleans(),
    "server.host": st.sampled_from(["127.0.0.1", "127.8.8.8", "::1", "LocalHost"]),
    "server.port": st.integers(0, 65535),
    "server.socket": st.none() | a_path,
    "server.token_file": st.none(),  # it must exist: see the tests of tokens
    "server.allow_origin": st.lists(
        st.sampled_from(["https://notes.example", "http://localhost:3000", "moz-extension://a-b"]),
        max_size=3,
    ).map(tuple),
    "server.max_sessions": st.integers(1, 10_000),
    "server.resume_s": a_time | st.just(0.0),
    "server.max_lag_s": a_time,
    "server.stop_timeout_s": a_time,
    "microphone.enabled": st.booleans(),
    "microphone.device": st.none() | st.integers(0, 100) | a_name,
    "microphone.input": st.none() | a_path,
    "microphone.speed": st.floats(0.001, 1000),
    "live.partials": st.booleans(),
    "live.partial_interval_s": a_time,
    "live.commit": st.sampled_from(["agreement", "endpoint"]),
    "live.commit_lag_tokens": st.integers(0, 1000),
    "live.commit_lag_s": a_time | st.just(0.0),
    "live.words": st.booleans(),
    "segmentation.pre_roll_s": times(0, 5),
    "segmentation.hangover_s": times(0.5, 5),
    "segmentation.trailing_silence_s": times(0, 0.5),
    "segmentation.pause_s": times(0, 5),
    "segmentation.min_speech_s": times(0, 5),
    "segmentation.onset_gap_s": times(0.03, 5),
    "segmentation.max_segment_s": times(10, 1000),
    "segmentation.cut_search_s": times(1, 10),
    "segmentation.cut_window_s": times(0.03, 1),
    "segmentation.chunk_s": times(0.03, 5),
    "vad.aggressiveness": st.integers(0, 3),
    "vad.noise_db": times(-100, 0),
    "vad.max_gain_db": times(0, 60),
    "vad.minimum_db": times(-100, 0),
    "vad.floor_window_s": times(0.5, 60),
    "storage.directory": a_path,
    "storage.spool": st.booleans(),
    "storage.history_days": st.integers(0, 36_500),
    "storage.models": a_path,
    "download.endpoint": st.sampled_from(["https://hf.example", "http://127.0.0.1:8000/mirror"]),
    "download.timeout_s": times(1, 3600),
    "download.attempts": st.integers(1, 100),
    "log.level": st.sampled_from(["debug", "info", "warning", "error"]),
}
"""Section and key -> values that may stand there."""


@st.composite
def configs(draw: st.DrawFn) -> DaemonConfig:
    """Settings of which any number are at their default."""
    some = {path: draw(VALUES[path]) for path in draw(st.sets(st.sampled_from([*VALUES])))}
    names = st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,9}", fullmatch=True).filter("tiny".__ne__)
    models = draw(st.dictionaries(names, a_known_model, max_size=2))
    return msgspec.structs.replace(changed(some), models=models)


def changed(values: dict[str, Any]) -> DaemonConfig:
    """The default settings but for these: path -> value."""
    config = DaemonConfig()
    for one in settings():
        if one.path in values:
            section = msgspec.structs.replace(
                getattr(config, one.section), **{one.name: values[one.path]}
            )
            config = msgspec.structs.replace(config, **{one.section: section})
    return config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return write_token(tmp_path / "token", f"{TOKEN}\n".encode())


def write_token(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def load(path: Path, text: str, overrides: dict[str, dict[str, Any]] | None = None) -> DaemonConfig:
    path.write_text(text, "utf-8")
    return load_config(path, overrides)


def complaint(path: Path, text: str, overrides: dict[str, dict[str, Any]] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, text, overrides)
    return str(caught.value)


# What a file may say


def test_no_file_and_an_empty_one_mean_the_defaults(path: Path) -> None:
    assert load_config(None) == DaemonConfig()
    assert load(path, "") == DaemonConfig()
    assert load(path, "[server]\n[vad]\n") == DaemonConfig()


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
    """
    config = load(path, text)
    assert config.model.name == str(path.parent / "models/mine")
    assert config.microphone.input == path.parent / "../talk.flac"
    assert config.storage.directory == Path("/home/ada/speech")
    assert config.server.socket == Path("/run/streamasr")


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
        ("[storage]\nhistory_days = -1", "storage.history_days: expected `int` >= 0."),
        ("[microphone]\ninput = 1", "microphone.input: expected a path, got `int`."),
        ('[microphone]\ninput = ""', "microphone.input: expected a path."),
        ('[microphone]\ninput = "a\\u0000"', "microphone.input: expected a path."),
        ('[microphone]\ninput = "~nobody-here/a"', "no home directory"),
        ("[segmentation]\nhangover_s = 0.01", "[segmentation] hangover (0.01 s) must be at least"),
        ("[vad]\naggressiveness = 9", "[vad] aggressiveness must be 0, 1, 2 or 3; it is 9."),
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
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file"):
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
        assert load_config(path) == DaemonConfig()  # it takes more luck to set something
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


def options(**given: Any) -> Namespace:
    """What `streamasr run` was started with."""
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
    with pytest.raises(ConfigError, match="takes the place of"):
        overrides_from(options(**given))


# Who may connect


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.9", "::1", "localhost", "LOCALHOST"])
def test_a_loopback_address_needs_no_token(path: Path, host: str) -> None:
    assert is_loopback(host)
    assert load(path, f'[server]\nhost = "{host}"').server.host == host


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.0.1", "example.org", "localhost.example", "127.1", "fe80::1", "*"],
)
def test_an_address_that_others_may_reach_needs_a_token(
    path: Path, host: str, token_file: Path
) -> None:
    text = f'[server]\nhost = "{host}"\n'
    assert f"{path}: other machines could connect to {host!r}" in complaint(path, text)
    assert load(path, f'{text}token_file = "token"').server.token_file == token_file


def test_a_unix_socket_needs_no_token(path: Path) -> None:
    assert load(path, '[server]\nhost = "0.0.0.0"\nsocket = "s"').server.socket


def test_the_token_is_what_the_file_holds_without_the_space_around_it(tmp_path: Path) -> None:
    assert read_token(write_token(tmp_path / "token", f"\n {TOKEN}\r\n".encode())) == TOKEN
    assert read_token(write_token(tmp_path / "other", TOKEN.encode(), mode=0o400)) == TOKEN


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"seven77", b"two words", b"caf\xc3\xa9-caf\xc3\xa9", b"a" * 513]
)
def test_a_token_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="8 to 512 printable") as caught:
        read_token(write_token(tmp_path / "token", content))
    assert not content.strip() or content.decode() not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o610])
def test_a_token_that_others_can_use_is_refused(mode: int, token_file: Path) -> None:
    token_file.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {token_file}"):
        read_token(token_file)


def test_a_token_file_that_is_no_file_is_refused_when_settings_are_read(path: Path) -> None:
    assert "cannot be read: No such file" in complaint(path, '[server]\ntoken_file = "none"')
    assert "is not a regular file" in complaint(path, '[server]\ntoken_file = "."')
    os.mkfifo(path.parent / "pipe", 0o600)  # which would not answer
    assert "is not a regular file" in complaint(path, '[server]\ntoken_file = "pipe"')


# What holds when


def test_every_setting_says_when_it_holds() -> None:
    assert {one.path for one in settings()} == set(VALUES)
    assert {one.effect for one in settings()} == {RELOAD, RESTART}


def test_a_new_setting_that_does_not_say_so_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(msgspec.Struct, frozen=True):
        new: int = 1

    class Sections(msgspec.Struct):
        silent: Silent = Silent()
        spoken: Annotated[Silent, RELOAD] = Silent()

    monkeypatch.setattr(listing, "DaemonConfig", Sections)
    with pytest.raises(TypeError, match=r"silent\.new is neither for RELOAD nor for RESTART"):
        settings.__wrapped__()


@given(configs())
def test_nothing_has_changed_between_equal_settings(config: DaemonConfig) -> None:
    changes = compare(config, config)
    assert (changes.applied, changes.needs_restart) == ((), ())
    assert reload(config, config) == config


@given(configs(), configs())
def test_a_reload_takes_over_what_it_can_and_leaves_the_rest(
    running: DaemonConfig, wanted: DaemonConfig
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


def test_a_reload_knows_what_it_cannot_take_over() -> None:
    wanted = changed(
        {
            "server.port": 1,
            "model.name": "other",
            "segmentation.max_segment_s": 30.0,
            "segmentation.hangover_s": 0.9,
            "log.level": "debug",
        }
    )
    changes = compare(DaemonConfig(), wanted)
    assert changes.applied == ("segmentation.hangover_s", "log.level")
    assert changes.needs_restart == ("model.name", "server.port", "segmentation.max_segment_s")


def test_a_reload_cannot_take_the_token_from_an_open_door() -> None:
    running = DaemonConfig(server=ServerConfig(host="0.0.0.0", token_file=Path("/token")))
    with pytest.raises(ConfigError, match=r"other machines could connect to '0\.0\.0\.0'"):
        reload(running, DaemonConfig())


# What the engine gets


def find_path(name: str) -> Path:
    return Path("/models", name)


def find_aligner(name: str | None, recogniser: Path) -> Path | None:
    assert recogniser == Path("/models/mine")
    return Path("/models", name) if name else None


def no_aligner(_name: str | None, _recogniser: Path) -> None:
    return None


def test_no_aligner_is_looked_for_where_nobody_wants_words() -> None:
    config = changed({"live.words": False, "model.aligner": "theirs"})
    recognition = config.recognition(find_path, find_aligner, language_name)
    assert (recognition.words, recognition.aligner) == (False, None)


def test_the_engine_gets_what_was_set() -> None:
    config = changed(
        {
            "model.name": "mine",
            "model.language": "en",
            "model.context": "Ada",
            "model.hotwords": ("Grace",),
            "model.threads": 3,
            "model.encoder_window_s": 2,
            "model.aligner_idle_s": 60.0,
            "model.gpu_layers": 12,
            "model.gpu": "CUDA0",
            "model.providers": ("CUDAExecutionProvider",),
            "model.aligner": "theirs",
            "model.aligner_gpu": True,
            "model.reuse": False,
            "live.partial_interval_s": 0.7,
            "live.commit_lag_tokens": 2,
            "live.commit_lag_s": 0.1,
        }
    )
    recognition = config.recognition(find_path, find_aligner, language_name)
    assert recognition.model == Path("/models/mine")
    assert recognition.language == "English"
    assert (recognition.context, recognition.hotwords) == ("Ada", ("Grace",))
    assert (recognition.threads, recognition.words) == (3, True)
    assert recognition.aligner == Path("/models/theirs")
    assert (recognition.gpu_layers, recognition.gpu) == (12, "CUDA0")
    assert recognition.providers == ("CUDAExecutionProvider",)
    assert recognition.aligner_gpu
    assert recognition.partial_interval_s == 0.7
    assert (recognition.encoder_window_s, recognition.aligner_idle_s) == (2, 60)
    assert not recognition.reuse
    assert (recognition.vad, recognition.chunker) == (VadConfig(), ChunkerConfig())


def test_the_engine_gets_no_number_for_what_is_switched_off() -> None:
    config = changed({"live.partials": False, "live.commit": "endpoint", "model.language": ""})
    recognition = config.recognition(Path, no_aligner, language_name)
    assert recognition.partial_interval_s is None
    assert recognition.language is None
    assert recognition.threads is None


@given(st.integers(0, 1000))
def test_each_stage_has_a_thread_at_least_and_no_more_than_help(n_cores: int) -> None:
    threads = share_cores(n_cores)
    for n in (threads.encoder, threads.decoder, threads.aligner):
        assert 1 <= n <= max(1, min(n_cores, MAX_THREADS))


@pytest.mark.parametrize(
    ("n_cores", "threads"),
    [
        (1, Threads(1, 1, 1)),
        (2, Threads(2, 2, 2)),
        (4, Threads(4, 4, 2)),
        (8, Threads(8, 8, 4)),
        (64, Threads(8, 8, 4)),
    ],
)
def test_cores_are_shared_as_documented(n_cores: int, threads: Threads) -> None:
    assert share_cores(n_cores) == threads


def test_threads_that_were_set_are_those_of_each_stage() -> None:
    assert RecognitionConfig(Path(), threads=3).stage_threads == Threads(3, 3, 3)
    assert RecognitionConfig(Path()).stage_threads == share_cores(available_cores())


def test_an_unknown_language_is_an_error_of_settings() -> None:
    with pytest.raises(ConfigError, match="Klingon"):
        changed({"model.language": "Klingon"}).recognition(Path, no_aligner, language_name)


# Where the file is


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.delenv("STREAMASR_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", f"{tmp_path / 'site'}:{tmp_path / 'other'}")
    for name in ("user", "site"):
        (tmp_path / name / "streamasr").mkdir(parents=True)
    return tmp_path / "user/streamasr/config.toml", tmp_path / "site/streamasr/config.toml"


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


# What is printed


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(configs())
@example(changed({"microphone.device": '"\\\x7f\n\t\u2028#', "model.context": "一\U0001f600'''"}))
def test_what_is_printed_loads_back_to_the_same_settings(path: Path, config: DaemonConfig) -> None:
    assert load(path, toml(config, path)) == config


def test_a_token_file_and_an_open_door_load_back_too(path: Path, token_file: Path) -> None:
    server = ServerConfig(host="0.0.0.0", token_file=token_file)
    assert load(path, toml(DaemonConfig(server=server))).server == server


def test_defaults_are_commented_out_and_changes_are_not(path: Path) -> None:
    config = changed({"server.port": 1, "live.partials": False})
    active = [line for line in toml(config).splitlines() if line and line[0] not in "#["]
    assert active == ["port = 1", "partials = false"]


def test_every_default_and_example_can_be_uncommented(path: Path, token_file: Path) -> None:
    lines = toml(DaemonConfig()).splitlines()
    uncommented = [line[1:] if line[:1] == "#" and line[1:2].strip() else line for line in lines]
    shown = [one for one in settings() if not one.is_hidden]
    assert sum(" = " in line for line in uncommented if line[:1] != "#") == len(shown)
    config = load(path, "\n".join(uncommented))
    examples = {one.path for one in settings() if one.value(DaemonConfig()) is None}
    assert {*compare(DaemonConfig(), config).applied} == examples & {
        "model.language",
        "server.token_file",
    }
    without = [line for line in uncommented if "an example" not in line]
    assert load(path, "\n".join(without)) == DaemonConfig()


def test_every_setting_has_a_manual() -> None:
    for one in settings():
        text = manual(one.section)[one.name]
        assert text.endswith("."), one.path
        assert len(text) > 20, one.path


def test_no_line_is_too_long() -> None:
    assert max(map(len, toml(DaemonConfig()).splitlines())) <= 96


def test_a_file_with_an_odd_name_stays_in_its_comment(path: Path) -> None:
    odd = path.with_name("a\n[server]\nport = 'x'\udcff.toml")
    text = toml(DaemonConfig(), odd)
    assert r"a\n[server]\nport = 'x'\udcff.toml" in text.splitlines()[0]
    assert load(path, text) == DaemonConfig()


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"/a\\udcff is not UTF-8"):
        toml(changed({"storage.directory": Path("/a\udcff")}))


def ask(**given: Any) -> Namespace:
    return Namespace(
        **{"config": None, "default": False, "path": False, "markdown": False, **given}
    )


def test_config_prints_the_settings_of_its_file(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text("server.port = 7")
    assert run_config(ask(config=path)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"# Settings of streamasr: from {path}\n")
    assert "\nport = 7\n" in printed
    run_config(ask(config=path, default=True))
    assert "\n#port = 8765\n" in capsys.readouterr().out


def test_config_prints_where_the_file_is_looked_for(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_config(ask(path=True))
    assert capsys.readouterr().out.splitlines()[:2] == [str(place) for place in places]
    run_config(ask(path=True, config=Path("/named")))
    assert capsys.readouterr().out == "/named\n"


def test_config_without_a_file_prints_defaults(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_config(ask())
    assert capsys.readouterr().out == toml(DaemonConfig())


def test_the_tables_of_the_readme_are_in_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    run_config(ask(markdown=True))
    tables = capsys.readouterr().out
    assert tables == markdown()
    assert all((f"| `{one.key}`" in tables) is not one.is_hidden for one in settings())
    assert tables in README.read_text("utf-8")


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


def test_settings_load_nothing_heavy() -> None:
    heavy = {"onnxruntime", "llama_cpp", "av", "rich", "websockets", "asyncio", "platformdirs"}
    assert not loaded_by("streamasr.config.file") & heavy


@pytest.mark.parametrize("child", ["encoder", "aligner"])
def test_a_child_loads_no_settings_but_the_values_it_is_given(child: str) -> None:
    loaded = {
        name for name in loaded_by(f"streamasr.workers.{child}") if "streamasr.config" in name
    }
    assert loaded == {"streamasr.config", "streamasr.config.workers"}


@pytest.mark.parametrize(
    ("quota", "n_cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("", 8),
        ("100000 0", 8),
        ("many", 8),
    ],
)
def test_a_container_has_the_cores_of_its_quota(quota: str, n_cores: int) -> None:
    assert cores_of_quota(quota, 8) == n_cores
