"""Measures the cost and the results of architecture search.

    python benchmarks/search.py landscape            # search drivers against random search on 10 synthetic landscapes
    python benchmarks/search.py cost                 # a population in one program against one program per network
    python benchmarks/search.py masks                # a meta-iteration of masked networks against unmasked ones
    python benchmarks/search.py cartpole             # `metajax search` for MAML on CartPole dynamics; also cartpole-gp
    python benchmarks/search.py grid                 # `metajax search` for RL² on grid navigation
    python benchmarks/search.py table                # print the saved results as Markdown

Results are written to benchmarks/results/search. CPU seconds are those of this process with all its threads.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from metajax.cli import commands
from metajax.running import record
from metajax.search import Genome, Range, Space, architecture_space, make_evaluator, make_problem
from metajax.search.drivers import DRIVERS
from metajax.search.evaluator import SPLITS, compile_dense, compile_population, held_out
from metajax.search.space import canonical, random_genomes
from metajax.search.studies import ask, genomes_of, open_study, tell

RESULTS = Path(__file__).parent / "results" / "search"
LANDSCAPE_DRIVERS = ("random", "genetic", "evolution", "tpe", "gp")
COST_OPTIONS = {"num_tasks": 8, "num_rollouts": 5, "horizon": 50}

# Arguments of the searches with `metajax search`.
_CARTPOLE = (
    "search maml cartpole --budget 64 --population 8 --search-seeds 2 --eval-tasks 40 --fresh 2 "
    "--depths 1 2 --widths 4 8 16 32 --activations tanh relu silu --norms none layer "
    "--num-tasks 10 --num-rollouts 5 --horizon 100 --num-iterations 20 --outer gradient --learning-rate 0.01"
)
SEARCHES = {
    "cartpole": f"{_CARTPOLE} --driver genetic",
    "cartpole-gp": f"{_CARTPOLE} --driver gp --no-compare",
    "grid": (
        "search rl2 grid --driver genetic --budget 32 --population 8 --search-seeds 2 --eval-tasks 42 --fresh 2 "
        "--depths 0 1 --widths 8 16 32 --activations tanh relu --norms none layer --memories gru "
        "--memory-widths 8 16 32 --num-tasks 64 --num-episodes 4 --num-iterations 120 --learning-rate 0.003"
    ),
}


def landscape_space() -> Space:
    """Returns a search space of 50,000 architectures and two hyper-parameters."""
    ranges = [Range("inner_lr", 0.01, 1.0, log=True), Range("discount", 0.9, 1.0)]
    return architecture_space(depth=(1, 2, 3, 4), width=(4, 8, 16, 32, 64, 128), ranges=ranges)


def landscape(space: Space, seed: int) -> Callable[[Genome], np.ndarray]:
    """Returns a synthetic objective `value(genomes [P]) -> [P]`; every choice has a best option and all pairs interact.

    An option of an ordered choice contributes a parabola around the best option, an option of another choice a normal
    draw, and a pair of options a normal draw with standard deviation 0.4. Values are standardised over random
    architectures. A choice without effect, such as the width of a missing layer, counts as its first option.
    """
    draw, sizes = np.random.default_rng(seed), space.sizes
    alone = []
    for gene in space.genes:
        place = np.linspace(-1, 1, len(gene.options)) if len(gene.options) > 1 else np.zeros(1)
        own = -((place - draw.uniform(-1, 1)) ** 2) * 2 if gene.ordered else draw.normal(size=len(gene.options))
        alone.append(own)
    pairs = {(i, j): 0.4 * draw.normal(size=(sizes[i], sizes[j])) for i in range(len(sizes)) for j in range(i)}
    middle, slopes = draw.uniform(0.2, 0.8, len(space.ranges)), draw.uniform(1, 3, len(space.ranges))

    def raw(genomes: Genome) -> np.ndarray:
        choices, floats = map(np.asarray, canonical(space, genomes))
        value = sum(own[choices[:, number]] for number, own in enumerate(alone))
        value = value + sum(table[choices[:, i], choices[:, j]] for (i, j), table in pairs.items())
        return value - ((floats - middle) ** 2 * slopes).sum(-1)

    many = raw(random_genomes(jax.random.key(seed), space, 4000))
    return lambda genomes: (raw(genomes) - many.mean()) / many.std()


def best_found(name: str, seed: int, budget: int, population: int, noise: float) -> float:
    """Returns the noise-free value of the genome that scores best among `budget` noisy evaluations of a driver."""
    space = landscape_space()
    value, draw = landscape(space, seed), np.random.default_rng(1000 + seed)
    asked, scores = [], []

    def score(genomes: Genome) -> np.ndarray:
        asked.append(genomes)
        scores.append(value(genomes) + noise * draw.normal(size=len(genomes.choices)))
        return scores[-1]

    if name in DRIVERS:
        driver = DRIVERS[name](space, population=population)
        told, state, key = jax.jit(driver.tell), driver.init(), jax.random.key(seed)
        asks = jax.jit(driver.ask)
        for generation in range(budget // population):
            batch = asks(jax.random.fold_in(key, generation), state)
            state = told(state, batch, jnp.asarray(score(batch.genomes)))
    else:
        shared = open_study(space, name, population=population, seed=seed)
        for _ in range(budget // population):
            trials = ask(shared, population)
            found = score(genomes_of(space, trials))
            tell(shared, trials, found, [{"num_parameters": 0}] * len(trials))
    everything = Genome(*(jnp.concatenate(leaves) for leaves in zip(*asked, strict=True)))
    return float(value(everything)[np.argmax(np.concatenate(scores))])


def measure_landscape(
    seeds: int, budget: int, population: int, noise: float, drivers: Sequence[str], first_seed: int = 0
) -> dict:
    """Measures the best value of each driver on every landscape, and its gain over the first driver with intervals."""
    values, seconds, all_seeds = {}, {}, range(first_seed, first_seed + seeds)
    for name in drivers:
        start = time.process_time()
        values[name] = [best_found(name, seed, budget, population, noise) for seed in all_seeds]
        seconds[name] = time.process_time() - start
        print(name, np.round(np.mean(values[name]), 3), f"{seconds[name]:.0f} CPU s", flush=True)
    draw = np.random.default_rng(0)
    gains = {}
    for name in drivers[1:]:
        difference = np.subtract(values[name], values[drivers[0]])
        resampled = draw.choice(difference, (10_000, seeds)).mean(1)
        gains[name] = {"mean": float(difference.mean()), "interval": np.quantile(resampled, [0.025, 0.975]).tolist()}
    how = {"first_seed": first_seed, "seeds": seeds, "budget": budget, "population": population, "noise": noise}
    return how | {"values": values, "gains": gains, "cpu_seconds": seconds}


def measure_cost(population: int, lengths: Sequence[int], sampled: int) -> dict:
    """Measures CPU seconds of a population in one program (first and later generations) against one program each.

    The cost of one program each is extrapolated from `sampled` networks, compiled and trained separately.
    """
    space = architecture_space()
    problem = make_problem("maml", "cartpole", space, **COST_OPTIONS)
    how = {"population": population, "num_seeds": 1, "num_held_out": 10}
    masked = make_evaluator(problem, execution="masked", **how)
    dense = make_evaluator(problem, execution="dense", **how)
    genomes = random_genomes(jax.random.key(0), space, population)
    few = jax.tree.map(lambda leaf: leaf[:sampled], genomes)
    kept = {"population": population, "sampled": sampled, "options": COST_OPTIONS, "lengths": {}}
    compiled = _cpu(lambda: masked.measure(genomes, np.arange(1), SPLITS[0], 1))
    for number, length in enumerate(lengths):
        others = random_genomes(jax.random.key(number + 1), space, population)
        later = _cpu(lambda others=others, length=length: masked.measure(others, np.arange(1), SPLITS[0], length))
        each = _cpu(lambda length=length: dense.measure(few, np.arange(1), SPLITS[0], length)) / sampled
        first = later + compiled
        kept["lengths"][length] = {
            "first_generation": first,
            "later_generation": later,
            "one_each": each * population,
            "ratio_first": each * population / first,
            "ratio_later": each * population / later,
        }
        print(length, kept["lengths"][length], flush=True)
    cost = masked.costs()["feed-forward"]
    return kept | {"compile_seconds": cost["compile_seconds"]}


def measure_masks(population: int, sampled: int, lengths: tuple[int, int] = (2, 12)) -> dict:
    """Measures CPU seconds of a network's meta-iteration, masked in a population, and alone without masks."""
    space = architecture_space()
    problem = make_problem("maml", "cartpole", space, **COST_OPTIONS)
    genomes = random_genomes(jax.random.key(0), space, population)
    tasks, seeds = held_out(problem.tasks, SPLITS[0], 10), jnp.arange(1)
    masked = compile_population(problem, "", population, 1, 10, jax.devices()[:1])
    fitting = jax.tree.map(lambda leaf: leaf[: masked.size], genomes)
    few = (jax.tree.map(lambda leaf, i=index: leaf[i], genomes) for index in range(sampled))
    alone = [compile_dense(problem, "", genome) for genome in few]

    def iteration(call: Callable[..., object]) -> float:
        """Returns CPU seconds per meta-iteration: a long minus a short training run, each the minimum of three."""
        seconds = []
        for length in (lengths[0], *lengths * 3):
            own = jnp.asarray(length)
            seconds.append(_cpu(lambda own=own: jax.block_until_ready(call(seeds, tasks, own))))
        return (min(seconds[2::2]) - min(seconds[1::2])) / (lengths[1] - lengths[0])

    together = iteration(partial(masked.call, fitting)) / masked.size
    dense = [iteration(call) for call in alone]
    return {"masked": together, "dense": dense, "ratio": together / float(np.mean(dense)), "population": masked.size}


def _cpu(call: Callable[[], object]) -> float:
    """Returns the CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def table() -> str:
    """Returns the saved results as Markdown tables."""
    lines = []
    path = RESULTS / "landscape.json"
    if path.exists():
        kept = json.loads(path.read_text())
        lines += ["| driver | best found, mean | more than random search [95 %] |", "|---|---|---|"]
        for name, values in kept["values"].items():
            gain = kept["gains"].get(name)
            told = f"{gain['mean']:.2f} [{gain['interval'][0]:.2f}, {gain['interval'][1]:.2f}]" if gain else "—"
            lines.append(f"| {name} | {np.mean(values):.2f} | {told} |")
    path = RESULTS / "cost.json"
    if path.exists():
        kept = json.loads(path.read_text())
        lines += [
            "",
            "| meta-iterations | first generation | later generation | one each | ratios |",
            "|---|---|---|---|---|",
        ]
        for length, row in kept["lengths"].items():
            cells = [f"{row[name]:.1f} s" for name in ("first_generation", "later_generation", "one_each")]
            lines.append(f"| {length} | {' | '.join(cells)} | {row['ratio_first']:.1f}, {row['ratio_later']:.1f} |")
    for name in SEARCHES:
        path = RESULTS / name / "search.json"
        if path.exists():
            lines += ["", f"| {name} | parameters | return in test tasks [95 %] |", "|---|---|---|"]
            for who, one in json.loads(path.read_text())["test"].items():
                lines.append(f"| {who} | {one['num_parameters']} | {one['mean']:.2f} {one['interval']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["landscape", "cost", "masks", "table", *SEARCHES], help="the measurement")
    parser.add_argument("--seeds", type=int, default=10, help="landscapes (default: 10)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first landscape (default: 0)")
    parser.add_argument("--budget", type=int, default=96, help="evaluations per driver and landscape (default: 96)")
    parser.add_argument(
        "--population", type=int, help="networks per generation (default: 8 in landscape, otherwise 16)"
    )
    parser.add_argument(
        "--noise", type=float, default=0.1, help="standard deviation of the scores' noise (default: 0.1)"
    )
    parser.add_argument("--drivers", nargs="+", default=LANDSCAPE_DRIVERS, help="drivers; the first is the baseline")
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[2, 20], help="meta-iterations of training in cost (default: 2 20)"
    )
    parser.add_argument("--sampled", type=int, default=2, help="networks measured separately (default: 2)")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder of the results (default: {RESULTS})")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.what == "table":
        print(table())
    elif chosen.what in SEARCHES:
        raise SystemExit(commands.main([*SEARCHES[chosen.what].split(), "--folder", str(chosen.out / chosen.what)]))
    else:
        if chosen.what == "landscape":
            how = (chosen.seeds, chosen.budget, chosen.population or 8, chosen.noise, chosen.drivers)
            kept = measure_landscape(*how, chosen.first_seed)
        elif chosen.what == "masks":
            kept = measure_masks(chosen.population or 16, chosen.sampled)
            print(kept)
        else:
            kept = measure_cost(chosen.population or 16, chosen.lengths, chosen.sampled)
        record.write_json(chosen.out / f"{chosen.what}.json", kept | record.environment())


if __name__ == "__main__":
    main()
