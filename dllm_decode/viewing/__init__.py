"""Watching a run: live view, playback, demo."""
