"""The first word and the last: what is said from press to release is recognised to the sample."""

from pathlib import Path

from tests.support.daemons import RunningDaemon
from tests.support.push_to_talk_clips import clips, dictate


async def test_no_word_is_cut_between_press_and_release(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, "--no-mic") as daemon:
        outcomes = [await dictate(clip, daemon.url) for clip in clips(12)]
    assert [outcome.clip.name for outcome in outcomes if not outcome.is_covered] == []
    # The embedded model takes a word for another now and then, whatever is around it.
    assert sum(outcome.is_whole for outcome in outcomes) >= 10
