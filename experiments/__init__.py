"""The experiments: each is a sweep of configs/ and what is shown of it. They import ntkrun, never the other way."""
