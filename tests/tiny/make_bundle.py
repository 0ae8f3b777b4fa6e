"""Create the embedded model directory from the trained checkpoints in this folder.

    python -m tests.tiny.make_bundle streamasr/models/tiny

Existing files of the model are replaced; others are kept.
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
    """Create the directory, which must not exist, without any information about this machine."""
    options = ImportOptions("fp32", "f16", "tiny", LICENCE, LANGUAGES)
    import_model(HERE / "asr", destination, options)
    options = ImportOptions("fp32", "f16", "aligner", LICENCE, LANGUAGES)
    import_model(HERE / "aligner", destination / "aligner", options)
    for directory, checkpoint in ((destination, "asr"), (destination / "aligner", "aligner")):
        path = directory / FACTS_FILE
        facts = json.loads(path.read_text("utf-8"))
        facts["source"] = {"checkpoint": f"tests/tiny/{checkpoint}"}
        path.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", "utf-8")
    return destination


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        made = make_bundle(Path(scratch) / "tiny")
        shutil.copytree(made, sys.argv[1], dirs_exist_ok=True)
