"""Name of the Paraformer family, the files in its bundles, and the keys of their `model.json`."""

from typing import Final

RECOGNISER: Final = "paraformer"

TOKENS_FILE: Final = "tokens.json"
"""JSON list of the tokens; the index is the id."""
CMVN_FILE: Final = "cmvn.npy"
"""float32, (2, width of a row): the shift and the scale of the features."""
ENCODER_FILE: Final = "encoder.onnx"
"""Of a bundle in parts: features to encoded rows and their weights."""
DECODER_FILE: Final = "decoder.onnx"
"""Of a bundle in parts: encoded rows and one embedding per token to logits."""
MODEL_FILE: Final = "model.onnx"
"""Of a bundle with a released graph: features to logits."""
HOTWORDS_FILE: Final = "hotwords.onnx"
"""Ids of hotwords to embeddings; only of models that take hotwords (SeACo)."""

GRAPHS_KEY: Final = "graphs"
PARTS: Final = "parts"
WHOLE: Final = "whole"
