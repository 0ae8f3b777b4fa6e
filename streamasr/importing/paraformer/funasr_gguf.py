"""Reader for FunASR's own GGUF of Paraformer: weights, normalisation and, mostly, the tokens.

Tensors have the names of the PyTorch checkpoint. Kernels of memory blocks are stored transposed, as
(n, width). The list of tokens may be missing; then it is read from `tokens.json` beside the file.
"""

from typing import Final

from streamasr.core.errors import ModelError
from streamasr.features.cmvn import checked_cmvn
from streamasr.importing.gguf_file import GGUFFile, GGUFTensor
from streamasr.importing.paraformer.checkpoint import (
    Checkpoint,
    Dimensions,
    Settings,
    check_tensors,
)
from streamasr.importing.paraformer.gguf_tensors import (
    TransposedKernel,
    as_convolution,
    as_matrix,
    check_stated,
    vector,
)
from streamasr.importing.paraformer.sidecars import (
    STEP,
    WINDOW,
    check_tokens,
    check_width,
    licence_of,
    read_tokens,
    stack_cmvn,
)
from streamasr.importing.tensors import Tensor

MARK: Final = "pf.enc.output_size"
"""Key that only this form has."""

_TOKENS: Final = "pf.vocab"
_SHIFT, _SCALE = "cmvn.shift", "cmvn.scale"


def read_funasr_gguf(file: GGUFFile) -> Checkpoint:
    """Interpret FunASR's GGUF.

    Raises:
        ModelError: a part is missing, contradictory or not supported.
    """
    defaults = Settings()
    settings = Settings(
        encoder_heads=file.integer("pf.enc.attention_heads", defaults.encoder_heads),
        decoder_heads=file.integer("pf.dec.attention_heads", defaults.decoder_heads),
        threshold=_number(file, "pf.predictor.threshold", defaults.threshold),
        tail=_number(file, "pf.predictor.tail_threshold", defaults.tail),
    )
    dimensions, tensors, notes = check_tensors(_normal_form(file), settings, file.path)
    _check_dimensions(file, dimensions)
    check_width(dimensions.n_features, WINDOW, STEP, file.path)
    cmvn = checked_cmvn(vector(file, _SHIFT), vector(file, _SCALE))
    stacked = stack_cmvn(cmvn, dimensions.n_features, file.path)
    tokens = _tokens(file)
    check_tokens(tokens, dimensions.vocab, file.path)
    return Checkpoint(
        path=file.path,
        dimensions=dimensions,
        settings=settings,
        tensors=tensors,
        tokens=tokens,
        read_cmvn=lambda: stacked,
        licence=file.text("general.license") or licence_of(dimensions.vocab),
        notes=notes,
    )


def _tokens(file: GGUFFile) -> tuple[str, ...]:
    if tokens := file.texts(_TOKENS):
        return tuple(tokens)
    try:
        return read_tokens(file.path.parent)
    except ModelError as error:
        if error.code != "tokens_missing":
            raise
        raise ModelError(
            f"{file.path} does not contain the list of tokens ({_TOKENS}); download tokens.json of "
            "the same model into its folder.",
            code="tokens_missing",
        ) from error


def _number(file: GGUFFile, name: str, default: float) -> float:
    """Return a number; single precision has one digit too many for a plain value such as 0.45."""
    return round(file.number(name), 6) if name in file.metadata else default


def _normal_form(file: GGUFFile) -> dict[str, Tensor]:
    normal: dict[str, Tensor] = {}
    for name, tensor in file.tensors.items():
        if name in (_SHIFT, _SCALE):
            continue
        if name.endswith("fsmn_block.weight"):
            normal[name] = _kernel(file, tensor)
        elif name.startswith("predictor.cif_output") and name.endswith("weight"):
            normal[name] = as_matrix(tensor)
        else:
            normal[name] = tensor
    return normal


def _kernel(file: GGUFFile, tensor: GGUFTensor) -> Tensor:
    """Return the kernel of a memory block, whose width is that of the model."""
    width = file.integer(MARK)
    is_transposed = len(tensor.shape) == 2 and tensor.shape[1] == width
    return TransposedKernel(tensor) if is_transposed else as_convolution(tensor)


def _check_dimensions(file: GGUFFile, sizes: Dimensions) -> None:
    """Refuse metadata that contradict the tensors.

    Raises:
        ModelError: a size is another one.
    """
    check_stated(
        file,
        {
            "pf.enc.output_size": sizes.d_model,
            "pf.enc.num_blocks": 1 + sizes.n_encoders,
            "pf.enc.kernel_size": sizes.encoder_kernel,
            "pf.dec.num_blocks": sizes.n_decoders + sizes.n_decoders2,
            "pf.dec.att_layer_num": sizes.n_decoders,
            "pf.dec.decoders3": 1,
            "pf.dec.kernel_size": sizes.decoder_kernel,
            "pf.vocab_size": sizes.vocab,
        },
    )
