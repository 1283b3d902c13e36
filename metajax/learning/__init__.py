"""The parts of learning algorithms: distributions, returns, losses, inner and outer loops, a replay buffer."""
