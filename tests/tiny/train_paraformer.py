"""Train the embedded Paraformer with the class of `funasr`.

python train_paraformer.py --minutes 100 BANKS CHECKPOINT

The loss has four parts: the tokens of the decoder; the word spoken in each row of the encoder's
output, by a head that is discarded and makes the encoder learn fast; the weights (alphas) of CIF
in each row, for words whose times are known; and their sum.

The weights of a token are to lie around the row in which FunASR's rule for word times looks for
its firing: 1.5 rows after its start. The sum passes each whole number within a step (LEAD).
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from random import Random

import funasr.models.paraformer.cif_predictor
import funasr.models.paraformer.decoder
import funasr.models.sanm.encoder  # noqa: F401 - these register the parts of the class
import numpy as np
import torch
import torch.multiprocessing
import torch.nn.functional as F  # noqa: N812 - the usual name
import yaml
from clips import BLANK as NO_WORD
from clips import UNKNOWN, Clip, ClipMaker, Mix, Recordings
from funasr.models.paraformer.model import Paraformer
from kaldi_features import (
    CENTRE,
    FILTERS,
    LFR_SHIFT,
    LFR_WINDOW,
    N_BINS,
    N_MELS,
    ROW_SECONDS,
    filter_bank,
    low_frame_rate,
)
from paraformer_tokens import END, TOKENS, tokens_of
from torch import Tensor, nn
from training import Schedule, clip_seconds, join_group, run_training

WIDTH = 192
ENCODER = {
    "output_size": WIDTH,
    "attention_heads": 4,
    "linear_units": 512,
    "num_blocks": 6,
    "dropout_rate": 0.0,
    "positional_dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "input_layer": "pe",
    "normalize_before": True,
    "kernel_size": 11,
    "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
}
DECODER = {
    "attention_heads": 4,
    "linear_units": 512,
    "num_blocks": 2,
    "att_layer_num": 2,
    "dropout_rate": 0.0,
    "positional_dropout_rate": 0.0,
    "self_attention_dropout_rate": 0.0,
    "src_attention_dropout_rate": 0.0,
    "kernel_size": 11,
    "sanm_shfit": 0,
}
PREDICTOR = {
    "idim": WIDTH,
    "threshold": 1.0,
    "l_order": 1,
    "r_order": 1,
    "tail_threshold": 0.25,
    "dropout": 0.0,
}
LATE = 1.5
"""Rows from the start of a token to its firing; FunASR's rule for word times subtracts them."""
LEAD = 0.27
"""The sum of the weights after a token, beyond the number of tokens. With the tail of 0.25 it is
half a token, so that errors of less than half a token do not change their number."""

FIRST_MIX = Mix(people=0.14, words=0.3, sentences=0.36, chinese_words=0.07, chinese_sentences=0.07)
LATER_MIX = Mix(people=0.09, words=0.26, sentences=0.5, chinese_words=0.04, chinese_sentences=0.06)


def make_model() -> Paraformer:
    return Paraformer(
        encoder="SANMEncoder",
        encoder_conf=ENCODER,
        decoder="ParaformerSANMDecoder",
        decoder_conf=DECODER,
        predictor="CifPredictorV2",
        predictor_conf=PREDICTOR,
        ctc_weight=0.0,
        input_size=LFR_WINDOW * N_MELS,
        vocab_size=len(TOKENS),
        predictor_bias=1,
    )


@dataclass(frozen=True, slots=True)
class Targets:
    """Expected answer for one clip.

    Attributes:
        tokens: those spoken, and the end token; none for a clip without words.
        weights: (rows,), of CIF; NaN where the times of words are not known.
        total: sum of all weights.
    """

    tokens: list[int]
    weights: np.ndarray
    total: float


def targets_of(clip: Clip, n_rows: int, scale: float) -> Targets:
    """Place the tokens of a clip on rows; `scale` is seconds for each of its samples."""
    if not clip.words:
        return Targets([], np.zeros(n_rows, np.float32), 0.0)
    tokens, starts = list[int](), list[float]()
    for word, (low, high) in zip(clip.words, clip.spans, strict=True):
        for token, before in tokens_of(word):
            tokens.append(token)
            starts.append((low + before * (high - low)) * scale)
    tokens.append(END)
    starts.append(clip.spans[-1][1] * scale)
    total = len(tokens) + LEAD
    if any(map(math.isnan, starts)):
        weights = np.full(n_rows, np.nan, np.float32)
        seconds = np.arange(n_rows) * ROW_SECONDS + CENTRE
        if (
            len(clip.unknown) == 1
            and len(clip.words) > 0
            and all(math.isnan(low) for low, _ in clip.spans)
        ):  # one sentence: nothing fires before it, nor long after it
            low, high = clip.unknown[0]
            outside = (seconds < low * scale) | (seconds > high * scale + 3 * ROW_SECONDS)
            weights[outside] = 0.0
        return Targets(tokens, weights, total)
    # Each token adds a ramp of two rows to the sum, which ends in its row.
    ends = np.maximum(np.array(starts) / ROW_SECONDS + LATE, 1.0)
    ramps = np.clip((np.arange(n_rows)[:, None] - ends + 2) / 2, 0, 1)
    cumulative = ramps.sum(axis=1) + LEAD * ramps[:, 0]
    weights = np.diff(cumulative, prepend=0.0)
    # A row holds at most 1: what is too much goes to its neighbours, the next one first.
    for index in range(n_rows - 1):
        extra = max(0.0, weights[index] - 0.98)
        weights[index] -= extra
        weights[index + 1] += extra
    for index in range(n_rows - 1, 0, -1):
        extra = max(0.0, weights[index] - 0.98)
        weights[index] -= extra
        weights[index - 1] += extra
    return Targets(tokens, weights.clip(0, 1).astype(np.float32), total)


class FeatureMaker:
    """Features and targets of ever new clips."""

    def __init__(self, banks: Path, seed: int, mix: Mix, plain: float) -> None:
        self.clips = ClipMaker(banks, seed, mix, plain)
        self.shift = torch.zeros(LFR_WINDOW * N_MELS)
        self.scale = torch.ones(LFR_WINDOW * N_MELS)

    def raw(self, recorded: Recordings) -> Tensor:
        gains = torch.from_numpy(10 ** (recorded.curves / 10)).float()
        filters = FILTERS[recorded.warps]
        return filter_bank(recorded.audio, filters, gains, recorded.hop)

    def measure(self, n_batches: int) -> None:
        """Measure mean and deviation of the features for CMVN."""
        rows = torch.cat(
            [
                low_frame_rate(self.raw(self.clips.record(8, 3.0, n_bins=N_BINS))).flatten(0, 1)
                for _ in range(n_batches)
            ]
        )
        self.shift, self.scale = -rows.mean(0), 1 / rows.std(0)

    def batch(self, count: int, seconds: float) -> tuple[Tensor, list[Targets], Tensor]:
        """Return features (batch, rows, 560), targets, and the word at each row."""
        recorded = self.clips.record(count, seconds + 0.016, n_bins=N_BINS)
        mel = self.raw(recorded)
        if not recorded.is_plain:
            self.clips.mask(mel)
        rows = (low_frame_rate(mel) + self.shift) * self.scale
        seconds_of = np.arange(rows.shape[1]) * ROW_SECONDS + CENTRE
        scale = recorded.scale
        words = [self.clips.frame_words(clip, seconds_of, scale) for clip in recorded.clips]
        targets = [targets_of(clip, rows.shape[1], scale) for clip in recorded.clips]
        return rows, targets, torch.stack(words)


def integrate(hidden: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Integrate and fire in one product, equal to CIF with a threshold of 1.

    Args:
        hidden: (batch, rows, width).
        weights: (batch, rows).
        counts: (batch,), number of firings wanted.
    Returns:
        (batch, max(counts), width): sum of the rows' shares in each unit of the cumulated weight.
    """
    ends = weights.double().cumsum(1)
    starts = ends - weights
    unit = torch.arange(int(counts.max()), dtype=torch.float64)[None, :, None]
    share = torch.minimum(ends[:, None], unit + 1) - torch.maximum(starts[:, None], unit)
    return share.clamp(min=0).float() @ hidden


def train(rank: int, arguments: argparse.Namespace) -> None:
    join_group(rank, arguments.processes, arguments.port)
    torch.manual_seed(0)
    model = make_model()
    scale_start_values(model)
    mix = LATER_MIX if arguments.start else FIRST_MIX
    maker = FeatureMaker(arguments.banks, arguments.seed * 1000 + rank, mix, arguments.plain)
    if arguments.start:
        weights = torch.load(arguments.start / "model.pt")
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        cmvn = read_mvn(arguments.start / "am.mvn")
    else:
        maker.measure(40 if rank == 0 else 1)
        cmvn = torch.stack([maker.shift, maker.scale])
        if arguments.processes > 1:
            torch.distributed.broadcast(cmvn, 0)
    maker.shift, maker.scale = cmvn
    word_head = nn.Linear(WIDTH, NO_WORD + 1)  # discarded
    lengths = Random(arguments.seed)  # the same in all processes, so that none has to wait
    crossing = nn.BCELoss(reduction="none")

    def loss_of(over: float) -> tuple[Tensor, dict[str, float]]:
        count, seconds = clip_seconds(lengths, 1.0 if arguments.start else over)
        features, targets, words = maker.batch(round(count * arguments.clips), seconds)
        n_rows = features.shape[1]
        full = torch.full((len(targets),), n_rows)
        if over > 0.25:
            maker.clips.mix = LATER_MIX
        with torch.autocast("cpu", torch.bfloat16):  # a third faster
            hidden = model.encoder(features, full)[0].float()
        frames = F.cross_entropy(
            word_head(hidden).flatten(0, 1), words.flatten(), ignore_index=UNKNOWN
        )
        predictor = model.predictor
        raised = torch.relu(predictor.cif_conv1d(predictor.pad(hidden.transpose(1, 2))))
        weights = torch.sigmoid(predictor.cif_output(raised.transpose(1, 2))).squeeze(-1)
        wanted = torch.from_numpy(np.stack([target.weights for target in targets]))
        known = ~wanted.isnan()
        rows = crossing(weights[known], wanted[known]).sum() / known.sum().clamp(min=1)
        totals = torch.tensor([target.total for target in targets])
        quantity = (weights.sum(1) - totals).abs()
        timed = known.all(1)
        drift = (weights.cumsum(1) - wanted.cumsum(1))[timed].abs()
        drift = drift.sum() / max(1, drift.numel())
        spoken = [index for index, target in enumerate(targets) if target.tokens]
        scaled = weights * (totals / weights.sum(1).clamp(min=1e-3))[:, None]
        if not arguments.start and lengths.random() > over * 5:
            scaled = torch.where(timed[:, None], wanted, scaled)
        if not spoken:
            return 2 * rows + 0.2 * quantity.mean() + frames, {}
        counts = torch.tensor([len(target.tokens) for target in targets])
        acoustic = integrate(hidden[spoken], scaled[spoken], counts[spoken])
        with torch.autocast("cpu", torch.bfloat16):
            logits, _ = model.decoder(hidden[spoken], full[spoken], acoustic, counts[spoken])
        logits = logits.float()
        labels = torch.full(logits.shape[:2], -1)
        for row, index in enumerate(spoken):
            labels[row, : len(targets[index].tokens)] = torch.tensor(targets[index].tokens)
        tokens = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-1, label_smoothing=0.02
        )
        asked = labels != -1
        right = (logits.argmax(-1)[asked] == labels[asked]).float().mean()
        weight = 1.0 - 0.7 * over
        loss = tokens + weight * frames + 2 * rows + 0.2 * quantity.mean() + 1.0 * drift
        figures = {
            "tokens": tokens.item(),
            "right": right.item(),
            "frames": frames.item(),
            "rows": rows.item(),
            "quantity": quantity.mean().item(),
            "drift": drift.item(),
            "counted": ((quantity < LEAD).float().mean()).item(),
        }
        return loss, figures

    run_training(
        rank,
        arguments.processes,
        modules=nn.ModuleList([model, word_head]),
        schedule=Schedule(
            arguments.minutes,
            arguments.rate,
            save_minutes=arguments.save_minutes,
            local_steps=arguments.local_steps,
        ),
        loss_of=loss_of,
        save=lambda weights: save_checkpoint(arguments.checkpoint, weights, cmvn),
    )


def scale_start_values(model: nn.Module) -> None:
    """Initialise so that variances are constant with depth."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "output_layer" not in name:
            deep = name.endswith(("linear_out", "w_2"))
            gain = 1 / math.sqrt(8) if deep else 1.0
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.in_features))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.constant_(model.predictor.cif_output.bias, -1.5)  # about one token in five rows


def save_checkpoint(directory: Path, weights: dict[str, Tensor], cmvn: Tensor) -> None:
    """Write a folder as ModelScope has them: weights (here f16), configuration, CMVN and tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / "model.pt.new"
    torch.save({name: tensor.detach().half().clone() for name, tensor in weights.items()}, fresh)
    fresh.rename(directory / "model.pt")
    write_mvn(directory / "am.mvn", cmvn)
    tokens = ",\n".join(f'"{token}"' for token in TOKENS)
    (directory / "tokens.json").write_text(f"[\n{tokens}\n]\n", encoding="utf-8")
    described = {
        "model": "Paraformer",
        "model_conf": {"ctc_weight": 0.0, "predictor_bias": 1},
        "encoder": "SANMEncoder",
        "encoder_conf": ENCODER,
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": DECODER,
        "predictor": "CifPredictorV2",
        "predictor_conf": PREDICTOR,
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": N_MELS,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": LFR_WINDOW,
            "lfr_n": LFR_SHIFT,
            "dither": 0.0,
        },
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(described, sort_keys=False))


def write_mvn(path: Path, cmvn: Tensor) -> None:
    """Write shift and scale in the text form of Kaldi's nnet1, as FunASR stores them."""
    size = cmvn.shape[1]
    shift, scale = (" ".join(f"{value:.8g}" for value in row.tolist()) for row in cmvn)
    path.write_text(
        f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n"
        f"<AddShift> {size} {size}\n<LearnRateCoef> 0 [ {shift} ]\n"
        f"<Rescale> {size} {size}\n<LearnRateCoef> 0 [ {scale} ]\n</Nnet>\n"
    )


def read_mvn(path: Path) -> Tensor:
    """Read shift and scale, (2, size)."""
    vectors = [part.split("]")[0].split() for part in path.read_text().split("[")[1:]]
    return torch.tensor([list(map(float, vector)) for vector in vectors if len(vector) > 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--start", type=Path, help="checkpoint to continue from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", type=float, default=0.5, help="share of plain batches")
    parser.add_argument("--clips", type=float, default=1.0, help="factor on the clips of a step")
    parser.add_argument("--local-steps", type=int, default=1, help="see training.Schedule")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("banks", type=Path)
    parser.add_argument("checkpoint", type=Path)
    arguments = parser.parse_args()
    torch.multiprocessing.spawn(train, (arguments,), nprocs=arguments.processes)


if __name__ == "__main__":
    main()
