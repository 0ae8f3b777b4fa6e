"""The language model: the binding to llama.cpp, the token loop, tokens to text."""
