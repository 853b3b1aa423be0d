"""Sweeps: from YAML to committed tables."""
