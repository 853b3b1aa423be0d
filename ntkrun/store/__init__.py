"""The results directory of a sweep: its files, and how they are read and written."""
