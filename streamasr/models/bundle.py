"""Model directories: where they are, and what their `model.json` says.

A bundle is what `streamasr export` writes: `model.json`, the two graphs of the encoder, the
decoder, and for a forced aligner its classifier. A recogniser's bundle may hold an aligner's in
`aligner/`.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamasr.errors import ModelError
from streamasr.models import tiny

FORMAT: Final = "streamasr-bundle"
VERSION: Final = 1
RECOGNISER: Final = "qwen3-asr"
ALIGNER: Final = "qwen3-forced-aligner"

_EMBEDDED: Final = {tiny.NAME: tiny.BUNDLE}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model directory whose `model.json` has been read."""

    directory: Path
    family: str
    name: str
    facts: dict[str, Any]
    """All of `model.json`."""

    @property
    def decoder(self) -> Path:
        """The language model as GGUF."""
        return self.directory / "decoder.gguf"

    @property
    def classifier(self) -> Path:
        """The aligner's head: (n_classes, n_embd)."""
        return self.directory / "classifier.npy"

    @property
    def aligner(self) -> Path | None:
        """The bundle of the forced aligner that came with a recogniser."""
        directory = self.directory / "aligner"
        return directory if directory.is_dir() else None


def find_model(name_or_path: str) -> Path:
    """The directory of an embedded model, by name, or of any other, by path.

    Raises:
        ModelError: there is none.
    """
    if name_or_path in _EMBEDDED:
        return _EMBEDDED[name_or_path]
    if os.path.isdir(name_or_path):  # noqa: PTH112 - Path.is_dir raises where a path cannot be looked at
        return Path(name_or_path)
    names = ", ".join(_EMBEDDED)
    raise ModelError(
        f"there is no model {name_or_path!r}: name an embedded one ({names}) or a directory "
        "that `streamasr export` wrote."
    )


def read_bundle(directory: Path, family: str) -> Bundle:
    """Read a bundle's description.

    Raises:
        ModelError: it is no bundle, a newer one, or one of another family.
    """
    path = directory / "model.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{directory} has no model.json, so it is not a model directory; "
            "make one with `streamasr export`."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ModelError(f"{path} does not describe a streamasr model.")
    if facts.get("version") != VERSION:
        raise ModelError(
            f"{path} has version {facts.get('version')!r}, this streamasr reads version {VERSION}; "
            "export the model again."
        )
    if facts.get("family") != family:
        raise ModelError(f"{directory} holds a {facts.get('family')}, a {family} is needed.")
    return Bundle(directory, family, str(facts.get("name", directory.name)), facts)
