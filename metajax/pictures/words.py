"""The words of figures: how methods and metrics are written in titles, legends and axes."""

from collections.abc import Iterable

METHODS = {
    "maml": "MAML",
    "fomaml": "FOMAML",
    "reptile": "Reptile",
    "anil": "ANIL",
    "cavia": "CAVIA",
    "meta_sgd": "Meta-SGD",
    "promp": "ProMP",
    "e_maml": "E-MAML",
    "dice_maml": "DiCE-MAML",
    "imaml": "iMAML",
    "es_maml": "ES-MAML",
    "multi_task": "multi-task training",
    "rl2": "RL²",
    "varibad": "VariBAD",
    "hyperx": "HyperX",
    "pearl": "PEARL",
    "dream": "DREAM",
    "ad": "algorithm distillation",
    "dpt": "DPT",
    "lpg": "LPG",
    "learned_optimizer": "learned optimiser",
    "disco": "Disco103",
    "meta_gradient": "meta-gradients",
}
METRICS = {
    "return_before": "return per episode before adaptation",
    "return_after": "return per episode after adaptation",
    "sampled": "return per episode, sampled actions",
    "greedy": "return per episode, most probable actions",
    "sampled_success": "fraction of successful episodes, sampled actions",
    "greedy_success": "fraction of successful episodes, most probable actions",
}


def method(name: str) -> str:
    """An algorithm as papers write it; the name itself if it is not known.

    >>> method("dice_maml"), method("my_method")
    ('DiCE-MAML', 'my_method')
    """
    return METHODS.get(name, name)


def metric(name: str) -> str:
    """What a metric measures; its name with spaces if it is not known.

    >>> metric("policy_loss")
    'policy loss'
    """
    return METRICS.get(name, name.replace("_", " "))


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "seed"), counted(1000, "held-out task")
    ('1 seed', '1,000 held-out tasks')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def spanned(numbers: Iterable[int], noun: str) -> str:
    """The range of several numbers with their noun.

    >>> spanned([3, 5], "seed"), spanned([3, 3], "seed")
    ('3 to 5 seeds', '3 seeds')
    """
    ordered = sorted(numbers)
    low, high = ordered[0], ordered[-1]
    return counted(high, noun) if low == high else f"{low:,} to {counted(high, noun)}"


def after(stage: int, *, in_context: bool = False) -> str:
    """When a stage is played: after its number of adaptation steps or, for an agent that adapts in context, episodes.

    >>> after(0), after(2)
    ('before adaptation', 'after 2 adaptation steps')
    >>> after(0, in_context=True), after(1, in_context=True)
    ('first episode', 'after 1 episode')
    """
    if in_context:
        return f"after {counted(stage, 'episode')}" if stage else "first episode"
    return f"after {counted(stage, 'adaptation step')}" if stage else "before adaptation"


def stages(*, in_context: bool) -> str:
    """What numbers the stages on an axis.

    >>> stages(in_context=False)
    'adaptation steps'
    """
    return "episodes seen in the task" if in_context else "adaptation steps"
