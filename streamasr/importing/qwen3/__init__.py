"""Published forms of Qwen3-ASR and Qwen3-ForcedAligner.

find.py                    identifies the form of the files, by content
safetensors_checkpoint.py  folders of safetensors  ┐
crispasr.py                CrispASR's single GGUF   ├─> checkpoint.py, one normal form
projector.py               text GGUF and mmproj    ┘
release.py                 ONNX graphs with a GGUF, used as they are

graphs.py       encoder weights -> two ONNX graphs
gguf_writer.py  LLM weights and tokenizer -> GGUF
gguf_text.py    checks of a GGUF that llama.cpp shall run unchanged
gguf_names.py   names of tensors in GGUFs
tokenizer.py    the vocabulary as a GGUF stores it
packing.py      the files of a model directory
"""
