"""A config: YAML in, one frozen Sweep out, or every error at once."""
