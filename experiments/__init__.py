"""The experiments: each is a sweep or two of configs/ and what is shown of them. They import ntkrun, never the other
way. docs/experiments.md says how to write one; experiments/table.py lists them."""
