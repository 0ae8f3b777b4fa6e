"""Writer of one model directory: what all forms need in order to store their files."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamasr.core.errors import ConfigError
from streamasr.core.sizes import size_text
from streamasr.importing.files import hash_file, link_or_copy
from streamasr.importing.options import ImportOptions
from streamasr.importing.quantize import quantize_decoder
from streamasr.importing.tensors import Progress


@dataclass(slots=True)
class Hashes:
    """SHA-256 of files; a file with several names is read once."""

    progress: Progress
    _known: dict[tuple[int, int], str] = field(default_factory=dict)

    def of(self, path: Path) -> str:
        """Return the SHA-256 of a file."""
        status = path.stat()
        key = (status.st_dev, status.st_ino)
        if key not in self._known:
            self._known[key] = hash_file(path, self.progress)
        return self._known[key]

    def describe(self, path: Path) -> dict[str, Any]:
        """Return the size and the SHA-256 of a file."""
        return {"bytes": path.stat().st_size, "sha256": self.of(path)}


@dataclass(slots=True)
class BundleWriter:
    """Directory of a bundle that is being written."""

    directory: Path
    """Destination, which exists."""
    name: str
    """Name of the model."""
    options: ImportOptions
    progress: Progress
    hashes: Hashes
    """Hashes of the files that several bundles share."""
    archives: Sequence[Path] | None
    """The user's files, if the sources were extracted from them; else None."""
    _linked: set[Path] = field(default_factory=set)

    def keep(self, source: Path, name: str) -> None:
        """Link or copy a file unchanged."""
        path = self.directory / name
        if link_or_copy(source, path, self.progress) and self.archives is None:
            self._linked.add(path)

    def keep_decoder(self, source: Path, name: str) -> None:
        """Store a language model's GGUF, quantised if the options say so."""
        width = self.options.decoder or "keep"
        if width == "keep":
            self.keep(source, name)
        else:
            quantize_decoder(source, self.directory / name, width, self.progress)

    def stored_files(self) -> dict[str, Mapping[str, Any]]:
        """Describe all files of the bundle by name."""
        paths = sorted(path for path in self.directory.iterdir() if path.is_file())
        return {path.name: self._describe(path) for path in paths}

    def check_space(self, needed: float) -> None:
        """Check before minutes of work that the disk has space for the result.

        Args:
            needed: bytes.

        Raises:
            ConfigError: the disk has too little free space.
        """
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            raise ConfigError(
                f"{self.directory.parent} has only {size_text(free)} free, and the import may need "
                f"{size_text(round(needed))}; free some space, or choose another directory.",
                code="disk_full",
            )

    def refuse_encoder_option(self, place: Path, precision: str | None = None) -> None:
        """Refuse `--encoder` for a graph that is used unchanged.

        Args:
            place: folder with the graph.
            precision: that of the graph, if known.

        Raises:
            ConfigError: the option was given.
        """
        if self.options.encoder is None:
            return
        stated = f" ({precision})" if precision else ""
        raise ConfigError(
            f"the encoder in {place} is a finished graph{stated}, which is used unchanged; omit "
            "--encoder.",
            code="encoder_fixed",
        )

    def refuse_decoder_option(self, place: Path) -> None:
        """Refuse `--decoder` for a model without a language model.

        Raises:
            ConfigError: the option was given.
        """
        if self.options.decoder not in (None, "keep"):
            raise ConfigError(
                f"the model in {place} has no language model, whose type --decoder would choose; "
                "omit --decoder.",
                code="decoder_absent",
            )

    def _describe(self, path: Path) -> dict[str, Any]:
        """Describe a stored file; for a link to a user's file, include its modification time."""
        described = self.hashes.describe(path)
        if path in self._linked:
            described["modified_ns"] = path.stat().st_mtime_ns
        return described


def copied_bytes(files: Iterable[Path], directory: Path) -> int:
    """Return the size of the files that cannot be linked into a directory."""
    here = directory.stat().st_dev
    return sum(path.stat().st_size for path in files if path.stat().st_dev != here)
