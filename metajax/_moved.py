"""Modules that moved: their old paths still import for one release, with a DeprecationWarning at the first use."""

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

# Old path below metajax: the new one, or several of which each has some of the names.
MOVED: dict[str, tuple[str, ...]] = {
    "acting": ("running.acting",),
    "algorithms.alchemy": ("agents.alchemy",),
    "algorithms.bandits": ("agents.bandits",),
    "algorithms.bounds": ("agents.bounds",),
    "algorithms.es_maml": ("algorithms._es_maml",),
    "algorithms.maml": ("algorithms._maml",),
    "algorithms.reptile": ("algorithms._reptile",),
    "algorithms.rl2": ("algorithms._rl2",),
    "algorithms.tabular": ("agents.tabular",),
    "algorithms.variants": ("algorithms._maml_variants",),
    "arguments": ("cli.arguments",),
    "baselines": ("learning.baselines",),
    "bench": ("cli.bench",),
    "checkpoint": ("running.checkpoint",),
    "console": ("cli.console",),
    "distributions": ("learning.distributions",),
    "doctor": ("cli.doctor",),
    "envs.alchemy": ("tasks.alchemy_potions",),
    "envs.bandit": ("tasks.bandits",),
    "envs.brax_bodies": ("tasks.suites.brax",),
    "envs.coordination": ("tasks.coordination_games",),
    "envs.craftax_world": ("tasks.suites.craftax",),
    "envs.dosing": ("tasks.drug_dosing",),
    "envs.frozen_lake": ("tasks.frozen_lakes",),
    "envs.grid": ("tasks.grids",),
    "envs.harlow": ("tasks.harlow_objects",),
    "envs.highway": ("tasks.highways",),
    "envs.host": ("simulators.environment",),
    "envs.instructions": ("tasks.instruction_following",),
    "envs.intersection": ("tasks.intersections",),
    "envs.jumanji_problems": ("tasks.suites.jumanji",),
    "envs.market": ("tasks.market_making",),
    "envs.meta_world": ("simulators.meta_world",),
    "envs.navix_rooms": ("tasks.suites.navix",),
    "envs.partner": ("tasks.repeated_games",),
    "envs.point": ("tasks.point_navigation",),
    "envs.projected_cartpole": ("tasks.classic_control",),
    "envs.tabular": ("tasks.tabular",),
    "envs.tmaze": ("tasks.t_mazes",),
    "envs.two_step": ("tasks.two_step_choices",),
    "envs.workers": ("simulators.workers",),
    "envs.xland": ("tasks.suites.xland",),
    "evaluate": ("evaluation",),
    "export": ("running.export",),
    "extras": ("errors",),
    "host": ("simulators.playing",),
    "hosts": ("running.processes",),
    "inner": ("learning.inner",),
    "launch": ("cli.launch",),
    "linalg": ("learning.linalg",),
    "listening": ("running.signal_handling",),
    "losses": ("learning.losses",),
    "meta_agent": ("running.meta_agent",),
    "networks.memory": ("networks.memories",),
    "networks.mlp": ("networks.feed_forward",),
    "outer": ("learning.outer",),
    "plots": ("pictures.plots",),
    "programs": ("measuring.programs",),
    "recipes": ("running.recipes",),
    "record": ("running.record",),
    "report": ("running.report",),
    "returns": ("learning.returns",),
    "rollout": ("rollouts", "replays", "chunking"),
    "runs": ("running.run_folder",),
    "scenes": ("pictures.animations",),
    "scenes.charts": ("pictures.scene_charts",),
    "scenes.choices": ("pictures.scene_choices",),
    "scenes.rooms": ("pictures.scene_rooms",),
    "scenes.vehicles": ("pictures.scene_vehicles",),
    "search.command": ("cli.search",),
    "search.supernet": ("search.supernets",),
    "signatures": ("factories",),
    "stats": ("running.stats",),
    "sweep": ("running.sweep",),
    "table": ("running.table",),
    "tasks.alchemy": ("tasks.alchemy_potions",),
    "tasks.bodies": ("tasks.suites.brax",),
    "tasks.classic": ("tasks.classic_control",),
    "tasks.driving": (
        "tasks.highways",
        "tasks.intersections",
    ),
    "tasks.language": ("tasks.instruction_following",),
    "tasks.markets": ("tasks.market_making",),
    "tasks.medicine": ("tasks.drug_dosing",),
    "tasks.memory": (
        "tasks.t_mazes",
        "tasks.two_step_choices",
        "tasks.harlow_objects",
    ),
    "tasks.partners": (
        "tasks.repeated_games",
        "tasks.coordination_games",
    ),
    "tasks.point": ("tasks.point_navigation",),
    "tasks.problems": ("tasks.suites.jumanji",),
    "tasks.robots": ("tasks.suites.meta_world",),
    "tasks.rulesets": ("tasks.suites.xland_rulesets",),
    "tasks.worlds": (
        "tasks.suites.navix",
        "tasks.suites.craftax",
    ),
    "tasks.xland": ("tasks.suites.xland",),
    "timing": ("measuring.timing",),
    "train": ("running.training",),
    "trust_region": ("learning.trust_region",),
}


class _MovedModule(ModuleType):
    """Stands at the old path in `sys.modules` and looks names up at the new ones."""

    def __init__(self, old: str, new: tuple[str, ...]):
        super().__init__(old, f"Moved to {' and '.join(new)}.")
        self.__path__: list[str] = []  # so that moved submodules are found too
        self._new = new

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for path in self._new:
                module = importlib.import_module(path)
                if hasattr(module, name):
                    message = f"{self.__name__} is deprecated and will be removed in 0.3; import {name} from {path}"
                    warnings.warn(message, DeprecationWarning, stacklevel=2)
                    return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def install() -> None:
    """Makes the old paths importable; imports nothing."""
    for old, new in MOVED.items():
        path = f"metajax.{old}"
        sys.modules.setdefault(path, _MovedModule(path, tuple(f"metajax.{name}" for name in new)))
