"""The models that come with the package: a new one is a folder here, and a name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

EMBEDDED: Final[Mapping[str, Path]] = {
    name: Path(__file__).with_name(name.replace("-", "_")) for name in ("tiny", "tiny-paraformer")
}
"""Model directories by name; no other model can have such a name."""
