"""A daemon is connected from its arguments; it finds, imports and loads no model itself."""

import subprocess
import sys
from pathlib import Path

CONSTRUCT = """
import sys
from pathlib import Path
from streamasr.config.sections import Settings, StorageConfig
from streamasr.core.languages import Languages
from streamasr.core.model_facts import ModelFacts
from streamasr.daemon.daemon import Daemon


class Engine:
    facts = ModelFacts("none", "none", ())
    languages = Languages({})
    restarts = {}

    def queue_lengths(self):
        return {}


directory = Path(sys.argv[1])
settings = Settings(storage=StorageConfig(directory=directory, models=directory / "models"))
Daemon(settings, lambda: settings, open_engine=lambda on_trouble: Engine())
print(*sorted(sys.modules), sep="\\n")
"""

FORBIDDEN = (
    "gguf",
    "llama_cpp",
    "onnx",
    "onnxruntime",
    "requests",
    "rich",
    "streamasr.catalogue.find",
    "streamasr.decoder",
    "streamasr.engine.engine",
    "streamasr.importing",
    "streamasr.models.bundle",
    "streamasr.models.registry",
)


def test_constructing_a_daemon_touches_neither_models_nor_the_disk(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    result = subprocess.run(
        [sys.executable, "-c", CONSTRUCT, str(storage)], check=True, capture_output=True, text=True
    )
    loaded = set(result.stdout.split())
    assert "streamasr.daemon.daemon" in loaded
    assert not loaded.intersection(FORBIDDEN)
    assert result.stderr == ""
    assert not storage.exists()
