"""Train the embedded forced aligner, from the recogniser.

python train_aligner.py --minutes 20 --recogniser ASR BANKS CHECKPOINT
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.multiprocessing
import torch.nn.functional as F  # noqa: N812 - the usual name
from clips import ClipMaker, Mix
from model import (
    CHUNK,
    CLASS_SECONDS,
    N_CLASSES,
    TOKENS_PER_CHUNK,
    config,
    encode,
    read_layers,
    save_checkpoint,
    scale_start_values,
)
from prompts import Prompts
from safetensors.torch import load_file
from tokenizer import build_tokenizer
from torch import Tensor, nn
from training import Schedule, join_group, load_weights, run_training
from transformers import Qwen3ASRForTokenClassification

MIX = Mix(
    people=0.15, words=0.34, sentences=0.33, chinese_words=0.09, chinese_sentences=0.09, nothing=0.0
)
OWN_TIMES = 0.25  # weight of the loss for the audio tokens' own times
SPREAD = 0.6  # classes; the width of the target around the true time


def load_recogniser(model: nn.Module, recogniser: Path) -> None:
    """Copy all weights of the recogniser, which recognises words in their order."""
    weights = load_file(recogniser / "model.safetensors")
    missing, unexpected = model.load_state_dict(
        {name: tensor.float() for name, tensor in weights.items()}, strict=False
    )
    if unexpected or missing != ["score.weight"]:
        raise ValueError(f"{recogniser} is of another shape: {missing} {unexpected}")


def class_targets(seconds: Tensor) -> Tensor:
    """Spread each time over the neighbouring classes, so that small errors cost less.

    Args:
        seconds: (n,).
    Returns:
        (n, classes) probabilities.
    """
    places = (seconds / CLASS_SECONDS)[:, None] - torch.arange(N_CLASSES)
    return torch.softmax(-0.5 * (places / SPREAD) ** 2, dim=-1)


def clip_size(rng: Random) -> tuple[int, float]:
    """Draw the number and the duration of the clips of a step in each process.

    Late times need long clips: from short clips the model learns to predict early times.
    """
    kind = rng.random()
    low, high = (1.2, 6.0) if kind < 0.3 else (5.0, 12.0) if kind < 0.85 else (12.0, 23.0)
    seconds = rng.uniform(low, high)
    return max(2, min(12, round(45 / seconds))), seconds


def token_seconds(n_tokens: int) -> Tensor:
    """Return the middle of each audio token, in seconds."""
    token = torch.arange(n_tokens)
    return (token // TOKENS_PER_CHUNK * CHUNK + token % TOKENS_PER_CHUNK * 8 + 4) / 100


def train(rank: int, arguments: argparse.Namespace) -> None:
    join_group(rank, arguments.processes, arguments.port)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    prompts = Prompts(tokenizer)
    model = Qwen3ASRForTokenClassification(config(tokenizer, N_CLASSES))
    scale_start_values(model)
    if arguments.start:
        load_weights(model, arguments.start)
    else:
        load_recogniser(model, arguments.recogniser)
    maker = ClipMaker(arguments.banks, arguments.seed * 1000 + rank, MIX)
    lengths = Random(arguments.seed)

    def loss_of(_over: float) -> tuple[Tensor, dict[str, float]]:
        batch = maker.make_batch(*clip_size(lengths), timed=True)
        audio = encode(model.model, batch.mel)
        ids = prompts.alignment(batch.words, audio.shape[1])
        layers = read_layers(model.model, ids, audio, prompts.audio_token)
        seconds = torch.from_numpy(np.concatenate(batch.spans).flatten())
        logits = model.score(layers[-1][ids == prompts.timestamp_token])
        known = ~seconds.isnan()
        loss = F.cross_entropy(logits[known], class_targets(seconds[known]))
        # Audio tokens predict their own times after the first layers: the model learns faster.
        own = class_targets(token_seconds(audio.shape[1])).expand(len(ids), -1, -1).flatten(0, 1)
        norm, is_audio = model.model.language_model.norm, ids == prompts.audio_token
        places = [F.cross_entropy(model.score(norm(h[is_audio])), own) for h in layers[1:3]]
        error = (logits[known].argmax(-1) * CLASS_SECONDS - seconds[known]).abs().mean()
        figures = {"loss": loss.item(), "places": places[1].item(), "error_ms": error.item() * 1000}
        return loss + OWN_TIMES * sum(places), figures

    run_training(
        rank,
        arguments.processes,
        modules=nn.ModuleList([model]),
        schedule=Schedule(arguments.minutes, arguments.rate, 100, arguments.save_minutes),
        loss_of=loss_of,
        save=lambda weights: save_checkpoint(arguments.checkpoint, model, weights),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--recogniser", type=Path, help="checkpoint to start from")
    parser.add_argument("--start", type=Path, help="aligner to continue from")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--port", type=int, default=29512)
    parser.add_argument("banks", type=Path)
    parser.add_argument("checkpoint", type=Path)
    arguments = parser.parse_args()
    if not arguments.start and not arguments.recogniser:
        parser.error("--recogniser or --start is needed")
    torch.multiprocessing.spawn(train, (arguments,), nprocs=arguments.processes)


if __name__ == "__main__":
    main()
