"""Test that the first and the last word of push to talk are recognised completely."""

from pathlib import Path

from tests.support.daemons import RunningDaemon
from tests.support.embedded import EmbeddedModel
from tests.support.push_to_talk_clips import clips, dictate


async def test_no_word_is_cut_between_press_and_release(
    tmp_path: Path, embedded: EmbeddedModel
) -> None:
    with RunningDaemon(tmp_path, "--no-mic", model=embedded.name) as daemon:
        outcomes = [await dictate(clip, daemon.url) for clip in clips(12)]
    assert [outcome.clip.name for outcome in outcomes if not outcome.is_covered] == []
    # An embedded model confuses a word with another now and then, independent of its neighbours.
    assert sum(outcome.is_whole for outcome in outcomes) >= 10
