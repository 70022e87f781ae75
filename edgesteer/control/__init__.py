"""Control theory on arrays: Riccati recursion and whitened observer. Knows no models, prompts or files."""
