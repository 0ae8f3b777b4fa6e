"""From the forms in which models are published to the one that streamasr runs.

    source.py                  tells the forms apart, by content
    safetensors_checkpoint.py  folders of safetensors  ┐
    crispasr.py                CrispASR's single GGUF   ├─> checkpoint.py, one normal form
    projector.py               text GGUF and mmproj    ┘
    release.py                 ONNX graphs with a GGUF, used as they are
    archive.py                 zips of any of them

    graphs.py       encoder weights -> two ONNX graphs
    gguf_writer.py  LLM weights and tokenizer -> GGUF
    tokenizer.py    the vocabulary as a GGUF stores it
    quantize.py     q8_0 and q4_k GGUF
    pack.py         all of it, into one model directory

    gguf_file.py, onnx_file.py, safetensors_file.py, config_file.py  read the files themselves

No torch: weights are read from the file and written on, tensor by tensor. Files of users are only
read. The engine knows nothing of this package; it runs what is made here.
"""
