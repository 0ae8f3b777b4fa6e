"""The list of families whose published forms are read: a new one is a folder here, and an entry.

Each folder has a module `find.py` that identifies the family's forms by their content, and a module
for each form.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamasr.importing.ct_punc import find as ct_punc
from streamasr.importing.gguf_file import GGUFFile
from streamasr.importing.model_source import Source
from streamasr.importing.paraformer import find as paraformer
from streamasr.importing.qwen3 import find as qwen3


@dataclass(frozen=True, slots=True)
class Forms:
    """Functions that find the models of one family, or of several with common forms."""

    find_in_folder: Callable[[Path, Sequence[Path]], Sequence[Source]]
    """Return the models among the regular files of a folder; none if no file is of the family.
    Raises ModelError if a file is, and cannot be used."""
    architectures: frozenset[str]
    """Values of `general.architecture` in the family's GGUFs."""
    find_in_gguf: Callable[[GGUFFile], Iterable[Source]]
    """Return the model that a GGUF of one of these architectures is, or is a part of. Raises
    ModelError if it cannot be used."""


FORMS: Final = (
    Forms(paraformer.find_in_folder, paraformer.ARCHITECTURES, paraformer.find_in_gguf),
    Forms(ct_punc.find_in_folder, ct_punc.ARCHITECTURES, ct_punc.find_in_gguf),
    Forms(qwen3.find_in_folder, qwen3.ARCHITECTURES, qwen3.find_in_gguf),
)
"""In the order in which their errors are preferred."""
