"""Figures of a sweep, drawn from tables and estimates that are computed elsewhere."""
