"""Search spaces of networks, and genomes: one choice out of a space, or a population [P] of choices."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array
from metajax.errors import ConfigError, check_choice, check_count, check_flag, check_number
from metajax.networks.heads import ACTIVATIONS
from metajax.networks.layers import NORMS

MASKED_MEMORIES = ("gru", "lstm")  # memories whose units can be masked


class Range(NamedTuple):
    """A float hyper-parameter from `low` to `high`, on a logarithmic scale if `log`."""

    name: str
    low: float
    high: float
    log: bool = False


class Gene(NamedTuple):
    """One choice of a genome: its options, and whether they are ordered."""

    name: str
    options: tuple
    ordered: bool


class Space(NamedTuple):
    """The options of each choice. `memory` is empty if networks are feed-forward."""

    depth: tuple[int, ...]
    width: tuple[int, ...]
    activation: tuple[str, ...]
    skip: tuple[bool, ...]
    norm: tuple[str, ...]
    memory: tuple[str, ...]
    memory_width: tuple[int, ...]
    ranges: tuple[Range, ...]

    @property
    def num_layers(self) -> int:
        """The number of hidden layers of the deepest network."""
        return max(self.depth)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """The G choices of a genome in their order; every hidden layer has its own width."""
        widths = [Gene(f"width_{layer}", self.width, True) for layer in range(self.num_layers)]
        kinds = [Gene(name, getattr(self, name), False) for name in ("activation", "skip", "norm")]
        found = [Gene("depth", self.depth, True), *widths, *kinds]
        if self.memory:
            found += [Gene("memory", self.memory, False), Gene("memory_width", self.memory_width, True)]
        return tuple(found)

    @property
    def sizes(self) -> np.ndarray:
        """The number of options of each choice [G]."""
        return np.array([len(gene.options) for gene in self.genes])


class Genome(NamedTuple):
    """`choices` [..., G] are indices of options; `floats` [..., F] are positions in their ranges, from 0 to 1."""

    choices: Array
    floats: Array


def architecture_space(
    *,
    depth: Sequence[int] = (1, 2, 3),
    width: Sequence[int] = (8, 16, 32, 64),
    activation: Sequence[str] = ("tanh", "relu", "gelu", "silu"),
    skip: Sequence[bool] = (False, True),
    norm: Sequence[str] = ("none", "layer", "rms"),
    memory: Sequence[str] = (),
    memory_width: Sequence[int] = (),
    ranges: Sequence[Range] = (),
) -> Space:
    """The space of all combinations of these options.

    Args:
        depth: numbers of hidden layers; with a memory, of hidden layers before the memory.
        width: widths of a hidden layer; each layer has its own choice.
        activation: activations of the hidden layers: tanh, relu, gelu, silu.
        skip: whether every hidden layer but the first has a residual connection.
        norm: normalisations before each activation: none, layer, rms.
        memory: memories, gru and lstm, for an algorithm that adapts by its memory; empty for all others.
        memory_width: widths of the memory.
        ranges: float hyper-parameters of the algorithm and its outer loop to search too.

    >>> space = architecture_space(depth=(1, 2), width=(4, 8), ranges=[Range("inner_lr", 0.01, 1.0, log=True)])
    >>> [gene.name for gene in space.genes]
    ['depth', 'width_0', 'width_1', 'activation', 'skip', 'norm']
    >>> space.sizes.tolist()
    [2, 2, 2, 4, 2, 3]
    """
    space = Space(*map(tuple, (depth, width, activation, skip, norm, memory, memory_width, ranges)))
    for name in Space._fields[:5] + (("memory", "memory_width") if memory or memory_width else ()):
        _check_options(name, getattr(space, name))
    for value in space.depth:
        check_count("depth", value, at_least=0)
    for name in ("width", "memory_width"):
        for value in getattr(space, name):
            check_count(name, value)
    for value in space.skip:
        check_flag("skip", value)
    for name, known in (("activation", ACTIVATIONS), ("norm", NORMS), ("memory", MASKED_MEMORIES)):
        for value in getattr(space, name):
            check_choice(name, value, known)
    for found in space.ranges:
        _check_range(found)
    _check_options("ranges", [found.name for found in space.ranges], may_be_empty=True)
    return space


def _check_options(name: str, options: Sequence, may_be_empty: bool = False) -> None:
    if not options and not may_be_empty:
        raise ConfigError(f"{name}=() has no options; give at least one option")
    if len(set(options)) < len(options):
        raise ConfigError(f"{name}={tuple(options)} has an option twice; give each option once")


def _check_range(found: Range) -> None:
    check_number(f"low of {found.name}", found.low)
    check_number(f"high of {found.name}", found.high, above=found.low)
    if found.log and found.low <= 0:
        raise ConfigError(f"low of {found.name}={found.low!r} must be a number > 0 for a range with log=True")


def random_genomes(key: Array, space: Space, num_genomes: int) -> Genome:
    """Random genomes [P]; all options of a choice are equally likely.

    >>> genomes = random_genomes(jax.random.key(0), architecture_space(depth=(1, 2)), 5)
    >>> genomes.choices.shape, genomes.floats.shape
    ((5, 6), (5, 0))
    """
    key_choices, key_floats = jax.random.split(key)
    sizes = jnp.asarray(space.sizes)
    choices = jax.random.randint(key_choices, (num_genomes, len(sizes)), 0, sizes)
    return Genome(choices, jax.random.uniform(key_floats, (num_genomes, len(space.ranges))))


def values_of(space: Space, genome: Genome) -> dict[str, Array]:
    """The float hyper-parameters by name, each [...]; differentiable, and traced if the genome is traced.

    >>> space = architecture_space(ranges=[Range("inner_lr", 0.01, 1.0, log=True)])
    >>> values_of(space, genome_of(space, inner_lr=0.1))["inner_lr"].tolist()
    0.09999...
    """
    values = {}
    for number, (name, low, high, log) in enumerate(space.ranges):
        share = genome.floats[..., number]
        value = low * (high / low) ** share if log else low + (high - low) * share
        values[name] = jnp.clip(value, low, high)  # rounding may leave the range
    return values


def genome_of(space: Space, **chosen: Any) -> Genome:
    """The genome with the options `chosen`. Other choices take their first option, other floats the middle of a range.

    Raises ConfigError for an option that the space does not have.

    >>> genome_of(architecture_space(), depth=2, width_0=32, activation="relu").choices.tolist()
    [1, 2, 0, 0, 1, 0, 0]
    """
    genes = {gene.name: gene for gene in space.genes}
    ranges = {found.name: found for found in space.ranges}
    for name in chosen:
        check_choice("choice", name, [*genes, *ranges])
    choices = []
    for name, gene in genes.items():
        value = chosen.get(name, gene.options[0])
        if value not in gene.options:
            near = difflib.get_close_matches(str(value), map(str, gene.options), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{name}={value!r} is not in the space, which has {gene.options}{hint}")
        choices.append(gene.options.index(value))
    floats = [_share(found, chosen[name]) if name in chosen else 0.5 for name, found in ranges.items()]
    return Genome(jnp.array(choices, int), jnp.array(floats, float))


def _share(found: Range, value: float) -> float:
    """The position of a value in its range, from 0 to 1."""
    name, low, high, log = found
    check_number(name, value, at_least=low, at_most=high)
    return float(np.log(value / low) / np.log(high / low)) if log else (value - low) / (high - low)


def chosen(space: Space, genome: Genome) -> dict[str, Any]:
    """The options and floats of one genome by name, without the widths of layers that it does not have.

    >>> space = architecture_space()
    >>> chosen(space, genome_of(space, depth=1, width_0=16))
    {'depth': 1, 'width_0': 16, 'activation': 'tanh', 'skip': False, 'norm': 'none'}
    """
    check_genome(space, genome)
    indices = np.asarray(genome.choices)
    found = {gene.name: gene.options[index] for gene, index in zip(space.genes, indices, strict=True)}
    unused = {f"width_{layer}" for layer in range(found["depth"], space.num_layers)}
    floats = {name: float(f"{float(value):.6g}") for name, value in values_of(space, genome).items()}
    return {name: value for name, value in found.items() if name not in unused} | floats


def matters(space: Space, genome: Genome) -> Array:
    """Which choices [..., G] of a genome affect its network; pure.

    The widths of missing layers do not, nor does skip without a second layer, nor activation and norm without a first
    layer.
    """
    depth = jnp.asarray(space.depth)[genome.choices[..., 0]][..., None]
    names, layers = [gene.name for gene in space.genes], space.num_layers
    needed = dict.fromkeys(names, 0) | {f"width_{layer}": layer + 1 for layer in range(layers)}
    needed |= {"activation": 1, "norm": 1, "skip": 2}
    return depth >= jnp.array([needed[name] for name in names])


def canonical(space: Space, genome: Genome) -> Genome:
    """The genome [...] with the first option for every choice that does not affect its network; pure."""
    return genome._replace(choices=jnp.where(matters(space, genome), genome.choices, 0))


def check_genome(space: Space, genome: Genome, *, batched: bool = False) -> None:
    """Raises ConfigError unless `genome` is a genome of this space, or a population [P] of genomes if `batched`."""
    what = "a population" if batched else "one genome"
    wanted = {"choices": len(space.genes), "floats": len(space.ranges)}
    for name, size in wanted.items():
        shape = np.shape(getattr(genome, name))
        if len(shape) != 1 + batched or shape[-1] != size:
            expected = f"[P, {size}]" if batched else f"[{size}]"
            raise ConfigError(f"{name} of {what} must have shape {expected} in this space, not {list(shape)}")
    choices, floats = np.asarray(genome.choices), np.asarray(genome.floats)
    if not ((choices >= 0) & (choices < space.sizes)).all():
        where = np.argwhere(~((choices >= 0) & (choices < space.sizes)))[0]
        gene = space.genes[where[-1]]
        raise ConfigError(
            f"choice {choices[tuple(where)]} of {gene.name} is not an index of its {len(gene.options)} options; "
            "the genome is of another space"
        )
    if not ((floats >= 0) & (floats <= 1)).all():
        raise ConfigError("floats of a genome must be from 0 to 1; values_of converts them to hyper-parameters")


def groups(space: Space, genomes: Genome) -> dict[str, np.ndarray]:
    """Indices of the genomes [P] with each memory, by its name ("" for none); each group has its own program."""
    if not space.memory:
        return {"": np.arange(len(genomes.choices))}
    kinds = np.asarray(genomes.choices)[:, [gene.name for gene in space.genes].index("memory")]
    found = {name: np.flatnonzero(kinds == number) for number, name in enumerate(space.memory)}
    return {name: members for name, members in found.items() if len(members)}


def fingerprint(space: Space) -> str:
    """The space as one line of JSON, which identifies it in an archive or a study."""
    return json.dumps({name: list(map(_plain, value)) for name, value in space._asdict().items()})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Range) else value


def stacked(genomes: Iterable[Genome]) -> Genome:
    """Single genomes, stacked to a population [P]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *genomes)


def options_of(space: Space, chosen_options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `mlp` or `memory_policy`, and of the algorithm, for the options that `chosen` returns.

    >>> space = architecture_space()
    >>> options_of(space, chosen(space, genome_of(space, depth=2, width_0=16)))
    {'hidden': (16, 8), 'activation': 'tanh', 'skip': False, 'norm': 'none'}
    """
    named = dict(chosen_options)
    options = {"hidden": tuple(named.pop(f"width_{layer}") for layer in range(named.pop("depth")))}
    if space.memory:
        options["width"] = named.pop("memory_width")
    return options | named
