"""Train the embedded recogniser.

python train_recogniser.py --minutes 80 BANKS CHECKPOINT
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import torch
import torch.multiprocessing
import torch.nn.functional as F  # noqa: N812 - the usual name
from clips import BLANK, ClipMaker, Mix
from model import config, encode, read_text, save_checkpoint, scale_start_values
from prompts import IGNORED, Prompts
from tokenizer import build_tokenizer
from torch import Tensor, nn
from training import Schedule, clip_seconds, join_group, load_weights, run_training
from transformers import Qwen3ASRForConditionalGeneration

FIRST_MIX = Mix(people=0.22, words=0.24, sentences=0.32, chinese_words=0.07, chinese_sentences=0.08)
# Digits and numerals are learned long before the other words.
LATER_MIX = Mix(
    people=0.11, words=0.28, sentences=0.44, chinese_words=0.045, chinese_sentences=0.055
)


def train(rank: int, arguments: argparse.Namespace) -> None:
    join_group(rank, arguments.processes, arguments.port)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    prompts = Prompts(tokenizer)
    model = Qwen3ASRForConditionalGeneration(config(tokenizer))
    scale_start_values(model)
    if arguments.start:
        load_weights(model, arguments.start)
    frame_head = nn.Linear(192, BLANK + 1)  # discarded: it only makes the encoder learn fast
    mix = LATER_MIX if arguments.start else FIRST_MIX
    maker = ClipMaker(arguments.banks, arguments.seed * 1000 + rank, mix)
    lengths = Random(arguments.seed)  # the same in all processes, so that none has to wait

    def loss_of(over: float) -> tuple[Tensor, dict[str, float]]:
        size = clip_seconds(lengths, 1.0 if arguments.start else over)
        batch = maker.make_batch(*size)
        audio = encode(model.model, batch.mel)
        frames = F.cross_entropy(
            frame_head(audio).flatten(0, 1), batch.frame_words.flatten(), ignore_index=IGNORED
        )
        ids, labels = prompts.recognition(batch.words, audio.shape[1], maker.rng)
        hidden = read_text(model.model, ids, audio, prompts.audio_token)
        asked = labels != IGNORED
        logits = model.lm_head(hidden[asked])
        tokens = F.cross_entropy(logits, labels[asked])
        right = (logits.argmax(-1) == labels[asked]).float().mean()
        weight = 0.4 if arguments.start else 1.0
        weight *= 1.0 - 0.8 * over
        figures = {"tokens": tokens.item(), "right": right.item(), "frames": frames.item()}
        return tokens + weight * frames, figures

    run_training(
        rank,
        arguments.processes,
        modules=nn.ModuleList([model, frame_head]),
        schedule=Schedule(arguments.minutes, arguments.rate, save_minutes=arguments.save_minutes),
        loss_of=loss_of,
        save=lambda weights: save_checkpoint(arguments.checkpoint, model, weights),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--save-minutes", type=float, default=8)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--start", type=Path, help="checkpoint to continue from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("banks", type=Path)
    parser.add_argument("checkpoint", type=Path)
    arguments = parser.parse_args()
    torch.multiprocessing.spawn(train, (arguments,), nprocs=arguments.processes)


if __name__ == "__main__":
    main()
