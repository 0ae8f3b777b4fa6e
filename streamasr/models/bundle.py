"""Model directories: their files, and the description of them in `model.json`.

A bundle is what the engine runs, whatever it was made from: `model.json` and the files that its
family needs. A recogniser's bundle may hold an aligner's in `aligner/`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from streamasr.core.errors import ModelError
from streamasr.models.family import DECODER_FILE, Family, Role
from streamasr.models.registry import find_family

FORMAT: Final = "streamasr-bundle"
VERSION: Final = 1
FACTS_FILE: Final = "model.json"

_USE: Final = {
    Role.RECOGNISER: "is a recogniser; use it as --model.",
    Role.ALIGNER: "is a forced aligner: it finds the times of words and recognises none; use it as "
    "--aligner, beside a recogniser.",
    Role.PUNCTUATION: "is a punctuation model: it recognises no speech; use it as --punctuation, "
    "beside a recogniser.",
}
"""What a model of a role is and how it is used, where one of another role is needed."""

OWN_ALIGNER: Final = "aligner"
"""Directory within a recogniser's."""

_MOST_BYTES: Final = 1 << 20
"""Of a `model.json`: it describes a model and holds nothing large."""

_MOST_SCRIPTED: Final = 1000
"""Tokens for each second of audio: more than any speech has; answers are cut long before."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Facts about one file, as the bundle's description states them."""

    bytes: int | None
    sha256: str | None
    """In hexadecimal, lower case."""
    modified_ns: int | None = None
    """Time of the last change, where the file is a link to one that others can change."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model directory whose `model.json` has been read."""

    directory: Path
    family: Family
    name: str
    facts: dict[str, Any]
    """All of `model.json`."""

    @property
    def decoder(self) -> Path:
        """The language model as GGUF."""
        return self.directory / DECODER_FILE

    @property
    def aligner(self) -> Path | None:
        """Directory of the forced aligner that came with a recogniser."""
        directory = self.directory / OWN_ALIGNER
        return directory if directory.is_dir() else None

    @property
    def languages(self) -> tuple[str, ...] | None:
        """Names of the languages that the model was made for; None where unknown."""
        names = self.facts.get("languages")
        if not isinstance(names, list):
            return None
        return tuple(name for name in names if isinstance(name, str))

    @property
    def source(self) -> Mapping[str, Any]:
        """Origin of the bundle; empty where unknown."""
        source = self.facts.get("source")
        return source if isinstance(source, dict) else {}

    @property
    def licence(self) -> str | None:
        """The licence of the weights, as an SPDX identifier or a name."""
        licence = self.facts.get("licence")
        return licence if isinstance(licence, str) else None

    @property
    def precision(self) -> Mapping[str, str]:
        """Storage types of the weights of `encoder` and `decoder`, as far as known."""
        precision = self.facts.get("precision")
        if not isinstance(precision, dict):
            return {}
        return {str(part): kind for part, kind in precision.items() if isinstance(kind, str)}

    @property
    def encoder_bits(self) -> int | None:
        """Bits of a weight of the encoder; None where unknown."""
        bits = self.facts.get("encoder_bits")
        if isinstance(bits, int) and not isinstance(bits, bool):
            return bits
        digits = re.search(r"\d{1,3}", self.precision.get("encoder", ""))  # `int4`, `q4_k`, `fp16`
        return int(digits[0]) if digits else None

    @property
    def files(self) -> Mapping[str, StoredFile]:
        """Files by name, with their size and hash; empty where the description has none.

        Raises:
            ModelError: the description names a file outside the bundle.
        """
        files = self.facts.get("files")
        if not isinstance(files, dict):
            return {}
        return {_inner(self.directory, name): _stored(fact) for name, fact in files.items()}

    @property
    def scripted_tokens_per_second(self) -> float | None:
        """Rate of the script that replaces the output of random weights; None for real weights.

        Raises:
            ModelError: the rate is not a number from 0 to 1000.
        """
        rate = self.facts.get("scripted_tokens_per_second")
        if rate is None:
            return None
        is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if not (is_number and 0 <= rate <= _MOST_SCRIPTED):
            raise ModelError(
                f"{self.directory / FACTS_FILE}: scripted_tokens_per_second must be a number from "
                f"0 to {_MOST_SCRIPTED}, not {rate!r:.60}.",
                code="script_rate_out_of_range",
            )
        return float(rate)

    @property
    def warning(self) -> str | None:
        """Sentence about a weakness that users of the model must know; None if it has none."""
        return self.family.warning(self)

    def check_files(self) -> None:
        """Check cheaply whether all files are present and unchanged.

        Raises:
            ModelError: a file is missing, has another size than when it was stored, or is a link
                to a file that was changed since.
        """
        files = self.files
        for name in dict.fromkeys([*self.family.files(self), *files]):
            path = self.directory / name
            if not path.is_file():
                raise ModelError(
                    f"{path} does not exist; get the model again.", code="model_file_missing"
                )
            if name in files:
                _check_file(path, files[name])


def _check_file(path: Path, stored: StoredFile) -> None:
    status = path.stat()
    if stored.bytes is not None and status.st_size != stored.bytes:
        raise ModelError(
            f"{path} has {status.st_size} bytes instead of {stored.bytes}, so it is damaged; get "
            "the model again.",
            code="model_file_damaged",
        )
    if stored.modified_ns in (None, status.st_mtime_ns):
        return
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != stored.sha256:
        raise ModelError(
            f"{path} is a link to a file that was changed after it was imported; import it again.",
            code="model_file_changed",
        )


def _inner(directory: Path, name: str) -> str:
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ModelError(
            f"{directory / FACTS_FILE} names {name!r}, which is not a file of the model.",
            code="model_file_outside",
        )
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
    """Tell whether a directory describes itself as a bundle, complete or not."""
    try:
        facts = _read_facts(directory / FACTS_FILE)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and facts.get("format") == FORMAT


def read_bundle(directory: Path, role: Role) -> Bundle:
    """Read the description of a bundle whose model has a role.

    Raises:
        ModelError: the directory is not a bundle or a newer one, or the model has another role.
    """
    bundle = open_bundle(directory)
    if bundle.family.role is not role:
        raise ModelError(f"{bundle.name} {_USE[bundle.family.role]}", code="wrong_model_role")
    return bundle


def open_bundle(directory: Path) -> Bundle:
    """Read the description of a bundle of any family.

    Raises:
        ModelError: the directory is not a bundle, a newer one, or of an unknown family.
    """
    path = directory / FACTS_FILE
    try:
        facts = _read_facts(path)
    except FileNotFoundError as error:
        raise ModelError(
            f"{directory} has no {FACTS_FILE}, so it is not a model directory; "
            "make one with `streamasr models import`.",
            code="not_a_bundle",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}", code="bundle_unreadable") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ModelError(f"{path} does not describe a streamasr model.", code="not_a_bundle")
    if facts.get("version") != VERSION:
        raise ModelError(
            f"{path} has version {facts.get('version')!r}, this streamasr reads version {VERSION}; "
            "import the model again.",
            code="bundle_version",
        )
    try:
        family = find_family(str(facts.get("family")))
    except ModelError as error:
        raise ModelError(f"{path}: {error}", code=error.code) from error
    return Bundle(directory, family, str(facts.get("name", directory.name)), facts)


def _read_facts(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
