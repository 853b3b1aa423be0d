"""Runs against the numbers of an earlier version."""
