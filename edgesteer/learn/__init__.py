"""Controllers made on the device itself, with llama.cpp and NumPy alone: contrast prompts and dynamics in."""
