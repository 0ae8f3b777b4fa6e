"""Model directories: where they are, and what their `model.json` says.

A bundle is what the engine runs, whatever it was made from: `model.json`, the two graphs of the
encoder, the decoder, and for a forced aligner its classifier. A recogniser's bundle may hold an
aligner's in `aligner/`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from streamasr.core.errors import ModelError

FORMAT: Final = "streamasr-bundle"
VERSION: Final = 1
RECOGNISER: Final = "qwen3-asr"
ALIGNER: Final = "qwen3-forced-aligner"
FACTS_FILE: Final = "model.json"

FRONTEND_FILE: Final = "encoder_frontend.onnx"
BACKEND_FILE: Final = "encoder_backend.onnx"
DECODER_FILE: Final = "decoder.gguf"
CLASSIFIER_FILE: Final = "classifier.npy"

_OF_OTHER_USE: Final = {
    RECOGNISER: "{} is a forced aligner, which finds the times of words and recognises none: use "
    "it as --aligner, beside a recogniser.",
    ALIGNER: "{} is a recogniser, not a forced aligner: use it as --model.",
}
"""What is said where a model of a family is needed, and another is given."""

OWN_ALIGNER: Final = "aligner"
"""Directory within a recogniser's."""

_ENOUGH_BITS: Final = 8

_HARM: Final = {
    RECOGNISER: "this family of models repeat itself, leave words out or write nothing",
    ALIGNER: "the times of words less exact",
}
"""What fewer bits do."""

_MOST_BYTES: Final = 1 << 20
"""Of a `model.json`: a description, not the place for anything large."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What a bundle's description says of one of its files."""

    bytes: int | None
    sha256: str | None
    """In hexadecimal, lower case."""
    modified_ns: int | None = None
    """When it was changed last, of a file that others can change: it is a link to theirs."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model directory whose `model.json` has been read."""

    directory: Path
    family: str
    name: str
    facts: dict[str, Any]
    """All of `model.json`."""

    @property
    def frontend(self) -> Path:
        """The graph of the encoder's convolutions."""
        return self.directory / FRONTEND_FILE

    @property
    def backend(self) -> Path:
        """The graph of the encoder's transformer."""
        return self.directory / BACKEND_FILE

    @property
    def decoder(self) -> Path:
        """The language model as GGUF."""
        return self.directory / DECODER_FILE

    @property
    def classifier(self) -> Path:
        """The aligner's head: (n_classes, n_embd)."""
        return self.directory / CLASSIFIER_FILE

    @property
    def aligner(self) -> Path | None:
        """The bundle of the forced aligner that came with a recogniser."""
        directory = self.directory / OWN_ALIGNER
        return directory if directory.is_dir() else None

    @property
    def languages(self) -> tuple[str, ...] | None:
        """Those that the model was made for; None where it is not known."""
        names = self.facts.get("languages")
        if not isinstance(names, list):
            return None
        return tuple(name for name in names if isinstance(name, str))

    @property
    def source(self) -> Mapping[str, Any]:
        """What the bundle was made from; empty where it is not known."""
        source = self.facts.get("source")
        return source if isinstance(source, dict) else {}

    @property
    def licence(self) -> str | None:
        """The licence of the weights, as an SPDX identifier or a name."""
        licence = self.facts.get("licence")
        return licence if isinstance(licence, str) else None

    @property
    def precision(self) -> Mapping[str, str]:
        """How the weights of `encoder` and `decoder` are stored, as far as it is known."""
        precision = self.facts.get("precision")
        if not isinstance(precision, dict):
            return {}
        return {str(part): kind for part, kind in precision.items() if isinstance(kind, str)}

    @property
    def encoder_bits(self) -> int | None:
        """Bits of a weight of the encoder; None where it is not known."""
        bits = self.facts.get("encoder_bits")
        if isinstance(bits, int) and not isinstance(bits, bool):
            return bits
        digits = re.search(r"\d{1,3}", self.precision.get("encoder", ""))  # `int4`, `q4_k`, `fp16`
        return int(digits[0]) if digits else None

    @property
    def files(self) -> Mapping[str, StoredFile]:
        """Its files by name, with what they must be; empty where it was not noted.

        Raises:
            ModelError: a file outside the bundle is named.
        """
        files = self.facts.get("files")
        if not isinstance(files, dict):
            return {}
        return {_inner(self.directory, name): _stored(fact) for name, fact in files.items()}

    @property
    def warning(self) -> str | None:
        """What whoever uses it must be told."""
        bits = self.encoder_bits
        if bits is None or bits >= _ENOUGH_BITS:
            return None
        return (
            f"the audio encoder of {self.name} has weights of {bits} bits, which make "
            f"{_HARM[self.family]}; take one with an encoder of 8 bits or more (int8, fp16)."
        )

    def check_files(self) -> None:
        """Find out cheaply whether all is there.

        Raises:
            ModelError: a file is missing, has another size than when it was stored, or is a link
                to a file that was changed since.
        """
        files = self.files
        wanted = [FRONTEND_FILE, BACKEND_FILE, DECODER_FILE]
        wanted += [CLASSIFIER_FILE] if self.family == ALIGNER else []
        for name in dict.fromkeys([*wanted, *files]):
            path = self.directory / name
            if not path.is_file():
                raise ModelError(f"{path}: there is no such file; get the model again.")
            if name in files:
                _check_file(path, files[name])


def _check_file(path: Path, stored: StoredFile) -> None:
    status = path.stat()
    if stored.bytes is not None and status.st_size != stored.bytes:
        raise ModelError(
            f"{path} has {status.st_size} bytes instead of {stored.bytes}, so it is damaged; get "
            "the model again."
        )
    if stored.modified_ns in (None, status.st_mtime_ns):
        return
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != stored.sha256:
        raise ModelError(
            f"{path} is a link to a file that was changed after it was imported; import it again."
        )


def _inner(directory: Path, name: str) -> str:
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ModelError(f"{directory}/model.json names {name!r}, which is no file of the model.")
    return name


def _stored(fact: object) -> StoredFile:
    fact = fact if isinstance(fact, dict) else {}
    n_bytes, sha256, modified_ns = (fact.get(name) for name in ("bytes", "sha256", "modified_ns"))
    return StoredFile(
        n_bytes if isinstance(n_bytes, int) else None,
        sha256.lower() if isinstance(sha256, str) else None,
        modified_ns if isinstance(modified_ns, int) else None,
    )


def is_bundle(directory: Path) -> bool:
    """Tell whether a directory says of itself that it is a bundle, whole or not."""
    try:
        facts = _read_facts(directory / FACTS_FILE)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and facts.get("format") == FORMAT


def read_bundle(directory: Path, family: str) -> Bundle:
    """Read the description of a bundle of one family.

    Raises:
        ModelError: it is no bundle, a newer one, or one of another family.
    """
    bundle = open_bundle(directory)
    if bundle.family != family:
        raise ModelError(_OF_OTHER_USE[family].format(bundle.name))
    return bundle


def open_bundle(directory: Path) -> Bundle:
    """Read a bundle's description, of whatever family.

    Raises:
        ModelError: it is no bundle, or a newer one.
    """
    path = directory / FACTS_FILE
    try:
        facts = _read_facts(path)
    except FileNotFoundError as error:
        raise ModelError(
            f"{directory} has no {FACTS_FILE}, so it is not a model directory; "
            "make one with `streamasr models import`."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ModelError(f"{path} does not describe a streamasr model.")
    if facts.get("version") != VERSION:
        raise ModelError(
            f"{path} has version {facts.get('version')!r}, this streamasr reads version {VERSION}; "
            "import the model again."
        )
    if facts.get("family") not in (RECOGNISER, ALIGNER):
        raise ModelError(f"{path}: this streamasr knows no model family {facts.get('family')!r}.")
    return Bundle(directory, facts["family"], str(facts.get("name", directory.name)), facts)


def _read_facts(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError("it is too large for a description")
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
