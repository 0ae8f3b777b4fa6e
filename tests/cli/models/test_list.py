"""`streamasr models list`."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys

import pytest

from streamasr.catalogue.known import built_in
from streamasr.models.embedded import EMBEDDED
from tests.support.model_homes import NAME, REPOSITORY, Home


def test_the_list_shows_embedded_and_known_models(home: Home) -> None:
    assert home.run("list") == 0
    lines = home.out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STATE", "ROLE"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["tiny"][1:3] == ["embedded", "recogniser"]
    known = ["known", "recogniser", "qwen3-asr", "0.6B", "-", "30", "Apache-2.0", "-", REPOSITORY]
    assert rows[NAME][1:] == known
    assert rows["qwen3-asr-1.7b-q5_k"][-3:-1] == ["(2.0", "GB)"]
    assert not home.models.exists()


def test_the_list_shows_family_role_and_licence_of_each_model(home: Home) -> None:
    assert home.run("list") == 0
    rows = {line.split()[0]: re.split(r"  +", line) for line in home.out.splitlines()}
    recogniser, punctuation = rows["paraformer-zh"], rows["ct-punc-large"]
    assert recogniser[:5] == ["paraformer-zh", "known", "recogniser", "paraformer", "220M"]
    assert punctuation[:5] == ["ct-punc-large", "known", "punctuation", "ct-punc", "290M"]
    assert recogniser[7] == punctuation[7] == "FunASR Model License"


def test_the_list_for_programs_has_all_facts(home: Home) -> None:
    row = home.listed()["qwen3-aligner-0.6b"]
    assert row["state"] == "known"
    assert row["family"] == "qwen3-forced-aligner"
    assert row["languages"][:2] == ["Chinese", "English"]
    assert row["bytes"] is None
    assert row["path"] is None


def test_a_user_adds_models_in_his_settings(home: Home) -> None:
    home.configure('[models.mine]\nrepository = "me/model"\nlanguages = ["English"]')
    row = home.listed()["mine"]
    assert (row["source"], row["languages"], row["state"]) == ("me/model", ["English"], "known")
    home.configure('[models.mine]\nrepository = "me"')
    assert home.run("list") == 78
    assert "models.mine.repository: expected" in home.err


def test_a_broken_model_is_listed_with_its_problem(home: Home) -> None:
    (home.models / "old").mkdir(parents=True)
    assert home.run("list") == 0
    line, problem = (line for line in home.out.splitlines() if line.startswith("old"))
    assert "broken" in line
    assert problem.startswith("old: ")
    assert "has no model.json" in problem


def test_all_facts_about_named_models_are_shown(home: Home) -> None:
    assert home.run("list", NAME, "tiny") == 0
    blocks = home.out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [NAME, "tiny"]
    assert f"  source      {REPOSITORY}" in blocks[0].splitlines()
    assert "Chinese, English, Cantonese" in blocks[0]
    assert "  licence     Apache-2.0" in blocks[0]
    assert home.run("list", "--json", NAME) == 0
    assert [row["name"] for row in json.loads(home.out)] == [NAME]
    assert home.run("list", "qwen3-asr-0.7b") == 78
    assert "did you mean" in home.err


@pytest.mark.parametrize(("columns", "n_shown"), [(240, 10), (200, 9), (80, 7), (48, 4)])
def test_on_a_terminal_the_table_has_the_columns_that_fit(
    columns: int, n_shown: int, home: Home
) -> None:
    command = [sys.executable, "-m", "streamasr", "models", "list"]
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    lines = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(command, environment)).splitlines()
    assert len(lines[0].split()) == n_shown
    n_models = len(EMBEDDED) + len(built_in())
    assert len(lines) == 1 + n_models + (n_shown < 10)
    assert (lines[-1] == "more: streamasr models list NAME") == (n_shown < 10)
    assert all(len(line.rstrip()) <= columns for line in lines)


def on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Run a command on a terminal of its own and return its output."""
    master, slave = pty.openpty()
    with subprocess.Popen(command, stdout=slave, env=environment) as process:
        os.close(slave)
        output = b""
        with contextlib.suppress(OSError):  # raised at the end, instead of empty output
            while piece := os.read(master, 65536):
                output += piece
    os.close(master)
    assert process.returncode == 0
    return output.decode()
