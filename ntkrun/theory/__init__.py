"""Predictions of the infinite-width theory, as pure functions: no files, no training."""
