"""From a Sweep to grid points, runs and stacks: what is to be trained, how long it takes, who does it."""
