"""Environments in the gymnax 1.0 protocol, with the task in the traced parameters."""
