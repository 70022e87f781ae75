"""The exporter: PyTorch model and contrast prompts in, sidecar out. Imports torch; knows nothing of llama.cpp."""
