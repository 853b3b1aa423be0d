"""From tables to numbers one can defend, and figures of them. Imports neither torch nor anything of the floors that
make the tables."""
