"""The options of `streamasr transcribe`."""

from pathlib import Path

import msgspec
import pytest

from streamasr.cli.main import parse
from streamasr.cli.transcribe import (
    SEGMENTATION_HELP,
    engine_of,
    file_settings,
    formats_of,
    output_paths,
)
from streamasr.core.errors import ConfigError, ModelError
from streamasr.models import tiny
from streamasr.segmentation.settings import ChunkerConfig, VadConfig
from streamasr.segmentation.vad import VoiceDetector
from tests.sources.ct_punc import MARKS, WORDS, Shape, random_weights, write_bundle
from tests.support import toy_family
from tests.support.errors import raises


def test_formats_are_asked_for_once_each() -> None:
    options = parse(["transcribe", "a", "--output-dir", "x", *["--format", "srt"] * 2])
    assert formats_of(options) == ["srt"]
    assert formats_of(parse(["transcribe", "a"])) == ["txt"]


def test_options_become_configuration() -> None:
    arguments = "a --model tiny --language zh --context Ada --no-words --threads 3 --hangover 0.9"
    options = parse(["transcribe", *arguments.split(), "--aggressiveness", "3"])
    config = engine_of(options)
    wanted = config.options
    assert (wanted.language, wanted.context, wanted.words) == ("Chinese", "Ada", False)
    assert config.aligner is None
    assert (config.encoder_window_s, config.reuse, config.hardware.threads) == (8, True, 3)
    settings = file_settings(options, config)
    assert settings.options == wanted
    assert (settings.chunker.hangover, settings.vad.aggressiveness) == (0.9, 3)
    assert not settings.options.partials
    VoiceDetector(settings.vad)  # webrtcvad takes whole numbers alone


def test_settings_complete_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "config.toml"
    model = f'name = "{tiny.BUNDLE}"\naligner = "none"\nthreads = 5\nencoder_window_s = 4\n'
    settings.write_text(f'[model]\n{model}language = "German"\n')
    monkeypatch.setenv("STREAMASR_CONFIG", str(settings))
    config = engine_of(parse(["transcribe", "a"]))
    assert (config.model, config.aligner) == (tiny.BUNDLE, None)
    assert (config.hardware.threads, config.encoder_window_s) == (5, 4)
    assert config.options.language is None  # that of the microphone
    config = engine_of(parse(["transcribe", "a", "--threads", "1", "--model", "tiny"]))
    assert config.hardware.threads == 1


def test_the_encoder_and_its_reuse_can_be_set() -> None:
    config = engine_of(parse(["transcribe", "a", "--encoder-window", "2", "--no-reuse"]))
    assert (config.encoder_window_s, config.reuse) == (2, False)


@pytest.mark.parametrize(
    ("arguments", "layers", "gpu"),
    [
        ([], -1, None),
        (["--gpu-layers", "0"], 0, None),
        (["--gpu-layers", "-1", "--gpu", "CUDA0"], -1, "CUDA0"),
        (["--gpu-layers", "12", "--gpu", "1"], 12, 1),
        (["--gpu", "³"], -1, "³"),
    ],
)
def test_a_gpu_is_given_by_number_or_name(
    arguments: list[str], layers: int, gpu: int | str | None
) -> None:
    config = engine_of(parse(["transcribe", "a", *arguments]))
    assert (config.hardware.gpu_layers, config.hardware.gpu) == (layers, gpu)


@pytest.mark.parametrize("layers", ["-2", "1.5", "nan", "inf", "all", "100000"])
def test_other_numbers_of_layers_are_refused(
    layers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["transcribe", "a", f"--gpu-layers={layers}"])
    assert f"{layers} is not a number" in capsys.readouterr().err


def test_an_aligner_is_given_by_path_or_left_out(bundle: Path) -> None:
    def aligner(*arguments: str) -> Path | None:
        return engine_of(parse(["transcribe", "a", *arguments])).aligner

    assert aligner() == bundle / "aligner"
    assert aligner("--aligner", "none") is None
    assert aligner("--no-words") is None
    assert aligner("--aligner", str(bundle / "aligner")) == bundle / "aligner"
    with raises(ModelError, "unknown_model"):
        aligner("--aligner", "no-such-aligner")


def test_a_punctuation_model_is_for_recognisers_that_do_not_punctuate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = random_weights(Shape(), len(WORDS), len(MARKS))
    marks = write_bundle(tmp_path / "marks", weights)

    def punctuation(*arguments: str) -> Path | None:
        return engine_of(parse(["transcribe", "a", *arguments])).punctuation

    assert punctuation("--punctuation", str(marks)) is None
    assert "marks is not used" in capsys.readouterr().err
    with toy_family.registered():
        model = ("--model", str(toy_family.write_bundle(tmp_path / "loudness")))
        assert punctuation(*model) is None
        assert punctuation(*model, "--punctuation", str(marks)) == marks
        assert punctuation(*model, "--punctuation", "none") is None


def test_the_help_states_the_defaults_of_segmentation() -> None:
    defaults = msgspec.structs.asdict(VadConfig()) | msgspec.structs.asdict(ChunkerConfig())
    for name, text in SEGMENTATION_HELP.items():
        assert text.endswith(f"; default {defaults[name]:g}")


@pytest.mark.parametrize("command", ["transcribe", "run"])
def test_options_for_measurements_are_hidden(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    assert "reuse" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--language", "klingon"],
        ["--hangover", "-1"],
        ["--hangover", "nan"],
        ["--minimum-db", "9"],
        ["--max-segment", "1"],
    ],
)
def test_values_that_cannot_work_are_refused(arguments: list[str]) -> None:
    options = parse(["transcribe", "a", *arguments])
    with pytest.raises(ConfigError):
        file_settings(options, engine_of(options))


def test_one_file_per_input_and_format(tmp_path: Path) -> None:
    paths = output_paths(["d/a.wav", "-"], ["txt", "srt"], tmp_path / "new" / "directory")
    assert {name: [path.name for _, path in each] for name, each in paths.items()} == {
        "d/a.wav": ["a.txt", "a.srt"],
        "-": ["stdin.txt", "stdin.srt"],
    }
    assert (tmp_path / "new" / "directory").is_dir()


def test_inputs_of_the_same_stem_keep_their_endings(tmp_path: Path) -> None:
    paths = output_paths(["a.wav", "a.mp3", "b.wav"], ["txt"], tmp_path)
    assert [path.name for [(_, path)] in paths.values()] == ["a.wav.txt", "a.mp3.txt", "b.txt"]


@pytest.mark.parametrize("files", [["x/a.wav", "y/a.wav"], ["a.wav", "a.wav"]])
def test_inputs_of_the_same_name_are_refused(tmp_path: Path, files: list[str]) -> None:
    with raises(ConfigError, "inputs_with_one_name"):
        output_paths(files, ["txt"], tmp_path)


def test_an_output_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(ConfigError, "directory_not_made"):
        output_paths(["a"], ["txt"], tmp_path / "file")


def test_languages_are_checked_and_named_as_the_model_does() -> None:
    config = engine_of(parse(["transcribe", "a", "--languages", "en, Chinese,zh"]))
    assert config.options.languages == ("English", "Chinese")
    with raises(ConfigError, "unknown_language"):
        engine_of(parse(["transcribe", "a", "--languages", "en,klingon"]))
    with pytest.raises(SystemExit):
        parse(["transcribe", "a", "--languages", "en,"])
