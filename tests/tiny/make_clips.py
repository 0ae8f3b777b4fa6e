"""Write the clips for the ordinary tests, and the demo.

    python make_clips.py --recogniser CHECKPOINT BANKS CLIPS DEMO.flac

All voices were excluded from training. Of the candidates, those are chosen that the model
recognises correctly: the clips serve to detect changes, not to measure the model (see
`evaluate.py`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import torch
from bank import SAMPLE_RATE, Bank, Utterance
from evaluate import expected, transcribe
from heldout import Float32Array, TestClip, join, joined, silent_clips, whole, with_noise
from prompts import Prompts
from synthesis import ACCENTS, TEST_ACCENT, TEST_VARIANTS, Job, run_apart
from tokenizers import Tokenizer
from torch import nn
from transformers import Qwen3ASRForConditionalGeneration
from vocabulary import WORDS, chinese_sentence, language_of, sentence, to_text

DEMO = (
    ("espeak", "hello good morning please open page one hundred and twenty three"),
    ("flite", "copy the last sentence comma send my message question mark new line"),
    ("chinese", "一二三四五六七八九十"),
)
PAUSE = 0.9  # seconds between the demo's sentences


@dataclass(frozen=True, slots=True)
class Recogniser:
    """Checkpoint with a check of its answer for a clip."""

    model: nn.Module
    prompts: Prompts

    def is_right(self, clip: TestClip) -> bool:
        """Return whether the answer is exactly right, also with a shorter or longer beginning."""
        variants = (clip.audio, clip.audio[800:], np.pad(clip.audio, (1600, 1600)))
        answers = {transcribe(self.model, self.prompts, audio) for audio in variants}
        return answers == {expected(clip)}


def candidates(banks: Path, rng: Random) -> dict[str, Iterator[TestClip]]:
    """Return an endless iterator of clips for each kind."""

    def bank(name: str) -> Bank:
        return Bank(banks / f"test_{name}")

    def endless(make: Callable[[], list[TestClip]]) -> Iterator[TestClip]:
        while True:
            yield from make()

    espeak, words = bank("sentences"), bank("words")
    flite, chinese = bank("flite_sentences"), bank("chinese_sentences")
    return {
        "espeak": endless(lambda: whole(espeak, 5, rng)),
        "espeak_noise": endless(lambda: with_noise(whole(espeak, 5, rng), 15)),
        "espeak_joined": endless(lambda: joined(words, 5, rng, sentence)),
        "flite": endless(lambda: whole(flite, 5, rng)),
        "flite_joined": endless(lambda: joined(bank("flite_words"), 5, rng, sentence)),
        "mandarin": endless(lambda: whole(chinese, 5, rng)),
        "mandarin_joined": endless(lambda: joined(bank("chinese_words"), 5, rng, chinese_sentence)),
        "noise": endless(lambda: silent_clips(5, rng)[3:]),
    }


WANTED = {
    "espeak": 3,
    "espeak_noise": 1,
    "espeak_joined": 1,
    "flite": 1,
    "flite_joined": 2,
    "mandarin": 1,
    "mandarin_joined": 1,
    "noise": 1,
}
LONGEST = {"noise": 2.0}  # seconds; others 5.5


def pause_between(utterances: list[Utterance], seconds: float) -> TestClip:
    """Join sentences with pauses, and a little silence before and after."""
    rng = Random(0)
    clips = [join([said], rng) for said in utterances]
    silence = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    parts, times, place = [], [], 0
    for index, clip in enumerate(clips):
        if index:
            parts.append(silence)
            place += len(silence)
        level = 0.5 / float(np.abs(clip.audio).max())
        parts.append(clip.audio * np.float32(level))
        times.append(clip.times + np.float32(place / SAMPLE_RATE))
        place += len(clip.audio)
    words = tuple(word for clip in clips for word in clip.words)
    voice = ", ".join(dict.fromkeys(clip.voice for clip in clips))
    return TestClip(np.concatenate(parts), words, np.concatenate(times), voice)


def write_flac(path: Path, audio: Float32Array) -> None:
    peak = float(np.abs(audio).max())
    soundfile.write(path, audio * min(1.0, 0.5 / max(peak, 1e-9)), SAMPLE_RATE, format="FLAC")


def describe(name: str, clip: TestClip) -> dict[str, object]:
    """Return the correct answer for a clip; word times only if they are known."""
    said = [WORDS[word] for word in clip.words]
    truth: dict[str, object] = {
        "file": name,
        "voice": clip.voice,
        "language": language_of(said),
        "text": to_text(said),
        "duration": round(len(clip.audio) / SAMPLE_RATE, 3),
    }
    if said and not np.isnan(clip.times).any():
        truth["words"] = [
            {"text": text, "start": round(float(start), 3), "end": round(float(end), 3)}
            for text, (start, end) in zip(said, clip.times, strict=True)
        ]
    return truth


def write_clips(recogniser: Recogniser, banks: Path, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    rng = Random(3)
    truths = []
    for kind, offered in candidates(banks, rng).items():
        longest = LONGEST.get(kind, 5.5)
        good = (
            clip
            for clip in offered
            if 1.0 < len(clip.audio) / SAMPLE_RATE < longest and recogniser.is_right(clip)
        )
        for number in range(1, WANTED[kind] + 1):
            clip = next(good)
            name = f"{kind}_{number}.flac" if WANTED[kind] > 1 else f"{kind}.flac"
            write_flac(directory / name, clip.audio)
            truths.append(describe(name, clip))
            print(name, truths[-1]["text"], flush=True)
    text = json.dumps({"clips": truths}, ensure_ascii=False, indent=1)
    (directory / "clips.json").write_text(text + "\n")


def demo_voices(engine: str, rng: Random) -> Iterator[Job]:
    """Yield jobs for held-out voices that speak the demo's sentences."""
    while True:
        if engine == "flite":
            yield Job("flite", "rms", (), rng.uniform(1.0, 1.15))
        else:
            accent = rng.choice([*ACCENTS, TEST_ACCENT])
            voice = "sit/cmn" if engine == "chinese" else f"gmw/{accent}"
            variant = rng.choice(TEST_VARIANTS)
            yield Job("espeak", f"{voice}+{variant}", (), rng.uniform(0.95, 1.15))


def say_demo(recogniser: Recogniser) -> list[Utterance]:
    """Find a voice that the model recognises correctly for each of the demo's sentences."""
    rng, said = Random(1), list[Utterance]()
    for engine, text in DEMO:
        words = tuple(text if engine == "chinese" else text.split())
        for voice in demo_voices(engine, rng):
            job = Job(voice.engine, voice.voice, (words,), voice.speed)
            spoken = run_apart(job)
            if spoken and recogniser.is_right(join(spoken, Random(0))):
                said += spoken
                break
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recogniser", type=Path, required=True)
    parser.add_argument("banks", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("demo", type=Path)
    arguments = parser.parse_args()
    checkpoint = arguments.recogniser
    model = Qwen3ASRForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    prompts = Prompts(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    recogniser = Recogniser(model, prompts)
    demo = say_demo(recogniser)
    clip = pause_between(demo, PAUSE)
    write_flac(arguments.demo, clip.audio)
    lines = [to_text([WORDS[word] for word in said.words]) for said in demo]
    voices = [said.voice for said in demo]
    arguments.demo.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    print(f"demo: {len(clip.audio) / SAMPLE_RATE:.1f} s", *voices)
    write_clips(recogniser, arguments.banks, arguments.clips)


if __name__ == "__main__":
    main()
