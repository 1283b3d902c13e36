"""Training, agents that act, run folders, checkpoints, tables and reports."""
