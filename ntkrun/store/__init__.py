"""The results directory of a sweep: the only owner of its paths and files."""
