"""One file per model family, and `onnx`, the only place that opens graphs."""
