"""Installed models: their paths, their use and their removal."""

import subprocess
import sys
from pathlib import Path

import pytest

from streamasr.core.sizes import size_text
from tests.sources.ggml_org import write_ggml_org
from tests.support.model_homes import NAME, Home

OFFLINE = """
import socket, sys
from streamasr.cli.main import main
def connect(*_): raise AssertionError("the network is used")
socket.socket.connect = socket.getaddrinfo = connect
for arguments in (["models", "list"], ["models", "path", "small"], ["models", "verify", "small"],
                  ["models", "pull", "small"], ["models", "remove", "small"]):
    try:
        main(arguments)
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
    assert not {"requests", "urllib3"} & {*sys.modules}
"""


def test_installed_models_are_used_without_the_network(home: Home, checkpoint: Path) -> None:
    home.configure('[models.small]\nrepository = "me/small"')
    assert home.run("import", str(checkpoint)) == 0
    command = [sys.executable, "-c", OFFLINE]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    # Verifying fails, as these weights are random; that it does not reach out is what counts.
    codes = [line for line in result.stderr.splitlines() if line.isdecimal()]
    assert codes == ["0", "0", "1", "0", "0"]


def test_paths_are_for_scripts(home: Home) -> None:
    assert home.run("path", "tiny") == 0
    assert (Path(home.out.strip()) / "model.json").exists()
    assert home.run("path", NAME) == 78
    assert f"`streamasr models pull {NAME}` gets it" in home.err
    assert home.out == ""


def test_removing_an_unknown_model_is_an_error(home: Home) -> None:
    assert home.run("remove", "mine", "tiny", "../x") == 78
    assert "'mine' is not installed" in home.err
    assert "tiny is embedded and cannot be removed" in home.err
    assert "'../x' cannot be a model's name" in home.err


def test_removing_links_to_files_that_stay_frees_nothing(home: Home, checkpoint: Path) -> None:
    pair = write_ggml_org(checkpoint, home.path / "ggufs")
    assert home.run("import", str(pair), "--name", "linked") == 0
    decoder = home.models / "linked/decoder.gguf"
    made = sum(path.stat().st_size for path in decoder.parent.iterdir() if path != decoder)
    kept = decoder.stat().st_size
    assert decoder.stat().st_nlink == 2
    assert home.run("remove", "linked") == 0
    assert home.out == (
        f"linked is removed, which frees {size_text(made)}; {size_text(kept)} stay, as those files "
        "are in another place too.\n"
    )


def test_the_directory_of_models_can_be_set(home: Home, checkpoint: Path, tmp_path: Path) -> None:
    home.configure(f'[storage]\nmodels = "{tmp_path / "elsewhere"}"')
    assert home.run("import", str(checkpoint)) == 0
    assert (tmp_path / "elsewhere/small/model.json").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["pull"], ["import"], ["fetch"], ["pull", "x", "--encoder", "int4"]]
)
def test_a_wrong_use_ends_with_2(arguments: list[str], home: Home) -> None:
    assert home.run(*arguments) == 2
