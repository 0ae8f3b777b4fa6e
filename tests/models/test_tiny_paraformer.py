"""The embedded Paraformer on clips of voices that were excluded from training.

`tests/data/README.md` describes the clips; they were chosen for `tiny`, so this model may confuse a
word in them. `tests/tiny/README.md` has the accuracy of the model.
"""

import filecmp
from pathlib import Path

import numpy as np
import pytest

from streamasr.audio.file import open_audio
from streamasr.core.messages import Final, Message, Words
from streamasr.core.transcript import Word, join_texts
from streamasr.core.units import to_seconds
from streamasr.doctor.verification import normalised, word_error_rate
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.engine import LocalEngine
from streamasr.models.embedded import EMBEDDED
from streamasr.pipeline.transcribe import FileSettings, transcribe
from tests.models.test_tiny import FACTS
from tests.support.embedded import MOST_WORD_ERRORS
from tests.support.paths import CLIPS
from tests.tiny.make_bundle import make_paraformer_bundle

BUNDLE = EMBEDDED["tiny-paraformer"]

Found = dict[str, list[Message]]


@pytest.fixture(scope="module")
def found() -> Found:
    """Messages of each clip."""
    messages: Found = {}
    with LocalEngine(EngineConfig(BUNDLE, None, Hardware(threads=1))) as engine:
        for clip in FACTS:
            with open_audio(CLIPS / clip["file"]) as source:
                sent = transcribe(engine, source, FileSettings())
                messages[clip["file"]] = [each for each in sent if isinstance(each, Message)]
    return messages


def text_of(messages: list[Message]) -> str:
    return join_texts(each.text for each in messages if isinstance(each, Final))


def words_of(messages: list[Message]) -> list[Word]:
    return [word for each in messages if isinstance(each, Words) for word in each.words]


def test_almost_all_words_are_correct(found: Found) -> None:
    expected = normalised(" ".join(clip["text"] for clip in FACTS))
    heard = normalised(" ".join(text_of(found[clip["file"]]) for clip in FACTS))
    assert len(expected) > 60
    assert word_error_rate(expected, heard) <= MOST_WORD_ERRORS


def test_noise_gives_no_text(found: Found) -> None:
    (noise,) = (clip["file"] for clip in FACTS if not clip["text"])
    assert text_of(found[noise]) == ""


def test_the_mean_error_of_word_times_is_less_than_80_ms(found: Found) -> None:
    errors: list[float] = []
    for clip in FACTS:
        words, truth = words_of(found[clip["file"]]), clip.get("words", [])
        if [word.text for word in words] == [word["text"] for word in truth]:
            for word, true in zip(words, truth, strict=True):
                errors.append(abs(to_seconds(word.start) - true["start"]))
                errors.append(abs(to_seconds(word.end) - true["end"]))
    assert len(errors) > 40
    assert np.mean(errors) < 0.080


def test_the_bundle_equals_the_imported_checkpoint(tmp_path: Path) -> None:
    bundle = make_paraformer_bundle(tmp_path / "tiny-paraformer")
    names = {path.name for path in bundle.iterdir()}
    assert names == {path.name for path in BUNDLE.iterdir()}
    for name in names:
        assert filecmp.cmp(bundle / name, BUNDLE / name, shallow=False), name


def test_it_is_at_most_5_mb() -> None:
    assert sum(path.stat().st_size for path in BUNDLE.iterdir()) <= 5e6
