"""Normal form of Paraformer checkpoints, independent of the file format.

The normal form has the names and shapes of FunASR's PyTorch checkpoints:

    encoder.encoders0.0.*, encoder.encoders.N.*, encoder.after_norm.*
    predictor.cif_conv1d.*, predictor.cif_output.*
    predictor.upsample_cnn.*, predictor.blstm.*, predictor.cif_output2.*   with a time head only
    decoder.decoders.N.*, decoder.decoders2.N.*, decoder.decoders3.0.*, decoder.after_norm.*
    decoder.output_layer.*

Sizes follow from the tensors; what tensors do not show, such as the number of heads, is in
`Settings`.

Source: funasr 1.4.16, models/{sanm,paraformer,bicif_paraformer}.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.options import ImportOptions
from streamasr.importing.tensors import Tensor
from streamasr.models.paraformer.names import PARAFORMER

if TYPE_CHECKING:
    from streamasr.importing.bundle_writer import BundleWriter

OUTPUT: Final = "decoder.output_layer.weight"

_MAX_LAYERS: Final = 512
_MAX_WIDTH: Final = 1 << 16  # of a layer
_MAX_TOKENS: Final = 1 << 20
_MAX_KERNEL: Final = 1 << 10
_MOST_SMOOTHING: Final = 10
"""Factor of weights; released models have at most 1."""
_MAX_UPSAMPLING: Final = 60
"""Steps in a row of features (60 ms)."""

_UNUSED: Final = re.compile(
    r"decoder\.embed\..*"  # the inputs are acoustic embeddings; used in training only
    r"|ctc\..*|criterion\w*\..*|.*\.num_batches_tracked"
)
_HOTWORDS: Final = re.compile(
    r"(bias_encoder|bias_embed|lstm_proj|seaco_decoder|hotword_output_layer)\..*"
)
"""Tensors of SeACo's hotwords."""
_HOTWORDS_DROPPED: Final = (
    "the part of this SeACo-Paraformer that biases towards hotwords is not used; it is in FunASR's "
    "ONNX export (model.onnx with model_eb.onnx)."
)


@dataclass(frozen=True, slots=True)
class TimeHead:
    """Settings of the predictor's second output, which times the tokens."""

    smooth: float = 0.25
    """Factor of its weights."""
    noise: float = 0.01
    """Subtracted afterwards."""
    is_after_convolution: bool = False
    """Whether its input is that of the first output, else the encoder's output."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Properties of a model that its tensors do not show; the defaults are the released ones."""

    encoder_heads: int = 4
    decoder_heads: int = 4
    encoder_shift: int = 0
    """Additional rows of the past in an encoder's memory block (FSMN)."""
    decoder_shift: int = 0
    left_context: int = 1
    """Rows of the past in the predictor's convolution."""
    smooth: float = 1.0
    """Factor of the predictor's weights."""
    noise: float = 0.0
    """Subtracted afterwards."""
    threshold: float = 1.0
    """Sum of weights at which a token is emitted."""
    tail: float = 0.45
    """Weight of the virtual row after the end."""
    time_head: TimeHead = TimeHead()


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes that follow from the tensors."""

    n_features: int
    d_model: int
    encoder_ffn: int
    encoder_kernel: int
    n_encoders: int
    """Blocks after the first one."""
    decoder_ffn: int
    decoder_kernel: int
    n_decoders: int
    n_decoders2: int
    """Layers without attention to the encoder, after the others."""
    predictor_kernel: int
    vocab: int
    upsampling: int
    """Steps of the time head in a row of features; 0 without a time head."""
    lstm: int
    """Width of the time head's LSTM in one direction; 0 without an LSTM."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Validated source of weights, which are still on disk; implements `Source`."""

    path: Path
    """File or directory that was read."""
    dimensions: Dimensions
    settings: Settings
    tensors: Mapping[str, Tensor]
    """Tensors by normal name, in the order of the forward pass."""
    tokens: tuple[str, ...]
    """Text of each id."""
    read_cmvn: Callable[[], Float32Array]
    """Function that reads the normalisation of the features, (2, n_features): shift and scale;
    raises ModelError."""
    window: int = 7
    """Frames in a row of features."""
    step: int = 6
    """Frames between two rows."""
    licence: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Name of the family."""
        return PARAFORMER

    def parts(self) -> Sequence[Path]:
        """Return the files that may have been chosen among others."""
        return sorted({tensor.path for tensor in self.tensors.values()})

    def files(self) -> Sequence[Path]:
        """Return the files with the weights."""
        return self.parts()

    def max_bytes(self, options: ImportOptions, _directory: Path) -> float:
        """Return an upper bound for the size of the bundle."""
        from streamasr.importing.paraformer.packing import max_checkpoint_bytes  # imports onnx

        return max_checkpoint_bytes(self, options)

    def write(self, writer: "BundleWriter") -> dict[str, Any]:
        """Write the files of the bundle and return the facts for `model.json`."""
        from streamasr.importing.paraformer.packing import write_checkpoint

        return write_checkpoint(self, writer)


def check_tensors(
    tensors: Mapping[str, Tensor], settings: Settings, path: Path
) -> tuple[Dimensions, dict[str, Tensor], tuple[str, ...]]:
    """Check a complete checkpoint and infer its dimensions.

    Args:
        tensors: all tensors, by normal name.
        settings: properties that they do not show.
        path: name of the source in errors.

    Returns:
        The dimensions, the tensors in the order of the forward pass, and notes about parts that are
        not used.

    Raises:
        ModelError: a tensor is missing, unexpected or of another shape, or the sizes are
            impossible.
    """
    used = {name: tensor for name, tensor in tensors.items() if not _UNUSED.fullmatch(name)}
    hotwords = [name for name in used if _HOTWORDS.fullmatch(name)]
    used = {name: tensor for name, tensor in used.items() if name not in hotwords}
    dimensions = _dimensions(used, path)
    _check_sizes(dimensions, settings, path)
    expected = expected_shapes(dimensions)
    for name, shape in expected.items():
        tensor = _require(used, name, path)
        if tensor.shape != shape:
            raise ModelError(
                f"{path}: tensor {tensor.name} has the shape {tensor.shape}, but the other tensors "
                f"require {shape}",
                code="tensor_shape",
            )
    for name, tensor in used.items():
        if name not in expected:
            raise ModelError(
                f"{path}: unexpected tensor {tensor.name}; only Paraformer models with the encoder "
                "SANMEncoder and the decoder ParaformerSANMDecoder are supported",
                code="tensor_unexpected",
            )
    notes = (_HOTWORDS_DROPPED,) if hotwords else ()
    return dimensions, {name: used[name] for name in expected}, notes


def _require(tensors: Mapping[str, Tensor], name: str, path: Path, n_axes: int = 0) -> Tensor:
    """Return a tensor.

    Raises:
        ModelError: it is missing, or has another number of axes.
    """
    tensor = tensors.get(name)
    if tensor is None:
        raise ModelError(f"{path}: tensor {name} is missing", code="tensor_missing")
    if n_axes and len(tensor.shape) != n_axes:
        raise ModelError(
            f"{path}: tensor {tensor.name} has the shape {tensor.shape}; {n_axes} axes are "
            "required",
            code="tensor_shape",
        )
    return tensor


def _dimensions(tensors: Mapping[str, Tensor], path: Path) -> Dimensions:
    def shape(name: str, n_axes: int) -> tuple[int, ...]:
        return _require(tensors, name, path, n_axes).shape

    def count(prefix: str) -> int:
        numbers = (re.match(rf"{re.escape(prefix)}\.(\d{{1,4}})\.", name) for name in tensors)
        return max((int(found[1]) + 1 for found in numbers if found), default=0)

    qkv, n_features = shape("encoder.encoders0.0.self_attn.linear_q_k_v.weight", 2)
    d_model = qkv // 3
    n_decoders = count("decoder.decoders")
    layer = "decoder.decoders.0" if n_decoders else "decoder.decoders2.0"
    has_time_head = "predictor.cif_output2.weight" in tensors
    has_lstm = "predictor.blstm.weight_hh_l0" in tensors
    return Dimensions(
        n_features=n_features,
        d_model=d_model,
        encoder_ffn=shape("encoder.encoders0.0.feed_forward.w_1.weight", 2)[0],
        encoder_kernel=shape("encoder.encoders0.0.self_attn.fsmn_block.weight", 3)[2],
        n_encoders=count("encoder.encoders"),
        decoder_ffn=shape("decoder.decoders3.0.feed_forward.w_1.weight", 2)[0],
        decoder_kernel=shape(f"{layer}.self_attn.fsmn_block.weight", 3)[2],
        n_decoders=n_decoders,
        n_decoders2=count("decoder.decoders2"),
        predictor_kernel=shape("predictor.cif_conv1d.weight", 3)[2],
        vocab=shape(OUTPUT, 2)[0],
        upsampling=shape("predictor.upsample_cnn.weight", 3)[2] if has_time_head else 0,
        lstm=shape("predictor.blstm.weight_hh_l0", 2)[1] if has_lstm else 0,
    )


def _check_sizes(dimensions: Dimensions, settings: Settings, path: Path) -> None:
    """Refuse sizes that contradict each other or are not plausible."""
    limits = {
        "features": (dimensions.n_features, _MAX_WIDTH),
        "values in d_model": (dimensions.d_model, _MAX_WIDTH),
        "values in the encoder's feed-forward layers": (dimensions.encoder_ffn, _MAX_WIDTH),
        "values in the decoder's feed-forward layers": (dimensions.decoder_ffn, _MAX_WIDTH),
        "encoder blocks": (dimensions.n_encoders + 1, _MAX_LAYERS),
        "decoder layers": (dimensions.n_decoders + dimensions.n_decoders2, _MAX_LAYERS),
        "tokens": (dimensions.vocab, _MAX_TOKENS),
        "values in the encoder's kernel": (dimensions.encoder_kernel, _MAX_KERNEL),
        "values in the decoder's kernel": (dimensions.decoder_kernel, _MAX_KERNEL),
        "values in the predictor's kernel": (dimensions.predictor_kernel, _MAX_KERNEL),
    }
    if dimensions.upsampling:
        limits["steps in a row of features"] = (dimensions.upsampling, _MAX_UPSAMPLING)
    for quantity, (size, limit) in limits.items():
        if not 1 <= size <= limit:
            raise ModelError(
                f"{path}: the model has {size} {quantity}; 1 to {limit} are possible",
                code="size_out_of_range",
            )
    _check_numbers(settings, path)
    # The positions divide by zero for a width of 2.
    if dimensions.n_features % 2 or dimensions.n_features < 4:
        raise ModelError(
            f"{path}: {dimensions.n_features} features cannot be split into sines and cosines",
            code="feature_width",
        )
    for part, heads in (("encoder", settings.encoder_heads), ("decoder", settings.decoder_heads)):
        if dimensions.d_model % heads:
            raise ModelError(
                f"{path}: d_model {dimensions.d_model} cannot be split into the {part}'s {heads} "
                "heads",
                code="encoder_heads",
            )
    contexts = (
        ("encoder", settings.encoder_shift, (dimensions.encoder_kernel - 1) // 2),
        ("decoder", settings.decoder_shift, (dimensions.decoder_kernel - 1) // 2),
        ("predictor", settings.left_context, dimensions.predictor_kernel - 1),
    )
    for part, size, limit in contexts:
        if not 0 <= size <= limit:
            raise ModelError(
                f"{path}: the {part}'s convolution begins {size} rows earlier than usual, which "
                f"must be from 0 to {limit}",
                code="value_out_of_range",
            )


def _check_numbers(settings: Settings, path: Path) -> None:
    """Refuse settings of the predictor with which no text would come out."""
    if settings.threshold != 1:
        raise ModelError(
            f"{path}: the predictor's threshold is {settings.threshold:g}; only 1 is supported",
            code="setting_unsupported",
        )
    head = settings.time_head
    for name, number, lowest, highest in (
        ("tail_threshold", settings.tail, 0, 1),
        ("smooth_factor", settings.smooth, 0, _MOST_SMOOTHING),
        ("noise_threshold", settings.noise, 0, 1),
        ("smooth_factor2", head.smooth, 0, _MOST_SMOOTHING),
        ("noise_threshold2", head.noise, 0, 1),
    ):
        if not lowest <= number <= highest:
            raise ModelError(
                f"{path}: the predictor's {name} is {number:g}, which must be from {lowest} to "
                f"{highest}",
                code="value_out_of_range",
            )


def expected_shapes(dimensions: Dimensions) -> dict[str, tuple[int, ...]]:
    """Return every tensor with its shape, in the order of the forward pass."""
    return {
        **encoder_shapes(dimensions),
        **predictor_shapes(dimensions),
        **decoder_shapes(dimensions),
    }


def encoder_shapes(sizes: Dimensions) -> dict[str, tuple[int, ...]]:
    """Return the tensors of the encoder."""
    return dict(_encoder_shapes(sizes))


def predictor_shapes(sizes: Dimensions) -> dict[str, tuple[int, ...]]:
    """Return the tensors of the predictor."""
    return dict(_predictor_shapes(sizes))


def decoder_shapes(sizes: Dimensions) -> dict[str, tuple[int, ...]]:
    """Return the tensors of the decoder."""
    return dict(_decoder_shapes(sizes))


_Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _encoder_shapes(sizes: Dimensions) -> _Shapes:
    width = sizes.d_model
    blocks = [f"encoder.encoders.{number}" for number in range(sizes.n_encoders)]
    for prefix, inputs in (
        ("encoder.encoders0.0", sizes.n_features),
        *((block, width) for block in blocks),
    ):
        yield from _both(f"{prefix}.norm1", inputs)
        yield from _both(f"{prefix}.self_attn.linear_q_k_v", 3 * width, inputs)
        yield f"{prefix}.self_attn.fsmn_block.weight", (width, 1, sizes.encoder_kernel)
        yield from _both(f"{prefix}.self_attn.linear_out", width, width)
        yield from _both(f"{prefix}.norm2", width)
        yield from _both(f"{prefix}.feed_forward.w_1", sizes.encoder_ffn, width)
        yield from _both(f"{prefix}.feed_forward.w_2", width, sizes.encoder_ffn)
    yield from _both("encoder.after_norm", width)


def _predictor_shapes(sizes: Dimensions) -> _Shapes:
    width = sizes.d_model
    yield from _both("predictor.cif_conv1d", width, width, sizes.predictor_kernel)
    yield from _both("predictor.cif_output", 1, width)
    if not sizes.upsampling:
        return
    yield from _both("predictor.upsample_cnn", width, width, sizes.upsampling)
    for suffix in ("", "_reverse") if sizes.lstm else ():
        yield f"predictor.blstm.weight_ih_l0{suffix}", (4 * sizes.lstm, width)
        yield f"predictor.blstm.weight_hh_l0{suffix}", (4 * sizes.lstm, sizes.lstm)
        yield f"predictor.blstm.bias_ih_l0{suffix}", (4 * sizes.lstm,)
        yield f"predictor.blstm.bias_hh_l0{suffix}", (4 * sizes.lstm,)
    yield from _both("predictor.cif_output2", 1, 2 * sizes.lstm or width)


def _decoder_shapes(sizes: Dimensions) -> _Shapes:
    width = sizes.d_model
    first = [f"decoder.decoders.{number}" for number in range(sizes.n_decoders)]
    second = [f"decoder.decoders2.{number}" for number in range(sizes.n_decoders2)]
    for prefix in (*first, *second):
        yield from _decoder_feed_forward(prefix, sizes)
        yield from _both(f"{prefix}.norm2", width)
        yield f"{prefix}.self_attn.fsmn_block.weight", (width, 1, sizes.decoder_kernel)
        if prefix in first:
            yield from _both(f"{prefix}.norm3", width)
            yield from _both(f"{prefix}.src_attn.linear_q", width, width)
            yield from _both(f"{prefix}.src_attn.linear_k_v", 2 * width, width)
            yield from _both(f"{prefix}.src_attn.linear_out", width, width)
    yield from _decoder_feed_forward("decoder.decoders3.0", sizes)
    yield from _both("decoder.after_norm", width)
    yield from _both("decoder.output_layer", sizes.vocab, width)


def _decoder_feed_forward(prefix: str, sizes: Dimensions) -> _Shapes:
    yield from _both(f"{prefix}.norm1", sizes.d_model)
    yield from _both(f"{prefix}.feed_forward.w_1", sizes.decoder_ffn, sizes.d_model)
    yield from _both(f"{prefix}.feed_forward.norm", sizes.decoder_ffn)
    yield f"{prefix}.feed_forward.w_2.weight", (sizes.d_model, sizes.decoder_ffn)


def _both(name: str, *shape: int) -> _Shapes:
    """Yield a weight and its bias, which has one value for each output."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
