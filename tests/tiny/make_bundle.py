"""Create the directories of the embedded models from the trained checkpoints in this folder.

    python -m tests.tiny.make_bundle streamasr/models

Existing files of the models are replaced; others are kept.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models.bundle import FACTS_FILE

HERE: Final = Path(__file__).parent
LICENCE: Final = "Apache-2.0"
LANGUAGES: Final = ("English", "Chinese")


def make_bundle(destination: Path) -> Path:
    """Create `tiny`, recogniser and aligner, in a directory that must not exist."""
    _make(destination, "asr", ImportOptions("fp32", "f16", "tiny", LICENCE, LANGUAGES))
    options = ImportOptions("fp32", "f16", "aligner", LICENCE, LANGUAGES)
    _make(destination / "aligner", "aligner", options)
    return destination


def make_paraformer_bundle(destination: Path) -> Path:
    """Create `tiny-paraformer` in a directory that must not exist."""
    options = ImportOptions("int8", name="tiny-paraformer", licence=LICENCE, languages=LANGUAGES)
    _make(destination, "paraformer", options)
    return destination


def _make(destination: Path, checkpoint: str, options: ImportOptions) -> None:
    """Import a checkpoint; leave out of the description all that belongs to this machine."""
    import_model(HERE / checkpoint, destination, options)
    path = destination / FACTS_FILE
    facts = json.loads(path.read_text("utf-8"))
    facts["source"] = {"checkpoint": f"tests/tiny/{checkpoint}"}
    path.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    models = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        made = make_bundle(Path(scratch) / "tiny")
        shutil.copytree(made, models / "tiny", dirs_exist_ok=True)
        made = make_paraformer_bundle(Path(scratch) / "tiny-paraformer")
        shutil.copytree(made, models / "tiny_paraformer", dirs_exist_ok=True)
