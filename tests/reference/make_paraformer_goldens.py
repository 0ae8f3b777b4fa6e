"""Make tests/data/golden_paraformer.npz: small Paraformers and their results by funasr.

.venv-reference/bin/python -m tests.reference.make_paraformer_goldens

The weights are stored, in half precision, of which they are exact values. Of random features, the
outputs of all stages are stored, computed in double precision, with the largest errors of single
precision; of clips, the text and the times of tokens in milliseconds.
"""

import copy
import json
from typing import Any

import numpy as np
import torch
from funasr.frontends.wav_frontend import WavFrontend, apply_cmvn
from funasr.utils.postprocess_utils import sentence_postprocess
from funasr.utils.timestamp_tools import ts_prediction_lfr6_standard

from tests.reference.paraformer import Sizes, build
from tests.support import paraformer_golden as golden
from tests.support.rounding import gaps

SIZES = {
    name: Sizes(
        d_model=16,
        heads=golden.HEADS,
        ffn=24,
        blocks=2,
        decoder_ffn=20,
        layers=1,
        vocab=len(golden.TOKENS),
        head="cnn_blstm" if name == "time head" else None,
    )
    for name in golden.MODELS
}
LEAST_GAP = 5e-4
"""Of the two best tokens, and of a sum of weights to a whole number: rounding does not decide."""


SEEDS = {"plain": 30, "time head": 23}
"""Without a gap that is too small, and with all kinds of tokens."""


def make(name: str) -> Any:
    """Make a model whose weights are values of half precision, and which speaks."""
    model = build(SIZES[name], seed=SEEDS[name])
    with torch.no_grad():
        model.predictor.cif_output.bias.fill_(-1.0)
        model.decoder.output_layer.bias[golden.TOKENS.index("<unk>")] = -100
        model.decoder.output_layer.bias[golden.TOKENS.index("tomo@@")] = -100
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model


def stages(model: Any, rows: torch.Tensor) -> dict[str, np.ndarray]:
    """Compute all stages in the precision of the features."""
    model = copy.deepcopy(model).to(rows.dtype)
    lengths = torch.tensor([len(rows)])
    with torch.no_grad():
        encoded, encoded_lengths, *_ = model.encoder(rows[None], lengths)
        acoustic, n_tokens, alphas, *_ = model.calc_predictor(encoded, encoded_lengths)
        logits, _ = model.decoder(
            encoded, encoded_lengths, acoustic.to(rows.dtype), n_tokens.long()
        )
        found = {"encoded": encoded[0], "alphas": alphas[0, :-1], "logits": logits[0]}
        if hasattr(model.predictor, "upsample_cnn"):
            mask = torch.ones(1, 1, len(rows), dtype=rows.dtype)
            found["time_alphas"] = model.predictor.get_upsample_timestamp(encoded, mask)[2][0]
    return {name: each.numpy() for name, each in found.items()}


def spoken(model: Any, name: str) -> dict[str, np.ndarray]:
    """Recognise a clip: tokens, text and times."""
    frontend = WavFrontend(window="hamming", lfr_m=7, lfr_n=6, dither=0.0)
    samples = golden.clip(name)
    rows, _ = frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    rows = apply_cmvn(rows[0].clone(), torch.from_numpy(golden.cmvn()))
    found = stages(model, rows)
    sums = np.cumsum(found["alphas"], dtype=np.float64)
    logits = found["logits"]
    assert min(gaps(logits).min(), np.abs(sums - sums.round()).min()) > LEAST_GAP, name
    with torch.no_grad():
        lengths = torch.tensor([len(rows)])
        encoded, lengths, *_ = model.encoder(rows[None], lengths)
        _, n_tokens, weights, peaks, *_ = model.calc_predictor(encoded, lengths)
        per_row = 1
        if hasattr(model.predictor, "upsample_cnn"):
            per_row = 3
            _, _, weights, peaks = model.calc_predictor_timestamp(encoded, lengths, n_tokens)
    ids = [int(each) for each in logits.argmax(axis=1) if each > 2]
    tokens = [golden.TOKENS[each] for each in ids]
    text, _ = sentence_postprocess(tokens)
    # In the order that its authors meant: 1.4.16 takes one for the other without a time head.
    _, times = ts_prediction_lfr6_standard(weights[0], peaks[0], tokens, upsample_rate=per_row)
    return {"tokens": np.array(ids), "text": np.array(text), "times": np.array(times)}


def main() -> None:
    """Write the file."""
    arrays: dict[str, np.ndarray] = {}
    texts = {}
    for name in SIZES:
        model = make(name)
        for key, tensor in model.state_dict().items():
            if not key.startswith("decoder.embed"):
                arrays[f"{name}/weights/{key}"] = tensor.half().numpy()
        for n_rows in golden.ROWS:
            rows = torch.from_numpy(golden.random_features(n_rows))
            single, exact = stages(model, rows), stages(model, rows.double())
            for stage, values in exact.items():
                arrays[f"{name}/{n_rows}/{stage}"] = values.astype(np.float32)
                arrays[f"{name}/{n_rows}/{stage}_error"] = np.abs(single[stage] - values).max()
        for clip in golden.CLIPS:
            found = spoken(model, clip)
            texts[f"{name}/{clip}"] = str(found["text"])
            arrays |= {f"{name}/{clip}/{key}": values for key, values in found.items()}
    np.savez_compressed(golden.GOLDEN, **arrays)
    print(json.dumps(texts, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
