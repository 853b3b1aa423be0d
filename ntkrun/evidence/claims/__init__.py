"""The claims of the theory, and verdicts on them."""
