"""Test clips of voices and recordings that were excluded from training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from bank import SAMPLE_RATE, Bank, Utterance
from vocabulary import DIGITS, WORD_ID, chinese_sentence, sentence

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TestClip:
    """Clip with its correct words and times.

    Attributes:
        audio: (n,), mono at SAMPLE_RATE, -1..1.
        words: spoken words, as ids of `vocabulary.WORDS`.
        times: (n_words, 2) seconds, NaN where unknown.
        voice: "engine/voice".
    """

    audio: Float32Array
    words: tuple[int, ...]
    times: Float32Array
    voice: str


def join(utterances: list[Utterance], rng: Random) -> TestClip:
    """Concatenate utterances with gaps of up to 0.4 s, and silence before and after."""
    place, parts, words = 0, list[Float32Array](), list[int]()
    times = list[Float32Array]()
    for index, said in enumerate(utterances):
        gap = np.zeros(int(rng.uniform(0.1, 0.5) * SAMPLE_RATE), np.float32)
        if index:
            gap = gap[: int(rng.uniform(0, 0.4) * SAMPLE_RATE)]
        place += len(gap)
        parts += [gap, said.audio.astype(np.float32) / 32768]
        times.append(said.times + place / SAMPLE_RATE)
        words += said.words
        place += len(said.audio)
    parts.append(np.zeros(int(rng.uniform(0.1, 0.5) * SAMPLE_RATE), np.float32))
    audio = np.concatenate(parts) * (10 ** (rng.uniform(-15, 0) / 20))
    return TestClip(audio, tuple(words), np.concatenate(times), utterances[0].voice)


def whole(bank: Bank, count: int, rng: Random) -> list[TestClip]:
    """Choose sentences as they were spoken."""
    chosen = rng.sample(range(len(bank)), min(count, len(bank)))
    return [join([bank[index]], rng) for index in chosen]


def joined(
    bank: Bank, count: int, rng: Random, invent: Callable[[Random, int], list[str]]
) -> list[TestClip]:
    """Join words of one voice to sequences of 3 to 12."""
    voices: dict[int, dict[int, list[int]]] = {}
    for index in range(len(bank)):
        word = bank[index].words[0]
        voices.setdefault(int(bank.voice[index]), {}).setdefault(word, []).append(index)
    clips = []
    for _ in range(count):
        known = voices[rng.choice(list(voices))]
        words = [WORD_ID[word] for word in invent(rng, rng.randint(3, 12))]
        said = [bank[rng.choice(known[word])] for word in words if word in known]
        clips.append(join(said, rng))
    return clips


def digits(rng: Random, n_words: int) -> list[str]:
    return [rng.choice(DIGITS) for _ in range(n_words)]


def silent_clips(count: int, rng: Random) -> list[TestClip]:
    """Generate silence, noise of several colours and levels, hum and clicks."""
    clips = []
    for index in range(count):
        n = int(rng.uniform(0.3, 6) * SAMPLE_RATE)
        noise = np.random.default_rng(index).standard_normal(n)
        frequency = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
        slope = rng.choice([0.0, -0.5, -1.0])
        noise = np.fft.irfft(np.fft.rfft(noise) * np.maximum(frequency, 50) ** slope, n)
        noise *= 10 ** (rng.uniform(-70, -15) / 20) / noise.std()
        match index % 5:
            case 0:
                noise *= 0
            case 1:
                noise += 0.1 * np.sin(2 * np.pi * 50 * np.arange(n) / SAMPLE_RATE)
            case 2:
                noise[rng.randrange(n)] += 0.5
        clips.append(TestClip(noise.astype(np.float32), (), np.zeros((0, 2), np.float32), "none"))
    return clips


def with_noise(clips: list[TestClip], decibels: float) -> list[TestClip]:
    """Add white noise at a ratio to each clip's mean power."""
    rng = np.random.default_rng(0)
    noisy = []
    for clip in clips:
        power = float((clip.audio**2).mean()) * 10 ** (-decibels / 10)
        audio = clip.audio + rng.standard_normal(len(clip.audio)) * np.sqrt(power)
        noisy.append(TestClip(audio.astype(np.float32), clip.words, clip.times, clip.voice))
    return noisy


def held_out_sets(banks: Path, count: int, seed: int) -> dict[str, list[TestClip]]:
    """Generate all sets, `count` clips each."""
    rng = Random(seed)

    def bank(name: str) -> Bank:
        return Bank(banks / name)

    espeak = whole(bank("test_sentences"), count, rng)
    return {
        "espeak sentences": espeak,
        "espeak sentences, 15 dB noise": with_noise(espeak, 15),
        "espeak joined words": joined(bank("test_words"), count, rng, sentence),
        "flite sentences": whole(bank("test_flite_sentences"), count, rng),
        "flite joined words": joined(bank("test_flite_words"), count, rng, sentence),
        "people's digits, joined": joined(bank("test_people"), count, rng, digits),
        "Mandarin sentences": whole(bank("test_chinese_sentences"), count, rng),
        "Mandarin joined words": joined(bank("test_chinese_words"), count, rng, chinese_sentence),
        "silence and noise": silent_clips(count, rng),
    }
