"""Model directories of our own as a source: their files are used unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamasr.core.errors import ModelError
from streamasr.importing.bundle_writer import BundleWriter, copied_bytes
from streamasr.importing.decoder_file import DECODER_BYTES, KEPT, count_weights, decoder_type
from streamasr.importing.onnx_file import read_graph
from streamasr.importing.options import ImportOptions
from streamasr.importing.qwen3.gguf_text import check_decoder
from streamasr.models.bundle import FACTS_FILE, Bundle
from streamasr.models.family import DECODER_FILE


@dataclass(frozen=True, slots=True)
class BundleSource:
    """Model directory of our own; implements `Source`."""

    bundle: Bundle
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Name of the model's family."""
        return self.bundle.family.name

    @property
    def path(self) -> Path:
        """The directory."""
        return self.bundle.directory

    def parts(self) -> Sequence[Path]:
        """Return none: a model directory holds one model."""
        return ()

    def files(self) -> Sequence[Path]:
        """Return all files; the names in the description may be wrong or incomplete."""
        names = {Path(name).name for name in self.bundle.files} - {FACTS_FILE}
        names |= {*self.bundle.family.files(self.bundle)}
        data = {p for graph in self.path.glob("*.onnx") for p in read_graph(graph).data_files}
        return sorted(data | {self.path / name for name in names})

    def max_bytes(self, options: ImportOptions, directory: Path) -> float:
        """Return an upper bound for the size of the copy."""
        kept = copied_bytes(self.files(), directory)
        if options.decoder in KEPT or not self._has_decoder():
            return kept
        return kept + count_weights(self.bundle.decoder) * DECODER_BYTES[options.decoder or "keep"]

    def write(self, writer: BundleWriter) -> dict[str, Any]:
        """Store all files, with the decoder in the requested type."""
        bundle, path = self.bundle, self.path
        writer.refuse_encoder_option(path)
        if not self._has_decoder():
            writer.refuse_decoder_option(path)
        bundle.check_files()
        for file in self.files():
            stated = bundle.files.get(file.name)
            if stated and stated.sha256 and stated.sha256 != writer.hashes.of(file):
                raise ModelError(
                    f"{file} is damaged: its SHA-256 differs from the one in {FACTS_FILE}; get the "
                    "model again.",
                    code="model_file_damaged",
                )
            if file.name != DECODER_FILE:
                writer.keep(file, file.name)
        precision = dict(bundle.precision)
        if self._has_decoder():
            check_decoder(bundle.decoder, self.family)
            writer.keep_decoder(bundle.decoder, DECODER_FILE)
            precision["decoder"] = decoder_type(writer.directory / DECODER_FILE)
        return bundle.facts | {"precision": precision}

    def _has_decoder(self) -> bool:
        return DECODER_FILE in self.bundle.family.files(self.bundle)
