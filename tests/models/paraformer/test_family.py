"""Facts of the Paraformer family."""

import shutil
from pathlib import Path

from streamasr.models.bundle import open_bundle
from streamasr.models.embedded import EMBEDDED
from streamasr.models.paraformer.family import PARAFORMER
from streamasr.models.paraformer.names import HOTWORDS_FILE


def test_hotwords_have_an_effect_where_their_graph_is(tmp_path: Path) -> None:
    assert PARAFORMER.recognition
    ignores = PARAFORMER.recognition.ignores
    assert ignores(open_bundle(EMBEDDED["tiny-paraformer"])) == {"context", "hotwords"}
    copy = Path(shutil.copytree(EMBEDDED["tiny-paraformer"], tmp_path / "copy"))
    (copy / HOTWORDS_FILE).touch()
    assert not ignores(open_bundle(copy))


def test_its_texts_need_punctuation() -> None:
    assert PARAFORMER.recognition
    assert not PARAFORMER.recognition.traits.punctuates
