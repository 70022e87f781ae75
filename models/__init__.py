"""Data, not code: where base models come from, the built-in concepts, and neutral text."""
