"""Measure the embedded Paraformer as it is shipped, on held-out voices: word errors and times.

.venv/bin/python tests/tiny/evaluate_paraformer.py BANKS [BUNDLE]

Each clip is one segment: the whole recogniser runs on it, and the borders of words are moved to
pauses, as in every transcription; voice detection is left out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from heldout import Float32Array, TestClip, held_out_sets
from scores import edits, interval
from vocabulary import WORDS

from streamasr.alignment.token_times import words_of_tokens
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Align
from streamasr.core.transcript import Word
from streamasr.core.units import SAMPLE_RATE, Samples
from streamasr.models.embedded import EMBEDDED
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.recogniser import Paraformer


def recognise(model: Paraformer, audio: Float32Array) -> tuple[Word, ...]:
    """Return the words of a clip."""
    utterance = model.begin(SessionOptions())
    utterance.append(audio)
    found = utterance.update(len(audio)).result
    if not found.text:
        return ()
    order = Align(
        0, Samples(0), audio, found.text, found.language, ends=found.ends, times=found.times
    )
    return words_of_tokens(order)


def evaluate(model: Paraformer, sets: dict[str, list[TestClip]], n_shown: int) -> None:
    """Print a line for each set."""
    for name, clips in sets.items():
        errors, lengths, away = list[int](), list[int](), list[Float32Array]()
        confusions: Counter[tuple[str, str]] = Counter()
        for clip in clips:
            words = recognise(model, clip.audio.astype(np.float32))
            said, truth = [word.text for word in words], [WORDS[word] for word in clip.words]
            n_errors, pairs = edits(truth, said)
            errors.append(n_errors)
            lengths.append(len(truth))
            confusions.update(pairs)
            if said == truth and truth and not np.isnan(clip.times).any():
                times = np.array([(word.start, word.end) for word in words]) / SAMPLE_RATE
                away.append(times - clip.times)
        print(f"{name:30} {line_of(errors, lengths, away)}", flush=True)
        if n_shown and confusions:
            print("   ", *(f"{a}>{b}:{n}" for (a, b), n in confusions.most_common(n_shown)))


def line_of(errors: list[int], lengths: list[int], away: list[Float32Array]) -> str:
    """Return the figures of a set."""
    n_words = sum(lengths)
    if not n_words:
        return f"{sum(map(bool, errors))} with text, {len(errors)} clips"
    low, high = interval(errors, lengths)
    line = f"{sum(errors) / n_words:.1%} ({low:.1%} to {high:.1%}), {n_words} words"
    if not away:
        return line
    off = np.abs(np.concatenate(away)) * 1000
    starts, ends = off.mean(0)
    return (
        f"{line}; starts {starts:.0f} ms, ends {ends:.0f} ms, both {off.mean():.0f}, 90 % within "
        f"{np.percentile(off, 90):.0f}, {len(off)} words"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=150, help="clips in each set")
    parser.add_argument("--show-errors", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7, help="chooses the clips")
    parser.add_argument("banks", type=Path)
    parser.add_argument("bundle", type=Path, nargs="?", default=EMBEDDED["tiny-paraformer"])
    arguments = parser.parse_args()
    model = Paraformer(arguments.bundle, OnnxOptions(threads=2))
    evaluate(
        model,
        held_out_sets(arguments.banks, arguments.count, arguments.seed),
        arguments.show_errors,
    )


if __name__ == "__main__":
    main()
