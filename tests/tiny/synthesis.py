"""Synthesise words and sentences with every engine; write the banks for training and tests.

    python synthesis.py --recordings DIR_OF_SPOKEN_DIGITS BANKS

Needs espeak-ng, flite, festival (with festvox-kdlpc16k, festvox-kallpc16k, festvox-us-slt-hts).
"""
# ruff: noqa: SIM905 - voices in one line are easier to read than a column of strings

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import soxr
from bank import SAMPLE_RATE, Utterance, trimmed, write_bank
from espeak import Espeak, Prosody
from vocabulary import CHINESE, DIGITS, ENGLISH, WORD_ID, chinese_sentence, sentence

ACCENTS = "en en-US en-029 en-GB-scotland en-GB-x-rp en-GB-x-gbclan en-GB-x-gbcwmd".split()
TEST_ACCENT = "en-US-nyc"
VARIANTS = (
    "Alex Alicia Andrea AnxiousAndy Diogo Gene Gene2 Henrique Hugo Jacky Marco Mario Michael Mike "
    "Nguyen RicishayMax RicishayMax2 RicishayMax3 Storm Tweaky adam anika anikaRobot announcer "
    "antonio aunty belinda benjamin boris caleb croak david edward edward2 f1 f2 f4 f5 grandma "
    "grandpa gustave iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt4 klatt5 klatt6 m1 "
    "m2 m3 m4 m6 m7 m8 marcelo max michel miguel pablo paul quincy rob robert robosoft robosoft3 "
    "sandro shelby steph2 steph3 travis victor whisper zac"
).split()
TEST_VARIANTS = "m5 f3 Annie Andy Lee Denis linda steph norbert pedro klatt3 ed".split()
FLITE, TEST_FLITE = ["kal", "awb", "slt"], ["rms"]
FESTIVAL = ["kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts"]
TEST_RECORDINGS = range(5)  # the data set's own split, by index


@dataclass(frozen=True, slots=True)
class Job:
    """Sentences for one voice; `engine` is the name of the function that synthesises them."""

    engine: str
    voice: str
    sentences: tuple[tuple[str, ...], ...]
    speed: float = 1.0
    pitch: int = 50
    range: int = 50


def ids(words: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(WORD_ID[word] for word in words)


def say_espeak(job: Job) -> Iterator[Utterance | None]:
    espeak = Espeak()
    prosody = Prosody(int(175 * job.speed), job.pitch, job.range)
    rng = Random(job.voice)
    for words in job.sentences:
        pause = 0.12 if len(words) > 2 and rng.random() < 0.4 else 0.0
        text = "".join(w + (", " if rng.random() < pause else " ") for w in words)
        audio, starts = espeak.speak(text, job.voice, prosody)
        yield trimmed(audio, ids(words), starts, f"espeak/{job.voice}")


def read_wav(path: Path) -> np.ndarray:
    audio, rate = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(audio, rate, SAMPLE_RATE), np.float32)


def say_flite(job: Job) -> Iterator[Utterance | None]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "said.wav"
        for words in job.sentences:
            stretch = ["--setf", f"duration_stretch={1 / job.speed:.3f}"]
            text = ["-t", " ".join(words), "-o", str(path)]
            subprocess.run(["flite", "-voice", job.voice, *stretch, *text], check=True)
            starts = [0.0] if len(words) == 1 else None
            yield trimmed(read_wav(path), ids(words), starts, f"flite/{job.voice}")


FESTIVAL_SAY = """
(set! utt (SynthText "{text}"))
(utt.save.wave utt "{path}" 'riff)
(mapcar (lambda (w) (format t "%f " (item.feat w "word_end"))) (utt.relation.items utt 'Word))
(format t "\\n")
"""


def say_festival(job: Job) -> Iterator[Utterance | None]:
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{index}.wav" for index in range(len(job.sentences))]
        script = Path(directory) / "say.scm"
        script.write_text(
            f"(voice_{job.voice})\n(Parameter.set 'Duration_Stretch {1 / job.speed:.3f})\n"
            + "".join(
                FESTIVAL_SAY.format(text=" ".join(words), path=path)
                for words, path in zip(job.sentences, paths, strict=True)
            )
        )
        command = ["festival", "-b", str(script)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for words, path, line in zip(job.sentences, paths, said.splitlines(), strict=True):
            starts = [0.0, *map(float, line.split())][:-1]
            yield trimmed(read_wav(path), ids(words), starts, f"festival/{job.voice}")


SAY = {"espeak": say_espeak, "flite": say_flite, "festival": say_festival}


def run_job(job: Job, answer: Connection) -> None:
    """Synthesise a job's sentences; the answer is a list of utterances."""
    answer.send([u for u in SAY[job.engine](job) if u is not None and len(u.audio) > 1200])


def run_apart(job: Job) -> list[Utterance]:
    """Run a job in a separate process, because some of espeak-ng's voices crash it."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=run_job, args=(job, theirs))
    process.start()
    theirs.close()
    try:
        return list(ours.recv())
    except EOFError:
        print(f"lost: {job.engine} {job.voice}", flush=True)
        return []
    finally:
        process.join()


def each_word(words: list[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((word,) for word in words)


def sentences(rng: Random, count: int, longest: int) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(sentence(rng, rng.randint(2, longest))) for _ in range(count))


def numerals(rng: Random, count: int, longest: int) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(chinese_sentence(rng, rng.randint(2, longest))) for _ in range(count))


def espeak_job(rng: Random, voice: str, said: tuple[tuple[str, ...], ...]) -> Job:
    speed = rng.uniform(0.7, 1.45)
    return Job("espeak", voice, said, speed, rng.randint(25, 75), rng.randint(20, 90))


def training_jobs(rng: Random) -> Iterator[tuple[str, Job]]:
    """Yield (bank, job) for the training voices."""
    for variant in ["", *(f"+{name}" for name in VARIANTS)]:
        for accent in ACCENTS:
            voice = f"gmw/{accent}{variant}"
            yield "words", espeak_job(rng, voice, each_word(ENGLISH))
            for _ in range(3):
                yield "sentences", espeak_job(rng, voice, sentences(rng, 8, 10))
        for _ in range(6):
            voice = f"sit/cmn{variant}"
            yield "chinese_words", espeak_job(rng, voice, each_word(CHINESE))
            yield "chinese_sentences", espeak_job(rng, voice, numerals(rng, 10, 10))
    for speed in (0.75, 0.9, 1.0, 1.15, 1.3):
        for voice in FLITE:
            yield "words", Job("flite", voice, each_word(ENGLISH), speed)
            for _ in range(6):
                yield "sentences", Job("flite", voice, sentences(rng, 32, 9), speed)
        for voice in FESTIVAL:
            yield "words", Job("festival", voice, each_word(ENGLISH), speed)
            for _ in range(4):
                yield "sentences", Job("festival", voice, sentences(rng, 40, 9), speed)


def test_jobs(rng: Random) -> Iterator[tuple[str, Job]]:
    """Yield (bank, job) for the voices excluded from training."""
    for variant in TEST_VARIANTS:
        for accent in [*ACCENTS, TEST_ACCENT]:
            voice = f"gmw/{accent}+{variant}"
            yield "test_words", espeak_job(rng, voice, each_word(ENGLISH))
            said = tuple(tuple(sentence(rng, rng.randint(3, 12))) for _ in range(4))
            yield "test_sentences", espeak_job(rng, voice, said)
        voice = f"sit/cmn+{variant}"
        yield "test_chinese_words", espeak_job(rng, voice, each_word(CHINESE))
        said = tuple(tuple(chinese_sentence(rng, rng.randint(3, 12))) for _ in range(10))
        yield "test_chinese_sentences", espeak_job(rng, voice, said)
    for speed in (0.85, 1.0, 1.15):
        for voice in TEST_FLITE:
            yield "test_flite_words", Job("flite", voice, each_word(ENGLISH), speed)
            said = tuple(tuple(sentence(rng, rng.randint(3, 12))) for _ in range(60))
            yield "test_flite_sentences", Job("flite", voice, said, speed)


def recordings(directory: Path) -> dict[str, list[Utterance]]:
    """Read recordings named {digit}_{speaker}_{index}.wav."""
    banks: dict[str, list[Utterance]] = {"people": [], "test_people": []}
    for path in sorted(directory.glob("*.wav")):
        digit, speaker, index = path.stem.split("_")
        words = (WORD_ID[DIGITS[int(digit)]],)
        utterance = trimmed(read_wav(path), words, [0.0], f"people/{speaker}")
        if utterance is not None:
            bank = "test_people" if int(index) in TEST_RECORDINGS else "people"
            banks[bank].append(utterance)
    return banks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("banks", type=Path)
    arguments = parser.parse_args()
    rng = Random(zlib.crc32(b"tiny"))
    jobs = [*training_jobs(rng), *test_jobs(rng)]
    banks = recordings(arguments.recordings)
    with ThreadPoolExecutor(arguments.processes) as pool:
        said = pool.map(run_apart, [job for _, job in jobs])
        for (bank, _), utterances in zip(jobs, said, strict=True):
            banks.setdefault(bank, []).extend(utterances)
    for name, utterances in banks.items():
        n_samples = write_bank(arguments.banks / name, utterances)
        print(f"{name}: {len(utterances)} utterances, {n_samples / SAMPLE_RATE:.0f} s")


if __name__ == "__main__":
    main()
