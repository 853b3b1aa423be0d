"""From stacks to rows: training on an engine, checkpoints, interrupts, progress."""
