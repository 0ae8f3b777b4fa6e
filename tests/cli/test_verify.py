"""`streamasr models verify`, on the embedded model."""

import json
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from streamasr.audio.file import open_audio
from streamasr.cli.verify import run_verify, show_report
from streamasr.core.errors import AudioError, ConfigError, ModelError
from streamasr.core.units import SAMPLE_RATE
from streamasr.doctor.verification import Check, Report
from streamasr.doctor.verify import built_in_clip, check_files
from streamasr.models import tiny
from streamasr.models.bundle import open_bundle
from tests.support.embedded import EmbeddedModel
from tests.support.errors import raises
from tests.support.fakes import talk, write_wav


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without settings and models."""
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("STREAMASR_CONFIG", raising=False)
    return tmp_path


def verified(capsys: pytest.CaptureFixture[str], name: str, **given: Any) -> tuple[int, Any]:
    silent = {"clip": None, "expect": None, "config": None, "json": True}
    code = run_verify(Namespace(name=name, **{**silent, **given}))
    return code, json.loads(capsys.readouterr().out)


def outcomes(report: Any) -> dict[str, bool | None]:
    return {check["name"]: check["passed"] for check in report["checks"]}


def copy_of(bundle: Path, directory: Path) -> Path:
    ignored = shutil.ignore_patterns("*.py", "__pycache__", "demo*")
    return Path(shutil.copytree(bundle, directory, ignore=ignored))


def test_the_facts_about_the_clip_are_right() -> None:
    clip = built_in_clip()
    assert clip.words
    assert clip.text == " ".join(text for text, _ in clip.words)
    borders = [border for _, span in clip.words for border in span]
    assert borders == sorted(borders)
    with open_audio(clip.path) as source:
        n_samples = sum(map(len, source.blocks()))
    assert borders[-1] + 0.5 == pytest.approx(n_samples / SAMPLE_RATE, abs=0.01)


def test_an_embedded_model_passes(
    capsys: pytest.CaptureFixture[str], embedded: EmbeddedModel
) -> None:
    code, report = verified(capsys, embedded.name)
    assert code == 0
    assert report["passed"]
    names = ("files", *(["files of the aligner"] if embedded.aligner else []), "loading", "text")
    assert outcomes(report) == dict.fromkeys((*names, "word times"), True)
    assert report["family"] == open_bundle(embedded.bundle).family.name
    assert report["text"] == report["expected"] == built_in_clip().text
    assert report["word_error_rate"] == 0
    assert report["time_error_ms"] < (60 if embedded.aligner else 80)
    assert set(report["stages"]) == set(embedded.stages)
    assert report["load_s"] > 0
    assert set(report["peak_memory"]) == {"main", *embedded.children}


def test_the_embedded_aligner_passes(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    code, report = verified(capsys, str(bundle / "aligner"))
    assert code == 0
    assert outcomes(report) == {"files": True, "loading": True, "word times": True}
    assert report["time_error_ms"] < 80
    assert set(report["stages"]) == {"align"}


def test_another_clip_is_compared_with_what_it_is_expected_to_say(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clip = built_in_clip().path
    code, report = verified(capsys, tiny.NAME, clip=clip, expect="Good morning. Please stop.")
    assert code == 1
    assert outcomes(report)["text"] is False
    assert outcomes(report)["word times"] is None
    code, report = verified(capsys, tiny.NAME, clip=clip)
    assert code == 0
    assert report["text"] == built_in_clip().text
    assert outcomes(report)["text"] is None


def test_a_person_sees_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    options = Namespace(
        name=tiny.NAME, clip=built_in_clip().path, expect="one", config=None, json=False
    )
    assert run_verify(options) == 1
    shown = capsys.readouterr().out
    for part in ("spoken      one", "recognised  good morning", "failed", "peak memory", "at most"):
        assert part in shown


def test_a_clip_without_sound_is_an_answer_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    silence = write_wav(tmp_path / "silence.wav", 0 * talk(1))
    code, report = verified(capsys, tiny.NAME, clip=silence, expect="one two")
    assert (code, report["text"], report["word_error_rate"]) == (1, "", 1)


def test_impossible_requests_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path
) -> None:
    with raises(ConfigError, "clip_missing"):
        verified(capsys, tiny.NAME, expect="one")
    with raises(ModelError, "unknown_model"):
        verified(capsys, "no-such-model")
    with raises(AudioError, "no_such_file"):
        verified(capsys, tiny.NAME, clip=tmp_path / "none.wav")
    with raises(ConfigError, "text_missing"):
        verified(capsys, str(bundle / "aligner"), clip=built_in_clip().path)


# Models that are broken


def test_a_file_with_another_hash_is_not_loaded(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    model = copy_of(bundle, tmp_path / "model")
    with (model / "decoder.gguf").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    code, report = verified(capsys, str(model))
    assert code == 1
    assert outcomes(report) == {"files": False}
    assert "decoder.gguf has changed since it was stored" in report["checks"][0]["detail"]


def test_a_missing_file_is_named(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    model = copy_of(bundle, tmp_path / "model")
    (model / "encoder_backend.onnx").unlink()
    code, report = verified(capsys, str(model))
    assert code == 1
    assert "encoder_backend.onnx does not exist" in report["checks"][0]["detail"]


def test_a_model_that_cannot_be_loaded_fails(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    model = copy_of(bundle, tmp_path / "model")
    facts = json.loads((model / "model.json").read_text())
    del facts["files"]
    (model / "model.json").write_text(json.dumps(facts))
    (model / "encoder_backend.onnx").write_bytes(b"nonsense")
    code, report = verified(capsys, str(model))
    assert code == 1
    assert outcomes(report) == {"files": None, "files of the aligner": True, "loading": False}
    assert "onnxruntime cannot load this file" in report["checks"][-1]["detail"]


def test_a_recogniser_as_aligner_fails(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    model = copy_of(bundle, tmp_path / "model")
    shutil.copy(model / "model.json", model / "aligner" / "model.json")
    code, report = verified(capsys, str(model))
    assert code == 1
    assert outcomes(report) == {"files": True, "files of the aligner": False, "loading": False}
    assert "is a recogniser; use it as --model" in report["checks"][1]["detail"]


def test_a_random_file_in_place_of_settings_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").write_bytes(b"\xff\x00 = ?")
    with pytest.raises(ConfigError):
        verified(capsys, tiny.NAME, config=tmp_path / "settings.toml")


def test_an_encoder_of_few_bits_is_warned_of(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    model = copy_of(bundle, tmp_path / "model")
    facts = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**facts, "encoder_bits": 4}))
    code, report = verified(capsys, str(model))
    assert code == 0
    [warning] = report["warnings"]
    assert "weights of 4 bits" in warning


def test_an_aligner_of_few_bits_is_warned_of(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    model = copy_of(bundle / "aligner", tmp_path / "model")
    facts = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**facts, "encoder_bits": 4}))
    code, report = verified(capsys, str(model))
    assert code == 0
    [warning] = report["warnings"]
    assert "weights of 4 bits, which make the times of words less exact" in warning


def test_a_stage_without_work_has_no_speed(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    model = copy_of(bundle, tmp_path / "model")
    shutil.rmtree(model / "aligner")
    config = tmp_path / "settings.toml"
    config.write_text('model.aligner = "none"\n')
    code, report = verified(capsys, str(model), config=config)
    assert code == 0
    assert outcomes(report)["word times"] is None
    assert set(report["stages"]) == {"encode", "prefill", "verify", "decode"}


def test_files_without_hashes_are_not_judged(bundle: Path, tmp_path: Path) -> None:
    model = copy_of(bundle, tmp_path / "model")
    facts = json.loads((model / "model.json").read_text())
    del facts["files"]
    (model / "model.json").write_text(json.dumps(facts))
    assert check_files(open_bundle(model)).passed is None
    assert check_files(open_bundle(bundle)).passed is True


def test_a_report_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2Jb\x9b\rc\nd"
    check = Check("loading", False, evil)
    report = Report(evil, "f", evil, (check,), text=evil, expected=evil, warnings=(evil,))
    report = replace(report, word_error_rate=0.0)
    show_report(report, Console())
    shown = capsys.readouterr().out
    assert shown.count("a\ufffd[2Jb\ufffd c d") == 7
    assert {letter for letter in shown if not letter.isprintable()} == {"\n"}


def test_a_report_of_nothing_but_a_failure_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    check = Check("files", False, "[bold]a.onnx[/] is missing")
    show_report(Report("mine [x]", "f", "/d [y]", (check,)), Console())
    shown = capsys.readouterr().out
    for part in ("mine [x]", "/d [y]", "[bold]a.onnx[/] is missing", "failed"):
        assert part in shown
