"""Measure a checkpoint of the embedded Paraformer on held-out voices: word errors and times.

python evaluate_paraformer.py BANKS CHECKPOINT

The forward pass is that of `funasr`'s class; `tests/models/paraformer` holds ours against it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from evaluate import edits, interval
from funasr.utils.timestamp_tools import ts_prediction_lfr6_standard
from heldout import Float32Array, TestClip, held_out_sets
from kaldi_features import FRAME, ROW_SECONDS, filter_bank, low_frame_rate
from paraformer_tokens import BLANK, END, TOKENS, words_of
from torch import Tensor, nn
from train_paraformer import make_model, read_mvn
from vocabulary import WORDS


@torch.inference_mode()
def recognise(model: nn.Module, cmvn: Tensor, audio: Float32Array) -> tuple[list[int], Tensor]:
    """Return the tokens of a clip, without the end token, and the firing weights of CIF."""
    if len(audio) < FRAME:
        return [], torch.zeros(0)
    mel = filter_bank(torch.from_numpy(audio)[None])
    features = (low_frame_rate(mel) + cmvn[0]) * cmvn[1]
    n_rows = torch.tensor([features.shape[1]])
    hidden = model.encoder(features, n_rows)[0]
    mask = torch.ones(1, 1, features.shape[1])
    acoustic, count, _, peaks = model.predictor(hidden, None, mask, ignore_id=-1)
    n_tokens = int(count.floor())
    if n_tokens < 1:
        return [], peaks[0]
    logits, _ = model.decoder(hidden, n_rows, acoustic, torch.tensor([n_tokens]))
    tokens = logits[0].argmax(-1).tolist()[:n_tokens]
    return [token for token in tokens if token not in (BLANK, END)][: n_tokens - 1], peaks[0]


def token_times(tokens: list[int], peaks: Tensor) -> Float32Array:
    """Return (n_tokens, 2) seconds by FunASR's rule."""
    names = [TOKENS[token] for token in tokens]
    alphas = peaks.clone()  # used only if the numbers differ
    _, times = ts_prediction_lfr6_standard(alphas, peaks, names, upsample_rate=1)
    return np.array(times, np.float32).reshape(-1, 2) / 1000


def word_times(tokens: list[int], peaks: Tensor) -> Float32Array:
    """Return (n_words, 2): the first start and the last end of each word's tokens."""
    times, found, begun = token_times(tokens, peaks), [], None
    for token, (start, end) in zip(tokens, times, strict=True):
        begun = start if begun is None else begun
        if not TOKENS[token].endswith("@@"):
            found.append((begun, end))
            begun = None
    return np.array(found, np.float32).reshape(-1, 2)


def evaluate(model: nn.Module, cmvn: Tensor, sets: dict[str, list[TestClip]], n_shown: int) -> None:
    for name, clips in sets.items():
        errors, lengths, away = list[int](), list[int](), list[Float32Array]()
        confusions: Counter[tuple[str, str]] = Counter()
        for clip in clips:
            tokens, peaks = recognise(model, cmvn, clip.audio)
            said, truth = words_of(tokens), [WORDS[word] for word in clip.words]
            n_errors, pairs = edits(truth, said)
            errors.append(n_errors)
            lengths.append(len(truth))
            confusions.update(pairs)
            if said == truth and truth and not np.isnan(clip.times).any():
                times = word_times(tokens, peaks)
                if len(times) == len(truth):
                    away.append(times - clip.times)
        n_words = sum(lengths)
        if not n_words:
            print(f"{name:30} {sum(map(bool, errors))} with text, {len(clips)} clips", flush=True)
            continue
        low, high = interval(errors, lengths)
        line = f"{name:30} WER {sum(errors) / n_words:6.1%} ({low:.1%} to {high:.1%})"
        if away:
            off = np.concatenate(away)
            starts, ends = np.abs(off).mean(0) * 1000
            line += f", starts {starts:.0f} ms (mean {off[:, 0].mean() * 1000:+.0f}),"
            line += f" ends {ends:.0f} ms ({off[:, 1].mean() * 1000:+.0f}), {len(off)} words"
        print(line, flush=True)
        if n_shown and confusions:
            print("   ", *(f"{a}>{b}:{n}" for (a, b), n in confusions.most_common(n_shown)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=150, help="clips in each set")
    parser.add_argument("--show-errors", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7, help="chooses the clips")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("banks", type=Path)
    parser.add_argument("checkpoint", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = make_model()
    weights = torch.load(arguments.checkpoint / "model.pt")
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    model.eval()
    cmvn = read_mvn(arguments.checkpoint / "am.mvn")
    print(f"one row is {ROW_SECONDS * 1000:.0f} ms")
    sets = held_out_sets(arguments.banks, arguments.count, arguments.seed)
    evaluate(model, cmvn, sets, arguments.show_errors)


if __name__ == "__main__":
    main()
