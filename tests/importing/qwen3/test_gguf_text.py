"""Language models as GGUF: llama.cpp gets only files that it can run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.qwen3.gguf_text import check_decoder, read_text_model
from streamasr.importing.qwen3.gguf_writer import write_decoder as write_own_decoder
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from streamasr.models.qwen3.names import ALIGNER, RECOGNISER
from tests.sources.decoder import DecoderOptions, write_decoder
from tests.sources.onnx_release import DecoderType, write_release_decoder
from tests.sources.weights import Weights
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    """Return an aligner's decoder as in the ONNX releases."""
    folder = tmp_path_factory.mktemp("a")
    weights = Weights(write_checkpoint(folder / "c", Shape(n_classes=50)))
    write_decoder(weights, folder / "a.gguf", DecoderOptions())
    return read_gguf(folder / "a.gguf")


@pytest.mark.parametrize(
    "options",
    [
        DecoderOptions(),
        DecoderOptions(architecture="qwen3"),
        DecoderOptions(has_output=False),
        DecoderOptions(kind=Type.BF16, has_chat_template=True, begin="<|im_end|>"),
    ],
)
def test_files_of_the_known_converters_are_accepted(
    tmp_path: Path, checkpoint: Path, options: DecoderOptions
) -> None:
    write_decoder(Weights(checkpoint), tmp_path / "d.gguf", options)
    dimensions, vocabulary = read_text_model(read_gguf(tmp_path / "d.gguf"))
    expected = read_checkpoint(checkpoint)
    assert dimensions.rms_eps == pytest.approx(expected.text.rms_eps)
    assert replace(dimensions, rms_eps=expected.text.rms_eps) == expected.text
    assert vocabulary == expected.read_vocabulary()


def test_an_aligners_decoder_is_not_accepted_as_a_recognisers(padded: GGUFFile) -> None:
    dimensions, vocabulary = read_text_model(padded, ALIGNER)
    assert dimensions.vocab == len(vocabulary.tokens) == 320
    with raises(ModelError, "aligner_decoder"):
        read_text_model(padded, RECOGNISER)


@pytest.mark.parametrize("decoder", ["f16", "q8_0", "q4_k", "q5_k"])
def test_an_aligners_decoder_is_identified_in_every_type(
    tmp_path: Path, decoder: DecoderType
) -> None:
    shape = Shape(hidden=256, ffn=256, n_classes=50)
    weights = Weights(write_checkpoint(tmp_path / "c", shape))
    write_release_decoder(weights, tmp_path / "a.gguf", decoder)
    check_decoder(tmp_path / "a.gguf", ALIGNER)
    with raises(ModelError, "aligner_decoder"):
        check_decoder(tmp_path / "a.gguf", RECOGNISER)


@pytest.mark.parametrize("shape", [Shape(), Shape(n_classes=50)])
def test_our_own_decoders_pass_the_check(tmp_path: Path, shape: Shape) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", shape))
    write_own_decoder(checkpoint, tmp_path / "d.gguf", "f16", "a model")
    check_decoder(tmp_path / "d.gguf", checkpoint.family)
    with raises(ModelError, "file_missing"):
        check_decoder(tmp_path / "missing.gguf", checkpoint.family)


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({"qwen3vl.attention.head_count_kv": 3}, "decoder_heads", "4 heads cannot share 3 "),
        ({"qwen3vl.attention.key_length": 33}, "setting_unsupported", "value_length = 32 "),
        ({"qwen3vl.context_length": 0}, "metadata_value", "context_length "),
        ({"qwen3vl.rope.freq_base": 1e35}, "value_out_of_range", "rope_theta 1e+35 "),
        ({"qwen3vl.feed_forward_length": 97}, "tensor_shape", ".ffn_"),
        (
            {
                "tokenizer.ggml.tokens": ["<asr_text>", "<|audio_start|>"] * 2,
                "tokenizer.ggml.token_type": [4, 3] * 2,
            },
            "token_duplicate",
            "'<asr_text>'",
        ),
        ({"general.architecture": "llama"}, "gguf_other_model", "architecture llama, "),
    ],
)
def test_a_model_that_llama_cpp_cannot_run_is_refused(
    padded: GGUFFile, changes: dict[str, Any], code: str, value: str
) -> None:
    changed = dict(padded.metadata) | changes
    file = replace(padded, metadata=changed, architecture=changed["general.architecture"])
    with raises(ModelError, code) as caught:
        read_text_model(file, ALIGNER)
    assert value in str(caught.value)
