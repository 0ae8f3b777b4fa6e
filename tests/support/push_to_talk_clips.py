"""Check of push to talk on clips that begin and end with a word: is a word cut?

    python -m tests.support.push_to_talk_clips [N]

Each clip begins at the first sample of a word, where push to talk begins, and its last word ends at
the release; then follows the tail. The clips are cut at random places, with a fixed seed, from
`tests/data/tiny_clips`, where the times of the words are known.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import numpy as np

from streamasr.audio.capture import Captured, CaptureEvent
from streamasr.audio.file import open_audio
from streamasr.client import v1
from streamasr.core.transcript import join_texts
from streamasr.core.units import SAMPLE_RATE, Float32Array, to_samples, to_seconds
from streamasr.dictation.push_to_talk import TAIL_S
from streamasr.dictation.utterance import OwnMicrophone
from tests.support.daemons import RunningDaemon
from tests.support.paths import CLIPS

BLOCK: Final = SAMPLE_RATE // 50
NOISE_DB: Final = -70.0


@dataclass(frozen=True, slots=True)
class Clip:
    """Audio from the press of the key to the end of the tail."""

    name: str
    samples: Float32Array
    words: list[str]
    released: float
    """Seconds after the press."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of the dictation of a clip."""

    clip: Clip
    finals: list[v1.Final]

    @property
    def words(self) -> list[str]:
        return _words(join_texts(final.text for final in self.finals))

    @property
    def is_covered(self) -> bool:
        """Return whether every sample from press to release was recognised, except in pauses."""
        return (
            bool(self.finals)
            and self.finals[0].start == 0.0
            and self.finals[-1].end >= self.clip.released
        )

    @property
    def is_whole(self) -> bool:
        """Return whether the first and the last word were recognised."""
        found, said = self.words, self.clip.words
        return bool(found) and (found[0], found[-1]) == (said[0], said[-1])


def _words(text: str) -> list[str]:
    return text.split() if " " in text or text.isascii() else list(text)


def clips(n_clips: int, seed: int = 2) -> Iterator[Clip]:
    """Yield clips from the beginning of a word to the end of another."""
    rng, noise = Random(seed), np.random.default_rng(seed)
    described = json.loads((CLIPS / "clips.json").read_text("utf-8"))["clips"]
    timed = [clip for clip in described if clip.get("words")]
    for number in range(n_clips):
        clip = timed[number % len(timed)]
        words = clip["words"]
        first = rng.randrange(len(words) - 1)
        last = rng.randrange(first + 1, len(words))
        begin, end = to_samples(words[first]["start"]), to_samples(words[last]["end"])
        with open_audio(CLIPS / clip["file"]) as source:
            whole = np.concatenate(list(source.blocks()))
        spoken = whole[begin:end]
        samples = np.concatenate([spoken, np.zeros(to_samples(TAIL_S), np.float32)])
        samples += noise.normal(0, 10 ** (NOISE_DB / 20), len(samples)).astype(np.float32)
        said = [word["text"] for word in words[first : last + 1]]
        yield Clip(f"{clip['file']} {first}-{last}", samples, said, to_seconds(len(spoken)))


class Recording:
    """Device that delivers a clip as soon as it is opened."""

    def __init__(self, samples: Float32Array) -> None:
        self._samples = samples

    async def events(self) -> AsyncGenerator[CaptureEvent, None]:
        """See `Capture.events`."""
        for at in range(0, len(self._samples), BLOCK):
            yield Captured(self._samples[at : at + BLOCK])


async def dictate(clip: Clip, url: str) -> Outcome:
    """Press, speak, release, and wait for the text."""
    microphone = OwnMicrophone(Recording(clip.samples), print, pre_roll=to_samples(0), url=url)
    async with microphone.running():
        utterance = microphone.begin(lambda: None)
        async with aclosing(utterance.events()) as events:
            finals = [event async for event in events if isinstance(event, v1.Final)]
    return Outcome(clip, [final for final in finals if final.text])


def main() -> int:
    """Dictate all clips; return 1 if words were cut."""
    n_clips = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as name, RunningDaemon(Path(name), "--no-mic") as daemon:
        outcomes = [asyncio.run(dictate(clip, daemon.url)) for clip in clips(n_clips)]
    for outcome in outcomes:
        if not (outcome.is_covered and outcome.is_whole):
            spans = [(final.start, final.end) for final in outcome.finals]
            print(f"{outcome.clip.name}: {outcome.clip.words} -> {outcome.words} {spans}")
    n_covered = sum(outcome.is_covered for outcome in outcomes)
    n_whole = sum(outcome.is_whole for outcome in outcomes)
    print(f"{n_covered} of {n_clips} covered from press to release, {n_whole} with both words")
    # A complete word may still be confused with another.
    return 0 if n_covered == n_clips and n_whole >= 0.9 * n_clips else 1


if __name__ == "__main__":
    sys.exit(main())
