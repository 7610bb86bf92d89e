"""The engine process: one model, several conversations at once, reached over socket pairs."""
