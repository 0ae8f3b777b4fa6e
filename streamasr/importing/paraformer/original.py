"""Reader for the original folders of Paraformer, as FunASR downloads and trains them.

    model.pt      PyTorch checkpoint, read without torch
    config.yaml   settings
    am.mvn        normalisation of the features
    tokens.json   list of the tokens

Source: funasr 1.4.16, auto/auto_model.py, and the defaults of the classes that `config.yaml` names.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from streamasr.core.errors import ModelError
from streamasr.importing.config_file import Config, read_yaml
from streamasr.importing.paraformer.checkpoint import (
    Checkpoint,
    Settings,
    TimeHead,
    check_tensors,
)
from streamasr.importing.paraformer.sidecars import (
    check_features,
    check_tokens,
    licence_of,
    read_cmvn,
    read_tokens,
    streaming_error,
)
from streamasr.importing.torch_file import TorchTensor, is_torch_file, read_state_dict

_CONFIG: Final = "config.yaml"
_WEIGHTS: Final = "model.pt"
_MARK: Final = "encoder.encoders0.0.self_attn.linear_q_k_v.weight"
_CIF: Final = "predictor.cif_conv1d.weight"
"""Together with the mark, tensors that only a Paraformer has."""
_MODELS: Final = ("Paraformer", "BiCifParaformer", "SeacoParaformer")
_STREAMING: Final = ("ParaformerStreaming", "SCAMA")

_ONLY: Final[Mapping[str, Mapping[str, Sequence[Any]]]] = {
    "encoder_conf": {
        "input_layer": ("pe",),
        "selfattention_layer_type": ("sanm",),
        "positionwise_layer_type": ("linear",),
        "normalize_before": (True,),
        "concat_after": (False,),
    },
    "decoder_conf": {
        "normalize_before": (True,),
        "concat_after": (False,),
        "use_output_layer": (True,),
    },
    "model_conf": {"predictor_bias": (1,)},
}
"""Values of settings that the graphs are written for."""


def is_original(folder: Path, files: Sequence[Path]) -> bool:
    """Return whether a folder has a PyTorch checkpoint of a Paraformer.

    Args:
        folder: the folder.
        files: the regular files in it.

    Raises:
        ModelError: a checkpoint is damaged, and `config.yaml` says that it is a Paraformer.
    """
    weights = _weights(files)
    if not weights:
        return False
    config = folder / _CONFIG
    if config in files:
        name = read_yaml(config).get("model")
        return isinstance(name, str) and "paraformer" in name.lower()
    tensors = read_state_dict(weights[0])
    return _MARK in tensors and _CIF in tensors


def read_original(folder: Path, files: Sequence[Path]) -> Checkpoint:
    """Read a folder with a PyTorch checkpoint.

    Raises:
        ModelError: a file is missing or damaged, or the model is not supported.
    """
    path = _choose_weights(folder, _weights(files))
    if folder / _CONFIG not in files:
        raise ModelError(
            f"{folder} has no {_CONFIG}, which states the settings of the model; download it into "
            "the same folder.",
            code="config_missing",
        )
    config = read_yaml(folder / _CONFIG)
    _check_classes(config, folder)
    settings = _settings(config)
    tensors: dict[str, TorchTensor] = read_state_dict(path)
    dimensions, ordered, notes = check_tensors(tensors, settings, path)
    window, step = check_features(config, dimensions.n_features)
    tokens = read_tokens(folder)
    check_tokens(tokens, dimensions.vocab, folder)
    cmvn = read_cmvn(folder, dimensions.n_features)
    return Checkpoint(
        path=folder,
        dimensions=dimensions,
        settings=settings,
        tensors=ordered,
        tokens=tokens,
        read_cmvn=lambda: cmvn,
        window=window,
        step=step,
        licence=licence_of(dimensions.vocab),
        notes=notes,
    )


def _weights(files: Sequence[Path]) -> list[Path]:
    """Return the PyTorch checkpoints among files, `model.pt` first."""
    found = [path for path in files if is_torch_file(path)]
    return sorted(found, key=lambda path: path.name != _WEIGHTS)


def _choose_weights(folder: Path, weights: Sequence[Path]) -> Path:
    if len(weights) > 1 and weights[0].name != _WEIGHTS:
        names = ", ".join(path.name for path in weights)
        raise ModelError(
            f"{folder} contains several checkpoints ({names}), and none is named {_WEIGHTS}; "
            f"rename the one to use to {_WEIGHTS}.",
            code="ambiguous_parts",
        )
    return weights[0]


def _check_classes(config: Config, folder: Path) -> None:
    """Refuse other models, and parts that the graphs do not have.

    Raises:
        ModelError: a class or a setting is not supported.
    """
    encoder = config.optional_section("encoder_conf")
    if config.get("model") in _STREAMING or encoder.get("input_layer") == "pe_online":
        raise streaming_error(folder)
    config.only("model", *_MODELS)
    config.only("encoder", "SANMEncoder")
    config.only("decoder", "ParaformerSANMDecoder")
    config.only("predictor", "CifPredictorV2", "CifPredictorV3")
    for section, settings in _ONLY.items():
        for name, allowed in settings.items():
            config.optional_section(section).only(name, *allowed)
    predictor = config.optional_section("predictor_conf")
    if config.get("predictor") == "CifPredictorV3":
        predictor.only("upsample_type", "cnn", "cnn_blstm")


def _settings(config: Config) -> Settings:
    encoder = config.optional_section("encoder_conf")
    decoder = config.optional_section("decoder_conf")
    predictor = config.optional_section("predictor_conf")
    defaults, head = Settings(), TimeHead()
    return Settings(
        encoder_heads=_positive(encoder, "attention_heads", defaults.encoder_heads),
        decoder_heads=_positive(decoder, "attention_heads", defaults.decoder_heads),
        encoder_shift=_shift(encoder),
        decoder_shift=_shift(decoder),
        left_context=_integer(predictor, "l_order", defaults.left_context),
        smooth=_number(predictor, "smooth_factor", defaults.smooth),
        noise=_number(predictor, "noise_threshold", defaults.noise),
        threshold=_number(predictor, "threshold", defaults.threshold),
        tail=_number(predictor, "tail_threshold", 0.0),
        time_head=TimeHead(
            smooth=_number(predictor, "smooth_factor2", 1.0),
            noise=_number(predictor, "noise_threshold2", 0.0),
            is_after_convolution=bool(_given(predictor, "use_cif1_cnn", default=True)),
        )
        if config.get("predictor") == "CifPredictorV3"
        else head,
    )


def _shift(config: Config) -> int:
    if config.states("sanm_shfit") and "sanm_shfit" not in config:
        raise ModelError(
            f"{config.path}: sanm_shfit is null, which only streaming models need; it must be a "
            "number",
            code="setting_unsupported",
        )
    return _integer(config, "sanm_shfit", 0)


def _given(config: Config, name: str, *, default: Any) -> Any:
    value = config.get(name)
    return default if value is None else value


def _integer(config: Config, name: str, default: int) -> int:
    """Return an integer from 0."""
    value = _given(config, name, default=default)
    return 0 if value == 0 else _positive(config, name, default)


def _positive(config: Config, name: str, default: int) -> int:
    return config.integer(name) if name in config else default


def _number(config: Config, name: str, default: float) -> float:
    return config.number(name) if name in config else default
