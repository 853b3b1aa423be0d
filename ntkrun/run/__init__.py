"""Run stacks and return their rows: engines, checkpoints, interrupts, progress."""
