"""Names of the Qwen3 families, and of the files in their bundles beside the decoder's."""

from typing import Final

RECOGNISER: Final = "qwen3-asr"
ALIGNER: Final = "qwen3-forced-aligner"

FRONTEND_FILE: Final = "encoder_frontend.onnx"
"""The graph of the encoder's convolutions."""
BACKEND_FILE: Final = "encoder_backend.onnx"
"""The graph of the encoder's transformer."""
CLASSIFIER_FILE: Final = "classifier.npy"
"""The aligner's head: (n_classes, n_embd)."""
