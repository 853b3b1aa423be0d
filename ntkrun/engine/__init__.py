"""Training and measurement of one stack of networks: tensors in, numbers out. Independent of sweeps and of results
directories."""
