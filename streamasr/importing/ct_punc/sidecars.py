"""Vocabulary and marks of ct-punc, as the files beside the weights state them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from streamasr.core.errors import ModelError
from streamasr.importing.bundle_writer import BundleWriter
from streamasr.importing.config_file import Config, is_text_list, read_text
from streamasr.importing.ct_punc.segmentation import read_segmentation
from streamasr.models.ct_punc.names import (
    COMMA,
    PERIOD,
    QUESTION,
    REALTIME,
    SEGMENTATION_FILE,
    SEGMENTED,
    TOKENS_FILE,
    UNKNOWN,
)

CONFIG: Final = "config.yaml"
LICENCE: Final = "FunASR Model License"
LANGUAGES: Final = ("Chinese", "English")

_MOST_MARKS: Final = 100
_NEEDED: Final = (COMMA, PERIOD, QUESTION)
_WIDE: Final = {",": COMMA, "?": QUESTION}
"""Marks of Chinese by the ASCII characters that some models list in their place."""


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read the vocabulary from a JSON list.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        tokens = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}", code="json_invalid") from error
    if not is_text_list(tokens):
        raise ModelError(f"{path} is not a list of words.", code="tokens_invalid")
    return tuple(tokens)


def check_vocabulary(tokens: Sequence[str], marks: Sequence[str], path: Path) -> None:
    """Check that words and marks can be those of a punctuation model.

    Args:
        tokens: the vocabulary.
        marks: the mark of each class.
        path: of the model, for messages.

    Raises:
        ModelError: a word or a mark that each such model has is missing.
    """
    if UNKNOWN not in tokens:
        raise ModelError(
            f"{path}: the vocabulary has no {UNKNOWN}, which stands for all unknown words; use "
            "the files that were published with the model.",
            code="tokens_invalid",
        )
    if len(marks) > _MOST_MARKS or not all(mark in marks for mark in _NEEDED):
        shown = " ".join(ascii(mark)[:12] for mark in marks[:8])
        raise ModelError(
            f"{path}: its classes are {shown}, and {' '.join(_NEEDED)} are needed; this is another "
            "kind of model.",
            code="punctuation_marks",
        )


def marks_of(config: Config) -> tuple[str, ...]:
    """Return the mark of each class, from the list in `config.yaml`.

    Raises:
        ModelError: the list is missing, or contains something else than texts.
    """
    found = config.optional_section("model_conf").get("punc_list") or config.get("punc_list")
    if not is_text_list(found):
        raise ModelError(
            f"{config.path} has no list punc_list, which states the mark of each class; download "
            "the file that was published with the model.",
            code="punctuation_marks",
        )
    return wide_marks(found)


def wide_marks(marks: Sequence[str]) -> tuple[str, ...]:
    """Return marks as those of Chinese, as FunASR's runtimes take them."""
    return tuple(_WIDE.get(mark, mark) for mark in marks)


def write_vocabulary(
    tokens: Sequence[str],
    marks: Sequence[str],
    dictionary: Path | None,
    writer: BundleWriter,
    *,
    realtime: bool = False,
) -> dict[str, Any]:
    """Write the vocabulary of a bundle; return the facts about both.

    Args:
        tokens: the vocabulary.
        marks: of the classes.
        dictionary: that `find_dictionary` has found.
        writer: of the bundle.
        realtime: see `REALTIME`.

    Raises:
        ModelError: a dictionary is damaged.
    """
    text = json.dumps(tokens, ensure_ascii=False)
    (writer.directory / TOKENS_FILE).write_text(text, "utf-8")
    facts: dict[str, Any] = {"marks": [*marks], "vocab": len(tokens)}
    if dictionary is not None:
        read_segmentation(dictionary).write(writer.directory / SEGMENTATION_FILE)
        facts[SEGMENTED] = True
    return facts | ({REALTIME: True} if realtime else {})
