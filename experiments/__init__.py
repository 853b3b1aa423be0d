"""The experiments: each takes one or more sweeps of configs/ and shows their results. They import ntkrun; ntkrun does
not import them, except in commands. docs/experiments.md describes how to write one; experiments/table.py lists them."""
