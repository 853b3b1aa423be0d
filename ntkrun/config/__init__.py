"""The config: YAML is read into one frozen Sweep, or all errors are reported at once."""
