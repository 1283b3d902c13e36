"""Environments in the gymnax 1.0 protocol, with the task in the traced parameters.

`notebooks/own_environment_and_suite.ipynb` writes one from scratch and adapts one of another package.
"""
