"""Kinds of GGUF files: each unusable file is identified by its content, with a remedy."""

from pathlib import Path
from typing import Any

import pytest

from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.gguf_kind import is_speech_decoder, unusable
from tests.sources import foreign
from tests.sources.ggml_org import write_ggml_org
from tests.support.checkpoints import write_checkpoint


def file_with(architecture: str, **metadata: Any) -> GGUFFile:
    stated = {name.replace("__", "."): value for name, value in metadata.items()}
    return GGUFFile(Path("model.gguf"), architecture, stated, {})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GGUFFile]:
    directory = tmp_path_factory.mktemp("pair")
    write_ggml_org(write_checkpoint(directory / "c"), directory / "g")
    files = [read_gguf(path) for path in (directory / "g").iterdir()]
    return {file.architecture: file for file in files}


@pytest.mark.parametrize(
    ("file", "code", "value"),
    [
        (file_with(""), "gguf_architecture_missing", "general.architecture"),
        (file_with("qwen3-asr"), "gguf_qwen3_asr_cpp", "format of qwen3-asr.cpp"),
        (file_with("qwen3"), "gguf_text_model", "(qwen3)"),
        (file_with("qwen3vl"), "gguf_text_model", "(qwen3vl)"),
        (file_with("clip"), "gguf_other_encoder", "for images"),
        (
            file_with("clip", clip__audio__projector_type="ultravox"),
            "gguf_other_encoder",
            "with the projector ultravox",
        ),
        (file_with("canary_ctc"), "gguf_ctc", "(canary_ctc)"),
        (file_with("wav2vec2"), "gguf_ctc", "(wav2vec2)"),
        (file_with("parakeet"), "gguf_other_model", "architecture parakeet, "),
        (file_with("a\nb" * 50), "gguf_other_model", "architecture a?ba?b"),
        (file_with("qwen3asr", general__type="adapter"), "gguf_not_a_model", "the adapter of"),
        (file_with("qwen3asr", split__count=3), "gguf_split", "llama-gguf-split --merge"),
        (file_with("qwen3asr"), "gguf_crispasr", "CrispASR"),
        (file_with("qwen3_asr", split__count=2), "gguf_split", "llama-gguf-split --merge"),
        (file_with("qwen3_asr"), "gguf_transcribe_cpp", "Handy"),
        (file_with("audiocpp"), "gguf_audio_cpp", "is a model in the format of audio.cpp"),
        (
            file_with("audiocpp", audiocpp__model_spec__family="qwen3_asr"),
            "gguf_audio_cpp",
            "models pull qwen3-asr-0.6b",
        ),
        (
            file_with("audiocpp", audiocpp__model_spec__family="qwen3_forced_aligner"),
            "gguf_audio_cpp",
            "models pull qwen3-aligner-0.6b",
        ),
        (
            file_with("audiocpp", audiocpp__model_spec__family="fun_asr_nano"),
            "gguf_audio_cpp",
            "of the family fun_asr_nano ",
        ),
        (
            file_with("audiocpp", audiocpp__model_spec__family="paraformer"),
            "gguf_audio_cpp",
            "pull paraformer-zh-q8_0",
        ),
        (
            file_with("qwen3", audiocpp__model_spec__family="soprano_tts"),
            "gguf_audio_cpp",
            "of the family soprano_tts ",
        ),
    ],
)
def test_an_unusable_file_is_identified_by_its_content(
    file: GGUFFile, code: str, value: str
) -> None:
    error = unusable(file)
    assert error.code == code
    assert value in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["<|audio_start|>", "<asr_text>"], True),
        (["<|audio_start|>", "<timestamp>"], True),
        (["<|audio_start|>"], False),
        (["<asr_text>", "<timestamp>"], False),
    ],
)
def test_a_speech_decoder_has_the_tokens_of_a_recogniser_or_an_aligner(
    tokens: list[str], *, expected: bool
) -> None:
    assert is_speech_decoder(file_with("", tokenizer__ggml__tokens=tokens)) == expected


def test_half_of_a_pair_is_identified(pair: dict[str, GGUFFile]) -> None:
    assert unusable(pair["clip"]).code == "gguf_encoder_alone"
    assert unusable(pair["qwen3vl"]).code == "gguf_decoder_alone"


def test_published_files_of_other_programs_are_identified(tmp_path: Path) -> None:
    other_program = unusable(read_gguf(foreign.write_predict_woo(tmp_path / "p.gguf")))
    assert "models pull qwen3-asr-0.6b" in str(other_program)
    aligner = unusable(read_gguf(foreign.write_ctc_aligner(tmp_path / "a.gguf")))
    assert "models pull qwen3-aligner-0.6b" in str(aligner)
    vision = unusable(read_gguf(foreign.write_vision_projector(tmp_path / "v.gguf")))
    assert "has the projector qwen3a" in str(vision)
