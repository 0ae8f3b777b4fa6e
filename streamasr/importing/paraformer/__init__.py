"""Published forms of Paraformer.

find.py         identifies the form of the files, by content
original.py     FunASR's PyTorch checkpoint          ┐
crispasr.py     CrispASR's GGUF                      ├─> checkpoint.py, one normal form
funasr_gguf.py  FunASR's own GGUF                    ┘
release.py      ONNX graphs of FunASR and sherpa-onnx, used as they are

graphs.py       weights -> two ONNX graphs
sidecars.py     tokens, normalisation and settings of features, in files beside the weights
packing.py      the files of a model directory
"""
