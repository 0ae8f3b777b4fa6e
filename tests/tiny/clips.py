"""Training clips generated on the fly: utterances joined at known positions, in rooms and noise.

All clips of a batch have the same length, so nothing is padded and the features are exactly the
reference's. Speed, vocal tract length and tempo are changed by resampling, by warping the mel
filters and by the hop of the short-time transform; all three are cheap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from bank import SAMPLE_RATE, Bank, Utterance
from model import CHUNK, TOKENS_PER_CHUNK, n_tokens
from torch import Tensor
from transformers.audio_utils import mel_filter_bank
from vocabulary import DIGITS, WORD_ID, WORDS, chinese_sentence, sentence

Float32Array = npt.NDArray[np.float32]
N_FFT, HOP, N_MELS = 400, 160, 128
BLANK = len(WORDS)  # frame label without speech
UNKNOWN = -100  # frame label of speech whose word is not known
WARPS = [0.84 + 0.03 * step for step in range(12)]
FADE = 64  # samples
AUDIBLE = 0.6  # least fraction of a word inside the clip for the word to count


@dataclass(frozen=True, slots=True)
class Mix:
    """Relative frequencies of the kinds of clips."""

    people: float
    words: float
    sentences: float
    chinese_words: float
    chinese_sentences: float
    nothing: float = 0.07


PLAIN_WARP = 5
"""Index into WARPS of hardly any change."""


@dataclass(slots=True)
class Clip:
    """Clip under construction: samples, words, and the span of each word, in samples."""

    audio: Float32Array
    words: list[int] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    unknown: list[tuple[int, int]] = field(default_factory=list)
    """Regions with words at unknown positions."""


@dataclass(frozen=True, slots=True)
class Recordings:
    """Clips of one length as a microphone records them, before any features.

    Attributes:
        clips: words and their spans, in samples.
        audio: (batch, samples), degraded.
        warps: index into WARPS for each clip, a change of the vocal tract length.
        curves: (batch, bins), the microphone's response in dB.
        hop: samples from frame to frame; other values than HOP change the tempo.
    """

    clips: list[Clip]
    audio: Tensor
    warps: list[int]
    curves: npt.NDArray[np.float64]
    hop: int
    is_plain: bool = False
    """As the voices spoke, without a room or a microphone."""

    @property
    def scale(self) -> float:
        """Seconds of features for each sample."""
        return HOP / self.hop / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Batch:
    """Input of a training step.

    Attributes:
        mel: (batch, frames, mels), normalised as the reference does.
        words: spoken words of each clip.
        spans: (n_words, 2) seconds for each clip, NaN where unknown.
        frame_words: (batch, tokens), the word at each audio token, BLANK or UNKNOWN.
    """

    mel: Tensor
    words: list[list[int]]
    spans: list[Float32Array]
    frame_words: Tensor


def mel_filters(warp: float = 1.0) -> Float32Array:
    """Compute the reference's mel filters, sampled at frequencies `warp` times as high.

    Returns:
        (n_fft // 2 + 1, mels).
    """
    filters = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=N_MELS,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    bins = np.arange(N_FFT // 2 + 1)
    places = np.clip(bins * warp, 0, N_FFT // 2)
    low = np.minimum(places.astype(int), N_FFT // 2 - 1)
    share = places - low
    moved = np.zeros((len(bins), len(bins)))
    moved[bins, low] += 1 - share
    moved[bins, low + 1] += share
    return (moved.T @ filters).astype(np.float32)


def log_mel(audio: Tensor, filters: Tensor, gains: Tensor | None = None, hop: int = HOP) -> Tensor:
    """Compute features as `Qwen3ASRFeatureExtractor` does.

    Args:
        audio: (batch, samples).
        filters: (bins, mels) or (batch, bins, mels).
        gains: (batch, bins), factors on the power spectrum.
    Returns:
        (batch, samples // hop, mels).
    """
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(audio, N_FFT, hop, window=window, return_complex=True)
    power = (spectrum[..., :-1].abs() ** 2).transpose(1, 2)
    if gains is not None:
        power = power * gains[:, None]
    loudness = (power @ filters).clamp(min=1e-10).log10()
    floor = loudness.amax(dim=(1, 2), keepdim=True) - 8.0
    return (torch.maximum(loudness, floor) + 4.0) / 4.0


def resampled(audio: npt.NDArray[np.int16], speed: float) -> Float32Array:
    """Change the speed of audio, including its pitch; return float32 in -1..1."""
    sound = audio.astype(np.float32) / 32768
    if speed == 1.0:
        return sound
    places = np.arange(0, len(sound) - 1, speed, dtype=np.float32)
    low = np.minimum(places.astype(np.int32), len(sound) - 2)  # positions are rounded
    share = places - low
    return sound[low] * (1 - share) + sound[low + 1] * share


class Voices:
    """Words of a bank, by voice and word."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.words: dict[str, dict[int, list[int]]] = {}
        for index in range(len(bank)):
            if bank.word_offsets[index + 1] - bank.word_offsets[index] == 1:
                word = int(bank.words[bank.word_offsets[index]])
                voice = self.words.setdefault(bank.voices[bank.voice[index]], {})
                voice.setdefault(word, []).append(index)
        self.engines: dict[str, list[str]] = {}
        for name in self.words:
            self.engines.setdefault(name.split("/")[0], []).append(name)

    def pick(self, rng: Random) -> str:
        """Choose a voice: espeak-ng's many voices more often than the few of all others."""
        names = list(self.engines)
        weights = [1.6 if name == "espeak" else 0.5 for name in names]
        engine = rng.choices(names, weights)[0]
        return rng.choice(self.engines[engine])

    def say(self, rng: Random, voice: str, word: int) -> Utterance | None:
        found = self.words[voice].get(word)
        return self.bank[rng.choice(found)] if found else None


class Sentences:
    """Sentences of a bank, by length; engines are drawn before sentences."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        lengths = np.diff(bank.offsets)
        engine = np.array([name.split("/")[0] == "espeak" for name in bank.voices])[bank.voice]
        self._groups = []
        for group in (np.flatnonzero(engine), np.flatnonzero(~engine)):
            if len(group):
                order = group[np.argsort(lengths[group])]
                self._groups.append((order, lengths[order]))

    def pick(self, rng: Random, shortest: float, longest: float) -> Utterance | None:
        """Choose a sentence with `shortest` to `longest` samples."""
        weights = [0.68, 0.32][: len(self._groups)]
        order, lengths = rng.choices(self._groups, weights)[0]
        low, high = np.searchsorted(lengths, [shortest, longest])
        return self.bank[int(order[rng.randrange(low, high)])] if high > low else None


def make_noises(rng: np.random.Generator, banks: list[Bank]) -> list[Float32Array]:
    """Generate half a minute each of several noises with a root mean square of one."""
    n = 30 * SAMPLE_RATE
    frequency = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    noises = []
    for slope in (0.0, 0.0, -0.5, -1.0, 0.3):
        shape = np.maximum(frequency, 40.0) ** slope
        noises.append(np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * shape))
    seconds = np.arange(n) / SAMPLE_RATE
    for mains in (50, 60):
        tones = [np.sin(2 * np.pi * mains * k * seconds) / k for k in (1, 2, 3, 5, 7)]
        noises.append(np.sum(tones, axis=0) + 0.02 * rng.standard_normal(n))
    for n_talkers in (8, 12, 20):
        babble = np.zeros(n)
        for _ in range(n_talkers):
            place = 0
            while place < n:
                bank = banks[rng.integers(len(banks))]
                sound = bank[int(rng.integers(len(bank)))].audio[: n - place]
                babble[place : place + len(sound)] += sound * rng.uniform(0.3, 1)
                place += len(sound)
        noises.append(babble)
    return [(x / np.sqrt((x**2).mean())).astype(np.float32) for x in noises]


class ClipMaker:
    """Generator of ever new batches of clips from the banks."""

    def __init__(self, banks: Path, seed: int, mix: Mix, plain: float = 0.0) -> None:
        """Open the banks; `plain` is the share of batches without any change of the audio."""
        self.rng = Random(seed)
        self.np_rng = np.random.default_rng(seed)
        self.mix = mix
        self.plain_share = plain
        names = ("words", "people", "chinese_words")
        self.voices = {name: Voices(Bank(banks / name)) for name in names}
        names = ("sentences", "chinese_sentences")
        self.sentences = {name: Sentences(Bank(banks / name)) for name in names}
        self.noises = make_noises(self.np_rng, [Bank(banks / "words"), Bank(banks / "sentences")])
        self.filters = torch.from_numpy(np.stack([mel_filters(warp) for warp in WARPS]))
        self.plain = torch.from_numpy(mel_filters())

    # -- composition of a clip --------------------------------------------------------------

    def make_clip(self, length: int, *, timed: bool = False) -> Clip:
        """Compose a clip of `length` samples; if `timed`, the position of every word is known."""
        clip = Clip(np.zeros(length, np.float32))
        weights = [getattr(self.mix, name) for name in self.mix.__slots__]
        kind = self.rng.choices(self.mix.__slots__, weights)[0]
        match kind:
            case "nothing":
                self._make_nonsense(clip)
            case "sentences" | "chinese_sentences":
                self._add_sentences(clip, self.sentences[kind], timed=timed)
            case _:
                self._add_words(clip, kind)
        return clip

    def _place(self, clip: Clip, said: Utterance, start: int, speed: float) -> int:
        """Mix an utterance in, cut off at the end of the clip, and return its end position."""
        sound = resampled(said.audio, speed) * 10 ** (self.rng.uniform(-5, 0) / 20)
        n_fade = min(FADE, len(sound) // 4)
        ramp = np.linspace(0, 1, n_fade, dtype=np.float32)
        sound[:n_fade] *= ramp
        sound[-n_fade:] *= ramp[::-1]
        end = min(start + len(sound), len(clip.audio))
        clip.audio[start:end] += sound[: end - start]
        for word, (first, last) in zip(said.words, said.times, strict=True):
            low = start + first / speed * SAMPLE_RATE
            high = start + last / speed * SAMPLE_RATE
            if math.isnan(low) or (end - low) / (high - low) >= AUDIBLE:
                clip.words.append(word)
                clip.spans.append((low, min(high, end)))
        if np.isnan(said.times).any():
            clip.unknown.append((start, end))
        return start + len(sound)

    def _speed(self) -> float:
        return math.exp(self.rng.uniform(-0.16, 0.16)) if self.rng.random() < 0.8 else 1.0

    def _lead_in(self, length: int) -> int:
        return int(self.rng.uniform(0, min(0.9 * SAMPLE_RATE, 0.25 * length)))

    def _gap(self) -> int:
        kind = self.rng.random()
        if kind < 0.12:
            return -int(self.rng.uniform(0, 0.03) * SAMPLE_RATE)
        longest = 0.08 if kind < 0.5 else 0.4 if kind < 0.95 else 1.5
        return int(self.rng.uniform(0, longest) * SAMPLE_RATE)

    def _add_words(self, clip: Clip, kind: str) -> None:
        rng, length = self.rng, len(clip.audio)
        voices = self.voices[kind]
        voice, speed = voices.pick(rng), self._speed()
        mixed = rng.random() < 0.15
        cut = rng.random() < 0.2  # the last word may be cut off
        end = length - int(rng.random() ** 2 * 0.3 * length)
        place = self._lead_in(length)
        for word in self._words_to_say(kind):
            source = voices
            if mixed:
                if kind == "words" and WORDS[word] in DIGITS and rng.random() < 0.5:
                    source = self.voices["people"]
                voice, speed = source.pick(rng), self._speed()
            said = source.say(rng, voice, word)
            if said is None:
                continue
            n_samples = len(said.audio) / speed
            audible = (end - place) / n_samples
            if audible < 1 and (not cut or 0.25 < audible < AUDIBLE + 0.05):
                break
            limit = clip.audio[:end] if audible < 1 else clip.audio
            part = Clip(limit, clip.words, clip.spans, clip.unknown)
            place = max(self._place(part, said, place, speed) + self._gap(), 0)
            if place >= end:
                break

    def _words_to_say(self, kind: str) -> list[int]:
        rng = self.rng
        match kind:
            case "people":
                words = [rng.choice(DIGITS) for _ in range(60)]
            case "chinese_words":
                words = chinese_sentence(rng, 60)
            case _:
                words = sentence(rng, 60)
        return [WORD_ID[word] for word in words]

    def _add_sentences(self, clip: Clip, sentences: Sentences, *, timed: bool) -> None:
        rng, length = self.rng, len(clip.audio)
        place = self._lead_in(length)
        cut = rng.random() < 0.2
        while (room := length - place) > 0.6 * SAMPLE_RATE:
            speed = self._speed()
            longest = 2.0 if cut else 1.0
            said = sentences.pick(rng, 0.3 * room * speed, longest * room * speed)
            if said is None:
                said = sentences.pick(rng, 0, room * speed)
            if said is None:
                return
            known = not np.isnan(said.times).any()
            if not known and (timed or len(said.audio) / speed > room):
                if rng.random() < 0.2:
                    return
                continue
            place = self._place(clip, said, place, speed)
            place += int(rng.uniform(0.05, 1.2) * SAMPLE_RATE)
            if rng.random() < 0.3:
                return

    def _make_nonsense(self, clip: Clip) -> None:
        """Fill a clip with sounds that are not words."""
        rng, np_rng, length = self.rng, self.np_rng, len(clip.audio)
        seconds = np.arange(length) / SAMPLE_RATE
        match rng.choice(["silence", "noise", "noise", "tones", "bursts", "shuffled"]):
            case "noise":
                clip.audio += self._noise(length) * rng.uniform(0.001, 0.2)
            case "tones":
                for _ in range(rng.randint(1, 3)):
                    low, high = rng.uniform(80, 3000), rng.uniform(80, 3000)
                    sweep = low + (high - low) * seconds / seconds[-1] * rng.choice([0, 0, 1])
                    clip.audio += 0.2 * np.sin(2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE)
            case "bursts":
                for _ in range(rng.randint(1, 8)):
                    place, width = rng.uniform(0, seconds[-1]), rng.uniform(0.01, 0.25)
                    shape = np.exp(-(((seconds - place) / width) ** 2))
                    clip.audio += rng.uniform(0.05, 0.5) * shape * self._noise(length) * 0.5
            case "shuffled":
                bank = self.sentences["sentences"].bank
                sound = bank[int(np_rng.integers(len(bank)))].audio[:length]
                width = int(rng.uniform(0.02, 0.05) * SAMPLE_RATE)
                pieces = [sound[p : p + width][::-1] for p in range(0, len(sound), width)]
                rng.shuffle(pieces)
                shuffled = np.concatenate(pieces).astype(np.float32) / 32768
                clip.audio[: len(shuffled)] += shuffled

    # -- degradation on the way to the microphone ---------------------------------------------

    def _noise(self, length: int) -> Float32Array:
        noise = self.rng.choice(self.noises)
        start = self.rng.randrange(len(noise) - length)
        return noise[start : start + length]

    def _room(self, audio: Float32Array) -> Float32Array:
        """Add the reverberation of a random room: noise that decays after the direct sound."""
        rng = self.rng
        reverberation = rng.uniform(0.08, 0.6)  # seconds until -60 dB
        n = int(reverberation * SAMPLE_RATE * 0.7)
        answer = self.np_rng.standard_normal(n).astype(np.float32)
        answer *= np.exp(-6.9 * np.arange(n, dtype=np.float32) / (reverberation * SAMPLE_RATE))
        answer[: int(rng.uniform(0.001, 0.01) * SAMPLE_RATE)] = 0
        strength = 10 ** (rng.uniform(-14, 0) / 20)
        answer *= strength / math.sqrt(float((answer**2).sum()) + 1e-9)
        answer[0] = 1.0
        size = 1 << (len(audio) + n).bit_length()
        size = size * 5 // 8 if size * 5 // 8 >= len(audio) + n else size
        spectrum = torch.fft.rfft(torch.from_numpy(audio), size)
        spectrum *= torch.fft.rfft(torch.from_numpy(answer), size)
        return torch.fft.irfft(spectrum, size)[: len(audio)].numpy()

    def _degrade(self, audio: Float32Array, *, silent: bool) -> Float32Array:
        """Add room, noise, clipping and a level."""
        rng, length = self.rng, len(audio)
        peak = float(np.abs(audio).max())
        if peak < 1e-6:
            noisy = audio + self._noise(length) * 10 ** (rng.uniform(-80, -20) / 20)
            return noisy.astype(np.float32) if rng.random() < 0.7 else audio
        if rng.random() < 0.35:
            audio = self._room(audio)
        rms = math.sqrt(float((audio**2).mean()))
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            ratio = rng.uniform(7, 25) if rng.random() < 0.4 else rng.uniform(20, 50)
            audio = audio + self._noise(length) * (rms * 10 ** (-ratio / 20))
        level = 10 ** (min(0.0, rng.uniform(-35, 8)) / 20) if not silent else rng.random()
        audio = audio * (level / float(np.abs(audio).max()))
        if rng.random() < 0.08:
            limit = rng.uniform(0.25, 0.9) * level
            audio = np.clip(audio, -limit, limit)
        return audio.astype(np.float32)

    def _microphone(self, n_bins: int) -> npt.NDArray[np.float64]:
        """Draw a smooth curve in dB over the spectrum's bins, often without the upper half."""
        rng = self.rng
        bins = np.linspace(0, 1, n_bins)
        hertz = bins * SAMPLE_RATE / 2
        curve = np.zeros(len(bins))
        for waves in (0.5, 1, 2, 3.5):
            strength = rng.gauss(0, 3.0 / math.sqrt(waves))
            curve += strength * np.cos(2 * np.pi * (waves * bins**0.6 + rng.random()))
        if rng.random() < 0.35:  # a telephone, or a recording at 8 kHz
            edge = rng.uniform(3200, 4000)
            curve -= np.clip((hertz - edge) * rng.uniform(0.1, 0.4), 0, 70)
        if rng.random() < 0.3:
            curve -= np.clip((rng.uniform(80, 350) - hertz) * 0.15, 0, 40)
        return curve

    def mask(self, mel: Tensor) -> None:
        """Mask a few bands and time spans of (batch, frames, mels)."""
        for row in mel:
            floor = row.min()
            for _ in range(self.rng.choice([0, 0, 1, 2])):
                width = round(self.rng.uniform(0.015, 0.14) * row.shape[1])
                low = self.rng.randrange(row.shape[1] - width)
                level = floor if self.rng.random() < 0.5 else row.mean()
                row[:, low : low + width].fill_(level)
            for _ in range(self.rng.choice([0, 0, 1, 2])):
                width = self.rng.randint(1, 10)
                low = self.rng.randrange(max(1, row.shape[0] - width))
                row[low : low + width].fill_(floor)

    def record(self, batch: int, seconds: float, *, n_bins: int, timed: bool = False) -> Recordings:
        """Compose clips of `seconds` each, for a spectrum of `n_bins`."""
        rng = self.rng
        n_frames = round(seconds * SAMPLE_RATE / HOP)
        is_plain = rng.random() < self.plain_share
        hop = rng.randint(140, 184) if rng.random() < 0.4 and not is_plain else HOP
        clips = [self.make_clip(n_frames * hop, timed=timed) for _ in range(batch)]
        if is_plain:
            return self._plain(clips, n_bins)
        audio = np.stack([self._degrade(clip.audio, silent=not clip.words) for clip in clips])
        warps = [rng.randrange(len(WARPS)) for _ in clips]
        curves = np.stack([self._microphone(n_bins) for _ in clips])
        return Recordings(clips, torch.from_numpy(audio), warps, curves, hop)

    def _plain(self, clips: list[Clip], n_bins: int) -> Recordings:
        """Return clips with a level and a faint noise."""
        levels = [10 ** (self.rng.uniform(-25, 0) / 20) for _ in clips]
        noise = [
            self._noise(len(clip.audio)) * 10 ** (self.rng.uniform(-80, -55) / 20) for clip in clips
        ]
        audio = [
            clip.audio * level + hiss
            for clip, level, hiss in zip(clips, levels, noise, strict=True)
        ]
        curves = np.zeros((len(clips), n_bins))
        warps = [PLAIN_WARP] * len(clips)
        return Recordings(clips, torch.from_numpy(np.stack(audio)), warps, curves, HOP, True)

    def make_batch(self, batch: int, seconds: float, *, timed: bool = False) -> Batch:
        """Generate a batch of clips of `seconds` each."""
        recorded = self.record(batch, seconds, n_bins=N_FFT // 2 + 1, timed=timed)
        gains = torch.from_numpy(10 ** (recorded.curves / 10)).float()
        mel = log_mel(recorded.audio, self.filters[recorded.warps], gains, recorded.hop)
        self.mask(mel)
        token = np.arange(n_tokens(mel.shape[1]))
        frame = token // TOKENS_PER_CHUNK * CHUNK + token % TOKENS_PER_CHUNK * 8 + 4
        seconds_of = frame * HOP / SAMPLE_RATE
        clips, scale = recorded.clips, recorded.scale
        return Batch(
            mel,
            [clip.words for clip in clips],
            [np.array(clip.spans, np.float32).reshape(-1, 2) * scale for clip in clips],
            torch.stack([self.frame_words(clip, seconds_of, scale) for clip in clips]),
        )

    @staticmethod
    def frame_words(clip: Clip, seconds: npt.NDArray[np.float64], scale: float) -> Tensor:
        """Return the word at each of these times, BLANK or UNKNOWN; (n_times,)."""
        labels = np.full(len(seconds), BLANK)
        for low, high in clip.unknown:
            labels[(seconds >= low * scale) & (seconds < high * scale)] = UNKNOWN
        for word, (low, high) in zip(clip.words, clip.spans, strict=True):
            if not math.isnan(low):
                labels[(seconds >= low * scale) & (seconds < high * scale)] = word
        return torch.from_numpy(labels)
