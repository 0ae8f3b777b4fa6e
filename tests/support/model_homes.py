"""The files of a user of `streamasr models`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamasr.cli.main import main
from tests.support.hubs import COMMIT

NAME = "qwen3-asr-0.6b"
REPOSITORY = "Qwen/Qwen3-ASR-0.6B"
WEIGHTS = f"/cdn/{COMMIT}/model.safetensors"


@dataclass
class Home:
    """Files of a user, and the last output of the command."""

    path: Path
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    @property
    def models(self) -> Path:
        return self.path / "cache/streamasr/models"

    def configure(self, text: str) -> None:
        config = self.path / "config/streamasr/config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(text)

    def run(self, *arguments: str) -> int:
        """`streamasr models ...`; its exit code."""
        with pytest.raises(SystemExit) as ended:
            main(["models", *arguments])
        self.out, self.err = self.capsys.readouterr()
        assert "Traceback" not in self.err
        return int(ended.value.code or 0)

    def listed(self) -> dict[str, dict[str, Any]]:
        assert self.run("list", "--json") == 0
        return {row["name"]: row for row in json.loads(self.out)}

    def left(self) -> set[str]:
        """Names among the models, notes and the lock left out."""
        names = {path.name for path in self.models.iterdir()}
        return {name for name in names if "hashes.json" not in name and name != ".lock"}
