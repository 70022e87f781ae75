"""The laboratory: measures what steering does, and what it costs."""
