"""FunASR's Paraformer: models with random weights, and its stages for the features of a clip."""

from dataclasses import dataclass
from typing import Any

# These register the parts by name.
import funasr.models.bicif_paraformer.cif_predictor
import funasr.models.paraformer.cif_predictor
import funasr.models.paraformer.decoder
import funasr.models.sanm.encoder  # noqa: F401
import torch
from funasr.models.bicif_paraformer.model import BiCifParaformer
from funasr.models.paraformer.model import Paraformer

from streamasr.core.units import Float32Array
from tests.sources.paraformer.weights import N_FEATURES, Sizes, Weights

torch.set_num_threads(1)


def build(sizes: Sizes, seed: int = 0, weights: Weights | None = None) -> Any:
    """Make a model with random weights, or the given ones; hotwords are left out."""
    config = sizes.config()
    names = ("encoder", "encoder_conf", "decoder", "decoder_conf", "predictor", "predictor_conf")
    kind = BiCifParaformer if sizes.head else Paraformer
    model = kind(
        **{name: config[name] for name in names},
        **config["model_conf"],
        input_size=N_FEATURES,
        vocab_size=sizes.vocab,
    )
    weights = weights or Weights(sizes, seed)
    parts = ("encoder.", "decoder.", "predictor.")
    state = {
        name: torch.from_numpy(weights.read(name))
        for name in weights.shapes
        if name.startswith(parts)
    }
    model.load_state_dict(state)
    return model.eval()


@dataclass(frozen=True, slots=True)
class Stages:
    """Outputs of the stages for one clip; all without the batch."""

    encoded: Float32Array
    alphas: Float32Array
    """Without the virtual row after the end."""
    time_alphas: Float32Array | None
    acoustic: Float32Array
    """Embeddings from CIF."""
    logits: Float32Array


def stages(model: Any, features: Float32Array, acoustic: Float32Array | None = None) -> Stages:
    """Compute all stages; random acoustic embeddings may be given instead of those from CIF."""
    rows = torch.from_numpy(features)[None]
    lengths = torch.tensor([len(features)])
    time_alphas = None
    with torch.no_grad():
        encoded, encoded_lengths, *_ = model.encoder(rows, lengths)
        embeddings, _, alphas, *_ = model.calc_predictor(encoded, encoded_lengths)
        if hasattr(model.predictor, "upsample_cnn"):
            mask = torch.ones(1, 1, len(features))
            us_alphas = model.predictor.get_upsample_timestamp(encoded, mask)[2]
            time_alphas = us_alphas[0].numpy()
        if acoustic is not None:
            embeddings = torch.from_numpy(acoustic)[None]
        n_tokens = torch.tensor([embeddings.shape[1]])
        logits, _ = model.decoder(encoded, encoded_lengths, embeddings, n_tokens)
    return Stages(
        encoded[0].numpy(),
        alphas[0, : len(features)].numpy(),
        time_alphas,
        embeddings[0].numpy(),
        logits[0].numpy(),
    )
