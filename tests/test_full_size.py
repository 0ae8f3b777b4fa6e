"""The script that writes models of full size, tried on a small one."""

import json
from pathlib import Path

import numpy as np
import pytest

from streamasr.bench.machine import SCRIPTED
from streamasr.decoder.llama import LlamaModel
from streamasr.importing.bundle import export_checkpoint
from streamasr.importing.safetensors_checkpoint import read_checkpoint
from streamasr.models.bundle import read_bundle
from tests.checkpoints import Shape, tensor_shapes
from tests.full_size import ALIGNER, RECOGNISER, add_script, write_checkpoint

SMALL = Shape(vocab=4096)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "checkpoint"
    write_checkpoint(directory, SMALL)
    return directory


def n_weights(shape: Shape) -> float:
    return sum(float(np.prod(size)) for _, size in tensor_shapes(shape))


def test_the_dimensions_are_those_of_the_released_models() -> None:
    assert n_weights(RECOGNISER) == pytest.approx(782e6, rel=0.01)
    assert n_weights(ALIGNER) > n_weights(RECOGNISER)


def test_weights_are_scaled_so_that_every_stage_matters(checkpoint: Path) -> None:
    tensors = read_checkpoint(checkpoint).tensors
    norm = tensors["language_model.norm.weight"].float32()
    assert 0.5 <= norm.min() < norm.max() <= 1.5
    matrix = tensors["language_model.embed_tokens.weight"].float32()
    assert matrix.std() == pytest.approx(1.5 / np.sqrt(SMALL.hidden), rel=0.05)


def test_what_a_script_says_are_words(checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_checkpoint(checkpoint, bundle, decoder="f16")
    add_script(bundle, 4.0)
    read = read_bundle(bundle, "qwen3-asr")
    assert read.facts[SCRIPTED] == 4.0
    assert json.loads((bundle / "model.json").read_text("utf-8")) == read.facts
    model = LlamaModel(read.decoder)
    pieces = [model.piece(token) for token in range(SMALL.vocab // 4, SMALL.vocab // 2)]
    assert all(len(piece) == 5 and piece.startswith(b" ") for piece in pieces)
    assert len(model.tokenize(pieces[0].decode(), special=False)) == 1
    model.close()
