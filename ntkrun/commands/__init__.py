"""The commands of the command line, a module each. Each command imports its dependencies when it runs."""
