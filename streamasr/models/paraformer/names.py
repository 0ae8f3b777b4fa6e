"""Name of the Paraformer family, and of the files in its bundles."""

from typing import Final

PARAFORMER: Final = "paraformer"

ENCODER_FILE: Final = "encoder.onnx"
"""Graph of the encoder and the predictor, built from weights."""
DECODER_GRAPH_FILE: Final = "decoder.onnx"
"""Graph of the decoder, built from weights."""
WHOLE_FILE: Final = "model.onnx"
"""Released graph of the whole model."""
HOTWORDS_FILE: Final = "hotwords.onnx"
"""Released graph that embeds hotwords."""
TOKENS_FILE: Final = "tokens.json"
"""JSON list of the tokens; the index is the id."""
CMVN_FILE: Final = "cmvn.npy"
"""float32 (2, features): shift and scale."""

GRAPHS_KEY: Final = "graphs"
"""Key of `model.json`: `PARTS` or `WHOLE`."""
PARTS: Final = "parts"
"""An encoder and a decoder, built from weights."""
WHOLE: Final = "whole"
"""A released graph."""
