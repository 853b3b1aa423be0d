"""Diagnose a machine or a results directory, and repair what can be repaired without losing a result."""
