"""`streamasr models` with a model that punctuates."""

import json
import shutil
from pathlib import Path

import pytest

from streamasr.models.embedded import EMBEDDED
from tests.sources.ct_punc import MARKS, WORDS, Shape, random_weights, write_funasr_folder
from tests.support.model_homes import Home

WEIGHTS = random_weights(Shape(), len(WORDS), len(MARKS), 2)


@pytest.fixture
def installed(home: Home, tmp_path: Path) -> Path:
    source = write_funasr_folder(tmp_path / "punc", WEIGHTS, Shape())
    assert home.run("import", str(source), "--name", "marks") == 0
    assert "It punctuates texts from now on" in home.out
    return home.models / "marks"


def test_an_installed_one_is_listed_with_its_role(home: Home, installed: Path) -> None:
    row = home.listed()["marks"]
    assert (row["role"], row["family"], row["precision"]) == ("punctuation", "ct-punc", "fp32")
    assert row["languages"] == ["Chinese", "English"]
    assert home.listed()["ct-punc"]["role"] == "punctuation"


def test_a_recogniser_without_punctuation_names_a_model_that_adds_it(
    home: Home, tmp_path: Path
) -> None:
    folders = []
    for name in ("one", "two"):
        folders.append(Path(shutil.copytree(EMBEDDED["tiny-paraformer"], tmp_path / name)))
        (folders[-1] / "model.json").write_text((folders[-1] / "model.json").read_text() + " \n")
    assert home.run("import", str(folders[0]), "--name", "one") == 0
    assert "one writes no punctuation; `streamasr models pull ct-punc` adds it." in home.out
    source = write_funasr_folder(tmp_path / "punc", WEIGHTS, Shape())
    assert home.run("import", str(source), "--name", "marks") == 0
    assert home.run("import", str(folders[1]), "--name", "two") == 0
    assert "two is installed" in home.out
    assert "punctuation" not in home.out


def test_it_is_verified_by_punctuating_a_text(home: Home, installed: Path) -> None:
    assert home.run("verify", "marks", "--json") == 0
    report = json.loads(home.out)
    assert {each["name"]: each["passed"] for each in report["checks"]} == {
        "files": True,
        "loading": True,
        "punctuation": None,
    }
    assert report["checks"][2]["detail"].startswith("今")
    assert report["peak_memory"].keys() == {"main", "punctuator"}
    assert report["stages"]["punctuate"]["seconds"] > 0
    assert home.run("verify", "marks") == 0
    assert "marks: passed" in home.out


def test_a_damaged_one_fails(home: Home, installed: Path) -> None:
    words = installed / "tokens.json"
    words.write_text(words.read_text("utf-8").replace("今", "令"), "utf-8")
    assert home.run("verify", "marks", "--json") == 1
    assert json.loads(home.out)["checks"][0]["code"] == "hash_differs"


def test_one_that_does_not_load_fails(home: Home, installed: Path) -> None:
    facts = json.loads((installed / "model.json").read_text())
    (installed / "model.json").write_text(json.dumps(facts | {"marks": ["。"]}))
    assert home.run("verify", "marks", "--json") == 1
    assert json.loads(home.out)["checks"][1]["code"] == "punctuation_classes"
