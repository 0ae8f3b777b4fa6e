from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.gguf_text import check_decoder, read_text_model
from streamasr.importing.gguf_writer import write_decoder as write_own_decoder
from streamasr.importing.safetensors_checkpoint import read_checkpoint
from streamasr.models.qwen3.names import ALIGNER, RECOGNISER
from tests.sources.decoder import DecoderOptions, write_decoder
from tests.sources.onnx_release import DecoderType, write_release_decoder
from tests.sources.weights import Weights
from tests.support.checkpoints import Shape, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    """An aligner's decoder as the ONNX releases have it."""
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
def test_what_converters_write_is_understood(
    tmp_path: Path, checkpoint: Path, options: DecoderOptions
) -> None:
    write_decoder(Weights(checkpoint), tmp_path / "d.gguf", options)
    dimensions, vocabulary = read_text_model(read_gguf(tmp_path / "d.gguf"))
    expected = read_checkpoint(checkpoint)
    assert dimensions.rms_eps == pytest.approx(expected.text.rms_eps)
    assert replace(dimensions, rms_eps=expected.text.rms_eps) == expected.text
    assert vocabulary == expected.read_vocabulary()


def test_an_aligners_decoder_is_only_an_aligners(padded: GGUFFile) -> None:
    dimensions, vocabulary = read_text_model(padded, ALIGNER)
    assert dimensions.vocab == len(vocabulary.tokens) == 320
    with pytest.raises(ModelError, match="is the decoder of a Qwen3-ForcedAligner"):
        read_text_model(padded, RECOGNISER)


@pytest.mark.parametrize("decoder", ["f16", "q8_0", "q4_k", "q5_k"])
def test_an_aligners_decoder_is_told_from_a_recognisers_in_every_type(
    tmp_path: Path, decoder: DecoderType
) -> None:
    shape = Shape(hidden=256, ffn=256, n_classes=50)
    weights = Weights(write_checkpoint(tmp_path / "c", shape))
    write_release_decoder(weights, tmp_path / "a.gguf", decoder)
    check_decoder(tmp_path / "a.gguf", ALIGNER)
    with pytest.raises(ModelError, match="is the decoder of a Qwen3-ForcedAligner"):
        check_decoder(tmp_path / "a.gguf", RECOGNISER)


@pytest.mark.parametrize("shape", [Shape(), Shape(n_classes=50)])
def test_our_own_decoders_are_checked_by_their_path(tmp_path: Path, shape: Shape) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", shape))
    write_own_decoder(checkpoint, tmp_path / "d.gguf", "f16", "a model")
    check_decoder(tmp_path / "d.gguf", checkpoint.family)
    with pytest.raises(ModelError, match="there is no such file"):
        check_decoder(tmp_path / "missing.gguf", checkpoint.family)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"qwen3vl.attention.head_count_kv": 3}, "4 heads cannot share 3 heads"),
        ({"qwen3vl.attention.key_length": 33}, "value_length = 32 is not supported"),
        ({"qwen3vl.context_length": 0}, "context_length must be a positive number"),
        ({"qwen3vl.rope.freq_base": 1e35}, r"rope_theta cannot be 1e\+35"),
        ({"qwen3vl.feed_forward_length": 97}, "but its configuration means"),
        (
            {
                "tokenizer.ggml.tokens": ["<asr_text>", "<|audio_start|>"] * 2,
                "tokenizer.ggml.token_type": [4, 3] * 2,
            },
            "token '<asr_text>' has two ids",
        ),
        ({"general.architecture": "llama"}, "architecture llama, not a Qwen3-ASR"),
    ],
)
def test_what_llama_cpp_would_stumble_over_is_named(
    padded: GGUFFile, facts: dict[str, Any], sentence: str
) -> None:
    changed = dict(padded.metadata) | facts
    file = replace(padded, metadata=changed, architecture=changed["general.architecture"])
    with pytest.raises(ModelError, match=sentence):
        read_text_model(file, ALIGNER)
