"""The half of edgesteer that runs on the device: llama.cpp, steered through its eval callback."""
