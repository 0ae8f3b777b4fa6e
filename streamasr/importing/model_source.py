"""Interface of all forms of models: what `source.py` finds and `pack.py` writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from streamasr.importing.options import ImportOptions

if TYPE_CHECKING:
    from streamasr.importing.bundle_writer import BundleWriter


class Source(Protocol):
    """One model in files of the user; their headers have been read, the weights are on disk."""

    @property
    def family(self) -> str:
        """Name of the model's family."""

    @property
    def path(self) -> Path:
        """File or directory that stands for the model in messages."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences for the user about parts that are not used, and about choices."""

    def parts(self) -> Sequence[Path]:
        """Return the files that may have been chosen among others; none if there was no choice."""

    def files(self) -> Sequence[Path]:
        """Return the files with the weights."""

    def max_bytes(self, options: ImportOptions, directory: Path, /) -> float:
        """Return an upper bound for the size of the bundle, temporary files included.

        Args:
            options: requested properties of the bundle.
            directory: where it will be written.
        """

    def write(self, writer: "BundleWriter") -> dict[str, Any]:
        """Write the files of the bundle.

        Returns:
            The facts for `model.json` that are special to the family and the form; `languages`
            and `licence` may be None.

        Raises:
            ConfigError: a requested property does not apply to the form.
            ModelError: a file is damaged, or has values that cannot be stored as requested.
        """
