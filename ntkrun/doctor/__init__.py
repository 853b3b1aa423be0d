"""What is odd with a machine or a results directory, and what can be put right without losing a result."""
