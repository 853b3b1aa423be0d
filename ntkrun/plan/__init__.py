"""The plan of a sweep: its grid points, runs, stacks and shards, and their costs."""
