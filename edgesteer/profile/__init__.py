"""edgesteer profile: latency, memory and energy of a model on this device, steered and not."""
