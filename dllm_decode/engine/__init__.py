"""The engine: canvases, forwards, scores and the one loop that decodes."""
