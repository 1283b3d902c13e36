"""What learning is made of: distributions, returns, losses, inner and outer loops."""
