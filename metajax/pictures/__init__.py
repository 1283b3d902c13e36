"""Plots of training and evaluation, and animations of episodes."""
