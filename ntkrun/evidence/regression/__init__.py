"""Comparison of runs with the numbers of an earlier version."""
