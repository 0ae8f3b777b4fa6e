"""The family ct-punc, for the registry."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from streamasr.core.languages import Languages
from streamasr.models.ct_punc.names import (
    FAMILY_NAME,
    MODEL_FILE,
    SEGMENTATION_FILE,
    SEGMENTED,
    TOKENS_FILE,
)
from streamasr.models.family import Family, Punctuation, Punctuator

if TYPE_CHECKING:
    from streamasr.models.bundle import Bundle
    from streamasr.models.onnx import OnnxOptions


def load_punctuator(bundle: "Bundle", options: "OnnxOptions") -> Punctuator:
    """Load the model; see `LoadPunctuator`."""
    from streamasr.models.ct_punc.punctuator import CTPunctuator

    return CTPunctuator.from_bundle(bundle, options)


def _files(bundle: "Bundle") -> Sequence[str]:
    words = (SEGMENTATION_FILE,) if bundle.facts.get(SEGMENTED) is True else ()
    return (MODEL_FILE, TOKENS_FILE, *words)


CT_PUNC: Final = Family(
    name=FAMILY_NAME,
    title="CT-Transformer punctuation",
    languages=Languages({"zh": "Chinese", "en": "English"}),
    files=_files,
    punctuation=Punctuation(load=load_punctuator),
)
