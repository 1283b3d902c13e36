"""Environments that a simulator on the host steps, in worker processes."""
