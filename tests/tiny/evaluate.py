"""Measure checkpoints on held-out voices: word error rates, and word times.

python evaluate.py BANKS --recogniser CHECKPOINT --aligner CHECKPOINT
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from clips import log_mel, mel_filters
from heldout import Float32Array, TestClip, held_out_sets
from model import CLASS_SECONDS, encode, read_text
from prompts import Prompts
from scores import edits, interval
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    DynamicCache,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
)
from vocabulary import CHINESE, WORDS, language_of, to_text

SHORTEST = 8000  # samples; shorter clips are padded with zeros, as in the reference
MOST_TOKENS = 120


def features(audio: Float32Array) -> torch.Tensor:
    """Compute (1, frames, mels) of one clip."""
    audio = np.pad(audio, (0, max(0, SHORTEST - len(audio))))
    return log_mel(torch.from_numpy(audio)[None], torch.from_numpy(mel_filters()))


@torch.inference_mode()
def transcribe(model: nn.Module, prompts: Prompts, audio: Float32Array) -> str:
    """Decode greedily and return the complete answer, including the language."""
    embeddings = encode(model.model, features(audio))
    ids = torch.tensor([prompts.ask(embeddings.shape[1])])
    embedded = model.model.language_model.embed_tokens(ids)
    embedded = embedded.masked_scatter((ids == prompts.audio_token)[..., None], embeddings)
    cache, answer = DynamicCache(config=model.config.text_config), list[int]()
    while len(answer) < MOST_TOKENS:
        output = model.model.language_model(inputs_embeds=embedded, past_key_values=cache)
        token = int(model.lm_head(output.last_hidden_state[0, -1]).argmax())
        if token == prompts.end_token:
            break
        answer.append(token)
        embedded = model.model.language_model.embed_tokens(torch.tensor([[token]]))
    return prompts.decode(answer)


def expected(clip: TestClip) -> str:
    words = [WORDS[word] for word in clip.words]
    return f"language {language_of(words)}<asr_text>{to_text(words)}"


def split_words(answer: str) -> list[str]:
    """Split an answer into words and Chinese characters."""
    text = answer.rsplit("<asr_text>", maxsplit=1)[-1]
    return "".join(f" {c} " if c in CHINESE else c for c in text).split()


def evaluate_recogniser(
    checkpoint: Path, sets: dict[str, list[TestClip]], *, show_errors: int
) -> None:
    model = Qwen3ASRForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    prompts = Prompts(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    for name, clips in sets.items():
        errors, lengths, wrong_language = list[int](), list[int](), 0
        confusions: Counter[tuple[str, str]] = Counter()
        for clip in clips:
            answer, truth = transcribe(model, prompts, clip.audio), expected(clip)
            n_errors, pairs = edits(split_words(truth), split_words(answer))
            errors.append(n_errors)
            lengths.append(len(clip.words))
            confusions.update(pairs)
            wrong_language += answer.split("<")[0] != truth.split("<")[0]
        n_words = sum(lengths)
        if n_words:
            low, high = interval(errors, lengths)
            figure = f"WER {sum(errors) / n_words:6.1%} ({low:.1%} to {high:.1%})"
        else:
            figure = f"{sum(map(bool, errors))} with text"
        print(
            f"{name:30} {figure}, {n_words} words, {len(clips)} clips, "
            f"{wrong_language} wrong language",
            flush=True,
        )
        if show_errors and confusions:
            print("   ", *(f"{a}>{b}:{n}" for (a, b), n in confusions.most_common(show_errors)))


@torch.inference_mode()
def align(model: nn.Module, prompts: Prompts, clip: TestClip) -> Float32Array:
    """Return the times of a clip's words: (n_words, 2) seconds."""
    audio = encode(model.model, features(clip.audio))
    ids = prompts.alignment([list(clip.words)], audio.shape[1])
    hidden = read_text(model.model, ids, audio, prompts.audio_token)
    classes = model.score(hidden[ids == prompts.timestamp_token]).argmax(-1)
    return classes.reshape(-1, 2).numpy().astype(np.float32) * np.float32(CLASS_SECONDS)


def evaluate_aligner(checkpoint: Path, sets: dict[str, list[TestClip]]) -> None:
    model = Qwen3ASRForTokenClassification.from_pretrained(checkpoint, dtype=torch.float32)
    prompts = Prompts(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    for name, clips in sets.items():
        timed = [clip for clip in clips if clip.words and not np.isnan(clip.times).any()]
        if not timed:
            continue
        off = np.concatenate([align(model, prompts, clip) - clip.times for clip in timed])
        away = np.abs(off)
        print(
            f"{name:30} mean |error| {away.mean() * 1000:.0f} ms (starts "
            f"{away[:, 0].mean() * 1000:.0f}, ends {away[:, 1].mean() * 1000:.0f}), "
            f"90 % within {np.quantile(away, 0.9) * 1000:.0f} ms, {len(off)} words",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recogniser", type=Path)
    parser.add_argument("--aligner", type=Path)
    parser.add_argument("--count", type=int, default=100, help="clips in each set")
    parser.add_argument("--show-errors", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7, help="chooses the clips")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("banks", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sets = held_out_sets(arguments.banks, arguments.count, arguments.seed)
    if arguments.recogniser:
        evaluate_recogniser(arguments.recogniser, sets, show_errors=arguments.show_errors)
    if arguments.aligner:
        evaluate_aligner(arguments.aligner, sets)


if __name__ == "__main__":
    main()
