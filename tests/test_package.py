"""Files in the distributions: everything that the program needs at run time."""

from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from streamasr.models.embedded import EMBEDDED
from tests.support.paths import REPOSITORY


def files_below(directory: Path) -> set[str]:
    paths = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(REPOSITORY)) for path in paths}


@pytest.mark.parametrize("builder", [WheelBuilder, SdistBuilder])
def test_a_distribution_has_the_package_with_its_data(builder: Any) -> None:
    built = builder(str(REPOSITORY))
    contents = {file.distribution_path for file in built.recurse_included_files()}
    package = files_below(REPOSITORY / "streamasr")
    assert package <= contents
    for directory in EMBEDDED.values():
        assert str(directory.relative_to(REPOSITORY) / "model.json") in package


def test_the_wheel_has_the_page_and_the_units() -> None:
    built = WheelBuilder(str(REPOSITORY))
    contents = {file.distribution_path for file in built.recurse_included_files()}
    for directory, place in (("clients/web", "server/web"), ("systemd", "service/systemd")):
        for path in files_below(REPOSITORY / directory):
            assert path.replace(directory, f"streamasr/{place}", 1) in contents
