"""Steer a local, quantized LLM while it runs on llama.cpp, by feedback control on its activations."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("edgesteer")
