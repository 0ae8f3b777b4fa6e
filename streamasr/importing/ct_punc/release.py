"""Reader for released ONNX graphs of ct-punc, which are used unchanged.

    FunASR       model.onnx or model_quant.onnx, tokens.json, config.yaml
    sherpa-onnx  model.onnx or model.int8.onnx, with `tokens`, `punctuations`, `vocab_size` and
                 `unk_symbol` as metadata; lists are joined by |

A graph is one of ct-punc by its inputs and its output. Those of FunASR's realtime models have the
masks of attention as further inputs. Of several precisions the one with the most bits is used.

Source: funasr 1.4.16, models/ct_transformer/export_meta.py and models/ct_transformer_streaming/
export_meta.py; sherpa-onnx, csrc/offline-ct-transformer-model.cc.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamasr.core.errors import ModelError
from streamasr.importing.bundle_writer import BundleWriter, copied_bytes
from streamasr.importing.config_file import read_yaml
from streamasr.importing.ct_punc.segmentation import DICTIONARY_BYTES, find_dictionary
from streamasr.importing.ct_punc.sidecars import (
    CONFIG,
    LANGUAGES,
    LICENCE,
    check_vocabulary,
    marks_of,
    read_tokens,
    wide_marks,
    write_vocabulary,
)
from streamasr.importing.files import placeholder_error
from streamasr.importing.onnx_file import GraphInfo, is_graph, read_graph, read_long_metadata
from streamasr.importing.options import ImportOptions
from streamasr.importing.released_graphs import best_graph, check_data_files
from streamasr.models.bundle import FACTS_FILE
from streamasr.models.ct_punc.names import FAMILY_NAME, MODEL_FILE, TOKENS_FILE

_INPUTS: Final = {"inputs": 2, "text_lengths": 1}
_MASKS: Final = {"vad_masks": 4, "sub_masks": 4}
_OUTPUT: Final = "logits"
_SEPARATOR: Final = "|"
_RESERVED_NAMES: Final = frozenset({FACTS_FILE, MODEL_FILE, TOKENS_FILE})


@dataclass(frozen=True, slots=True)
class PunctuationRelease:
    """Released graph with its vocabulary; implements `Source`."""

    model: GraphInfo
    tokens: tuple[str, ...]
    marks: tuple[str, ...]
    """The mark of each class."""
    dictionary: Path | None = None
    """Dictionary of words, for a vocabulary that consists of them."""
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Name of the family."""
        return FAMILY_NAME

    @property
    def path(self) -> Path:
        """The graph."""
        return self.model.path

    def parts(self) -> Sequence[Path]:
        """Return the graph, which may have been chosen among others."""
        return [self.model.path]

    def files(self) -> Sequence[Path]:
        """Return the files with the weights."""
        return [self.model.path, *self.model.data_files]

    def max_bytes(self, _options: ImportOptions, directory: Path) -> float:
        """Return an upper bound for the size of the bundle."""
        words = DICTIONARY_BYTES if self.dictionary else 0
        return copied_bytes(self.files(), directory) + words

    def write(self, writer: BundleWriter) -> dict[str, Any]:
        """Store the files of the bundle and return the facts for `model.json`."""
        writer.refuse_encoder_option(self.path.parent, self.model.precision)
        writer.refuse_decoder_option(self.path.parent)
        writer.keep(self.model.path, MODEL_FILE)
        for path in self.model.data_files:
            writer.keep(path, path.name)
        realtime = "sub_masks" in self.model.inputs
        return {
            "languages": LANGUAGES,
            "licence": LICENCE,
            **write_vocabulary(self.tokens, self.marks, self.dictionary, writer, realtime=realtime),
            "precision": {"encoder": self.model.precision},
            "encoder_bits": self.model.bits,
        }


def read_release(folder: Path, files: Sequence[Path]) -> PunctuationRelease | None:
    """Find the released graph in a folder.

    Args:
        folder: the folder.
        files: the regular files in it.

    Returns:
        The graph with its vocabulary; None if no graph is one of ct-punc.

    Raises:
        ModelError: a file is damaged or missing.
    """
    paths = [path for path in files if is_graph(path) and not placeholder_error(path)]
    graphs = [graph for graph in map(read_graph, paths) if _is_ours(graph)]
    if not graphs:
        return None
    model = best_graph(graphs)
    check_data_files([model], _RESERVED_NAMES)
    tokens, marks = _vocabulary(model, folder)
    check_vocabulary(tokens, marks, model.path)
    n_classes = model.outputs[_OUTPUT].shape[-1]
    if n_classes not in (None, len(marks)):
        raise ModelError(
            f"{model.path} has {n_classes} classes, and {len(marks)} marks are listed; the files "
            "belong to different models.",
            code="punctuation_classes",
        )
    return PunctuationRelease(model, tokens, marks, find_dictionary(folder))


def _is_ours(graph: GraphInfo) -> bool:
    axes = {name: len(value.shape) for name, value in graph.inputs.items()}
    has_output = _OUTPUT in graph.outputs and len(graph.outputs[_OUTPUT].shape) == 3
    return axes in (_INPUTS, _INPUTS | _MASKS) and has_output


def _vocabulary(model: GraphInfo, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the vocabulary and the marks: from the metadata, else from files."""
    stated = model.metadata.get("punctuations")
    if stated is None:
        path, config = folder / "tokens.json", folder / CONFIG
        for each in (path, config):
            if not each.is_file():
                raise ModelError(
                    f"{folder} has a punctuation model, but no {each.name}; download it into the "
                    "same folder.",
                    code="file_missing",
                )
        return read_tokens(path), marks_of(read_yaml(config))
    text = read_long_metadata(model.path, "tokens")
    if text is None:
        raise ModelError(
            f"{model.path} states its marks and no vocabulary; download it again.",
            code="tokens_missing",
        )
    tokens = tuple(text.split(_SEPARATOR))
    size = model.metadata.get("vocab_size", "").strip()
    if size and size != str(len(tokens)):
        raise ModelError(
            f"{model.path} states a vocabulary of {size:.20} words and lists {len(tokens)}; "
            "download it again.",
            code="tokens_count",
        )
    return tokens, wide_marks(stated.split(_SEPARATOR))
