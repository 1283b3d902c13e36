"""Tools for environments in the gymnax 1.0 protocol, whose traced parameters are the task.

`notebooks/own_environment_and_suite.ipynb` writes an environment from scratch and adapts one of another package.
"""
