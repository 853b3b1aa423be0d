"""Estimates with intervals, computed from the tables of a sweep."""
