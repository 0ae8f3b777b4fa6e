"""FunASR's Paraformer: models with random weights, and its stages for the features of a clip."""

from dataclasses import dataclass, field
from typing import Any, Final

# These register the parts by name.
import funasr.models.bicif_paraformer.cif_predictor
import funasr.models.paraformer.cif_predictor
import funasr.models.paraformer.decoder
import funasr.models.sanm.encoder  # noqa: F401
import numpy as np
import torch
from funasr.models.bicif_paraformer.model import BiCifParaformer
from funasr.models.paraformer.model import Paraformer

from streamasr.core.units import Float32Array

torch.set_num_threads(1)

N_FEATURES: Final = 560


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model; the defaults are the smallest that exercise everything."""

    d_model: int = 32
    heads: int = 4
    ffn: int = 48
    blocks: int = 3
    kernel: int = 11
    shift: int = 0
    decoder_ffn: int = 40
    layers: int = 2
    layers_without_attention: int = 0
    decoder_kernel: int = 11
    decoder_shift: int = 0
    vocab: int = 50
    left: int = 1
    right: int = 1
    smooth: float = 1.0
    noise: float = 0.0
    head: str | None = None
    """Type of the time head: `cnn`, `cnn_blstm`, or None."""
    is_after_convolution: bool = False
    upsampling: int = 3
    extra: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """Return the sections of `config.yaml` with which FunASR makes the model."""
        predictor = {
            "idim": self.d_model,
            "threshold": 1.0,
            "l_order": self.left,
            "r_order": self.right,
            "tail_threshold": 0.45,
            "smooth_factor": self.smooth,
            "noise_threshold": self.noise,
        }
        if self.head:
            predictor |= {
                "smooth_factor2": 0.25,
                "noise_threshold2": 0.01,
                "upsample_times": self.upsampling,
                "upsample_type": self.head,
                "use_cif1_cnn": self.is_after_convolution,
            }
        return {
            "model": "BiCifParaformer" if self.head else "Paraformer",
            "model_conf": {"ctc_weight": 0.0, "predictor_bias": 1, "lsm_weight": 0.1},
            "encoder": "SANMEncoder",
            "encoder_conf": {
                "output_size": self.d_model,
                "attention_heads": self.heads,
                "linear_units": self.ffn,
                "num_blocks": self.blocks,
                "input_layer": "pe",
                "kernel_size": self.kernel,
                "sanm_shfit": self.shift,
                "selfattention_layer_type": "sanm",
                "normalize_before": True,
            },
            "decoder": "ParaformerSANMDecoder",
            "decoder_conf": {
                "attention_heads": self.heads,
                "linear_units": self.decoder_ffn,
                "num_blocks": self.layers + self.layers_without_attention,
                "att_layer_num": self.layers,
                "kernel_size": self.decoder_kernel,
                "sanm_shfit": self.decoder_shift,
            },
            "predictor": "CifPredictorV3" if self.head else "CifPredictorV2",
            "predictor_conf": predictor,
        }


def build(sizes: Sizes, seed: int = 0) -> Any:
    """Make a model with weights so large that every stage contributes."""
    config = sizes.config()
    names = ("encoder", "encoder_conf", "decoder", "decoder_conf", "predictor", "predictor_conf")
    kind = BiCifParaformer if sizes.head else Paraformer
    model = kind(
        **{name: config[name] for name in names},
        **config["model_conf"],
        input_size=N_FEATURES,
        vocab_size=sizes.vocab,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            is_norm = "norm" in name
            if name.endswith("weight") and not is_norm:
                fan = tensor[0].numel()
                tensor.copy_(noise * 1.5 / fan**0.5)
            else:
                tensor.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
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


def features_of(n_rows: int, seed: int) -> Float32Array:
    """Return features like those after normalisation: mean 0, variance 1."""
    return np.random.default_rng(seed).normal(size=(n_rows, N_FEATURES)).astype(np.float32)
