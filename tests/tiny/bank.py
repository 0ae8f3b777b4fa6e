"""Bank of utterances on disk: samples in one array, words and their times beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
_HOP = 80  # samples, 5 ms
_SILENCE_DB = -42.0  # against the loudest frame


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of one voice.

    Attributes:
        audio: (n,) int16, mono at SAMPLE_RATE, trimmed.
        words: spoken words, as ids of `vocabulary.WORDS`.
        times: (n_words, 2) seconds, NaN where unknown.
        voice: "engine/voice".
    """

    audio: npt.NDArray[np.int16]
    words: tuple[int, ...]
    times: npt.NDArray[np.float32]
    voice: str


def loud_frames(audio: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Find the 5 ms frames that are not silence."""
    n_frames = len(audio) // _HOP
    if n_frames == 0:
        return np.zeros(0, np.int64)
    energy = (audio[: n_frames * _HOP].reshape(n_frames, _HOP) ** 2).mean(axis=1)
    return np.flatnonzero(energy > energy.max() * 10 ** (_SILENCE_DB / 10) + 1e-9)


def trimmed(
    audio: npt.NDArray[np.float32],
    words: tuple[int, ...],
    starts: list[float] | None,
    voice: str,
) -> Utterance | None:
    """Remove silence from both ends, and from each word with a known start.

    Returns:
        The utterance; None if there is no sound, or the starts do not fit the words.
    """
    loud = loud_frames(audio)
    if len(loud) < 10 or (starts is not None and len(starts) != len(words)):
        return None
    first, last = int(loud[0]), int(loud[-1]) + 1
    times = np.full((len(words), 2), np.nan, np.float32)
    if starts is not None:
        edges = np.round(np.array(starts) * SAMPLE_RATE / _HOP).astype(int)
        edges = np.append(np.maximum(edges, first), last)
        for index in range(len(words)):
            inside = loud[(loud >= edges[index]) & (loud < edges[index + 1])]
            if len(inside) < 8:
                return None
            times[index] = inside[0] - first, inside[-1] + 1 - first
        times *= _HOP / SAMPLE_RATE
    sound = audio[first * _HOP : last * _HOP]
    sound = sound * (20_000 / np.abs(sound).max())
    return Utterance(sound.astype(np.int16), words, times, voice)


class Bank:
    """Utterances written by `write_bank`; the samples stay on disk until used."""

    def __init__(self, path: Path) -> None:
        index = np.load(path / "index.npz")
        self.audio = np.load(path / "audio.npy", mmap_mode="r")
        self.offsets: npt.NDArray[np.int64] = index["offsets"]
        self.word_offsets: npt.NDArray[np.int64] = index["word_offsets"]
        self.words: npt.NDArray[np.int32] = index["words"]
        self.times: npt.NDArray[np.float32] = index["times"]
        self.voice: npt.NDArray[np.int32] = index["voice"]
        self.voices: list[str] = [str(name) for name in index["voices"]]

    def __len__(self) -> int:
        return len(self.voice)

    def __getitem__(self, index: int) -> Utterance:
        low, high = self.word_offsets[index : index + 2]
        return Utterance(
            self.audio[self.offsets[index] : self.offsets[index + 1]],
            tuple(int(word) for word in self.words[low:high]),
            self.times[low:high],
            self.voices[self.voice[index]],
        )


def write_bank(path: Path, utterances: Iterable[Utterance]) -> int:
    """Write utterances to a new bank and return the number of samples."""
    path.mkdir(parents=True, exist_ok=True)
    kept = list(utterances)
    voices = sorted({utterance.voice for utterance in kept})
    number = {name: index for index, name in enumerate(voices)}
    offsets = np.cumsum([0] + [len(utterance.audio) for utterance in kept])
    audio = np.lib.format.open_memmap(
        path / "audio.npy", mode="w+", dtype=np.int16, shape=(int(offsets[-1]),)
    )
    for utterance, start in zip(kept, offsets, strict=False):
        audio[start : start + len(utterance.audio)] = utterance.audio
    audio.flush()
    np.savez(
        path / "index.npz",
        offsets=offsets,
        word_offsets=np.cumsum([0] + [len(utterance.words) for utterance in kept]),
        words=np.concatenate([np.array(u.words, np.int32) for u in kept]),
        times=np.concatenate([u.times for u in kept]),
        voice=np.array([number[u.voice] for u in kept], np.int32),
        voices=np.array(voices),
    )
    return int(offsets[-1])
