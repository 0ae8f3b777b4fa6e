"""Published forms of ct-punc, the punctuation model of FunASR.

find.py      identifies the form of the files, by content
release.py   ONNX graphs of FunASR and sherpa-onnx, used as they are
original.py  FunASR's PyTorch checkpoint, written as a graph
segmentation.py  dictionary of models whose vocabulary consists of words
sidecars.py  vocabulary and marks, in files beside the weights
"""
