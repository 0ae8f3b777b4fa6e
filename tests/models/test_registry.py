"""The registry of model families."""

import subprocess
import sys
from dataclasses import replace

import pytest

from streamasr.core.errors import ModelError
from streamasr.models import registry
from streamasr.models.family import Role
from streamasr.models.qwen3.family import QWEN3_ASR, QWEN3_FORCED_ALIGNER
from tests.support.errors import raises


def test_families_are_found_by_the_names_in_bundles() -> None:
    assert registry.find_family("qwen3-asr") is QWEN3_ASR
    assert registry.find_family("qwen3-forced-aligner") is QWEN3_FORCED_ALIGNER
    with raises(ModelError, "unknown_family") as caught:
        registry.find_family("whisper")
    assert "'whisper'" in str(caught.value)


def test_the_role_follows_from_the_parts() -> None:
    assert registry.family_names(Role.RECOGNISER) == ("qwen3-asr", "paraformer")
    assert registry.family_names(Role.ALIGNER) == ("qwen3-forced-aligner",)
    assert registry.family_names(Role.PUNCTUATION) == ("ct-punc",)
    names = "qwen3-asr", "qwen3-forced-aligner", "paraformer", "ct-punc"
    assert registry.family_names() == names


def test_the_aligner_of_a_recogniser_is_a_family_with_that_role() -> None:
    for name in registry.family_names(Role.RECOGNISER):
        recognition = registry.find_family(name).recognition
        assert recognition
        assert recognition.aligner is None or (
            registry.find_family(recognition.aligner).role is Role.ALIGNER
        )


def test_a_family_can_be_added_and_removed() -> None:
    mine = replace(QWEN3_ASR, name="mine")
    registry.register(mine)
    registry.register(mine)
    try:
        assert registry.find_family("mine") is mine
        with pytest.raises(ValueError, match="registered already"):
            registry.register(replace(mine))
    finally:
        registry.unregister(mine)
    assert "mine" not in registry.family_names()


@pytest.mark.process
def test_the_list_is_cheap_to_import() -> None:
    code = """
import sys
from streamasr.models.registry import find_family
for name in ("onnxruntime", "llama_cpp", "streamasr.models.onnx", "streamasr.decoder.llama",
             "streamasr.models.qwen3.encoder", "streamasr.models.qwen3.decoder",
             "streamasr.models.paraformer.recogniser", "kaldi_native_fbank"):
    assert name not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
