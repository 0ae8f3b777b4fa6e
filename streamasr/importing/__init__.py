"""Model conversion: a safetensors checkpoint becomes a bundle that streamasr can run.

    checkpoint.py   any key style -> one normal form, checked
    graphs.py       encoder weights -> two ONNX graphs
    gguf_writer.py  LLM weights and tokenizer -> GGUF
    tokenizer.py    tokenizer files -> the vocabulary as a GGUF stores it
    quantize.py     int8 graphs, q8_0 and q4_k GGUF
    bundle.py       all of it, into one directory

No torch: weights are read from the file and written on, tensor by tensor. Only
`streamasr export` imports this package.
"""
