"""Names of the models in other programs' forms of ONNX graphs."""

import shutil
from pathlib import Path

import pytest

from streamasr.core.errors import ModelError
from streamasr.importing.source import open_sources
from tests.sources.ggml_org import write_ggml_org
from tests.sources.onnx_release import pack
from tests.sources.sherpa import FORMS, write_graph, write_sherpa
from tests.support.checkpoints import write_checkpoint
from tests.support.errors import raises


@pytest.mark.parametrize("name", FORMS)
def test_a_model_in_a_form_of_sherpa_onnx_is_named(tmp_path: Path, name: str) -> None:
    folder = write_sherpa(tmp_path / "sherpa", name)
    for given in (folder, tmp_path, *folder.glob("*.onnx")):
        with raises(ModelError, "foreign_graphs") as caught:
            open_sources(given)
        message = str(caught.value)
        assert f"{folder} contains {FORMS[name].title}, which is not supported; " in message
        assert "\n" not in message


def test_the_form_that_works_is_named_for_a_model_that_has_one(tmp_path: Path) -> None:
    folder = write_sherpa(tmp_path / "sherpa", "qwen3-asr")
    with raises(ModelError, "foreign_graphs") as caught:
        open_sources(pack(folder, tmp_path / "s.zip", "inner"), tmp_path / "scratch")
    assert "`streamasr models pull qwen3-asr-0.6b`" in str(caught.value)


def test_an_unknown_type_is_shown(tmp_path: Path) -> None:
    write_graph(tmp_path / "model.onnx", ("x",), {"model_type": "new\nmodel"})
    with raises(ModelError, "foreign_graphs") as caught:
        open_sources(tmp_path)
    assert "a model of the type new?model" in str(caught.value)


def test_graphs_of_a_detector_have_no_name(tmp_path: Path) -> None:
    write_graph(tmp_path / "vad.onnx", ("input", "sr", "state"), {})
    with raises(ModelError, "no_encoder_graphs"):
        open_sources(tmp_path)


def test_a_usable_model_beside_foreign_graphs_is_used(tmp_path: Path) -> None:
    folder = write_ggml_org(write_checkpoint(tmp_path / "c"), tmp_path / "both")
    for path in write_sherpa(tmp_path / "sherpa", "sense-voice").iterdir():
        shutil.copy(path, folder)
    assert open_sources(folder).recogniser is not None
