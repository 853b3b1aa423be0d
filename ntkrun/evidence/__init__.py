"""Estimates, verdicts and figures from the tables of a sweep. Imports neither torch nor the packages that produce the
tables."""
