"""The family Paraformer, for the registry."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamasr.core.languages import Languages
from streamasr.core.traits import FamilyTraits
from streamasr.models.family import Encoder, Family, Recognition
from streamasr.models.paraformer import names
from streamasr.models.paraformer.names import (
    CMVN_FILE,
    DECODER_GRAPH_FILE,
    ENCODER_FILE,
    GRAPHS_KEY,
    HOTWORDS_FILE,
    TOKENS_FILE,
    WHOLE,
    WHOLE_FILE,
)
from streamasr.models.paraformer.text import join_texts

if TYPE_CHECKING:
    from streamasr.models.bundle import Bundle
    from streamasr.models.onnx import OnnxOptions


def load_encoder(bundle: Path, options: "OnnxOptions", *, window_s: int | None) -> Encoder:
    """Load the model; see `LoadEncoder`."""
    from streamasr.models.paraformer.recogniser import load

    del window_s  # every row attends to the whole segment
    return load(bundle, options)


def _files(bundle: "Bundle") -> Sequence[str]:
    is_whole = bundle.facts.get(GRAPHS_KEY) == WHOLE
    graphs = (WHOLE_FILE,) if is_whole else (ENCODER_FILE, DECODER_GRAPH_FILE)
    return (*graphs, TOKENS_FILE, CMVN_FILE)


def _ignores(bundle: "Bundle") -> frozenset[str]:
    takes_hotwords = (bundle.directory / HOTWORDS_FILE).is_file()  # also those in the context
    return frozenset() if takes_hotwords else frozenset({"context", "hotwords"})


PARAFORMER: Final = Family(
    name=names.PARAFORMER,
    title="Paraformer",
    languages=Languages({"zh": "Chinese", "en": "English"}),
    files=_files,
    recognition=Recognition(
        load_encoder=load_encoder,
        traits=FamilyTraits(can_force=False, word_method="cif", join=join_texts, punctuates=False),
        ignores=_ignores,
    ),
)
