import jax
import pytest

from metajax.tasks import bandit, point

jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of what the tests do


@pytest.fixture(scope="session")
def point_tasks():
    return point(horizon=6)


@pytest.fixture(scope="session")
def bandit_tasks():
    return bandit(num_arms=3, horizon=5)
