"""Writes the tables of benchmarks/README.md and benchmarks/SPEED.md from the JSON files in benchmarks/results.

    python benchmarks/results_tables.py            # rewrite both files, and the rows of `metajax reproduce`
    python benchmarks/results_tables.py --check    # exit with 1 if a file differs from its results

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, where NAME is a key of `TABLES`. The text around the
tables is written by hand and stays as it is.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import adapters
import demonstrations
import estimators
import exact_values
import launches
import learned_optimizers
import locomotion
import peers
import point_navigation
import rl2_sweep
import rl2_tables
import rows as published_rows
import scale
import search
import tables

from metajax.networks import MEMORIES

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
FILES = (FOLDER / "README.md", FOLDER / "SPEED.md")
MARKED = re.compile(r"<!-- table: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def read(name: str) -> dict[str, Any]:
    """One file of results."""
    return json.loads((RESULTS / name).read_text())


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table as Markdown.

    >>> print(markdown(("a", "b"), [("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    head = tuple(head)
    lines = [head, *rows]
    lines = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def entries() -> str:
    """Mean returns after 0, 1 and 3 adaptation steps, one figure a seed, and the returns of reference policies."""
    rows = []
    for name, (algorithm, tasks, _) in tables.ENTRIES.items():
        seeds = read(f"{name}.json")["seeds"]
        stages = len(seeds[0]["sampled"]["mean"])
        cells = [
            " / ".join(f"{seed['sampled']['mean'][stage]:.2f}" for seed in seeds) if stage < stages else ""
            for stage in (0, 1, 3)
        ]
        known = ", ".join(f"{who} {value:.2f}" for who, value in seeds[0]["references"].items())
        seconds = " / ".join(f"{seed['training_seconds']:.0f}" for seed in seeds)
        rows.append((f"`{name}`", f"`{algorithm}` on `{tasks}`", *cells, known, seconds))
    return markdown(("entry", "training", "0", "1", "3", "references", "training, s"), rows)


def successes() -> str:
    """The share of evaluation episodes that succeed, for the trainings whose tasks define success."""
    rows = []
    for name in demonstrations.TRAININGS | demonstrations.LARGE:
        kept = read(f"demonstrations/{name}.json")
        if "success" in kept:
            stages = (0,) if kept["algorithm"] == "multi_task" else (0, 1, -1)
            cells = [f"{kept['success'][stage]:.1%}" for stage in stages]
            rows.append((f"`{name}`", *cells, *[""] * (3 - len(cells))))
    return markdown(("training", "first stage", "second", "last"), rows)


def landscapes() -> str:
    """How much better than random search each driver is on synthetic landscapes."""
    gains = sorted(read("search/landscape.json")["gains"].items(), key=lambda item: -item[1]["mean"])
    rows = [(name, f"{gain['mean']:.2f}", _interval(gain["interval"])) for name, gain in gains]
    return markdown(("driver", "gain over random search", "95 % interval"), rows)


def searches() -> str:
    """Returns in test tasks of the networks that were found, and of the default network."""
    rows = []
    for name in search.SEARCHES:
        for who, one in read(f"search/{name}/search.json")["test"].items():
            rows.append((name, who, f"{one['num_parameters']:,}", f"{one['mean']:.2f} {_interval(one['interval'])}"))
    return markdown(("search", "network", "parameters", "return in test tasks, 95 % interval"), rows)


def search_costs() -> str:
    """CPU seconds of a population in one program and of one compilation for each architecture."""
    names, rows = ("first_generation", "later_generation", "one_each"), []
    for length, row in read("search/cost.json")["lengths"].items():
        ratios = (f"{row[ratio]:.1f}" for ratio in ("ratio_first", "ratio_later"))
        rows.append((length, *(f"{row[name]:.0f}" for name in names), *ratios))
    head = ("meta-iterations", "first generation, s", "a later one, s", "one each, s")
    return markdown((*head, "one each over first", "over a later one"), rows)


def programs() -> str:
    """The reference programs and their parts on the two CPU cores."""
    measured = read("bench.json")["programs"]
    sizes = {name: one["sizes"][0] for name, one in measured.items()}
    parts = {name: size["parts"] for name, size in sizes.items()}
    figures = {name: size["figures"] for name, size in sizes.items()}

    def milliseconds(values: dict[str, float] | None) -> str:
        if values is None:
            return ""
        median, *ends = (1000 * values[which] for which in ("median", "least", "greatest"))
        return f"{median:.3g} ms ({ends[0]:.3g} to {ends[1]:.3g})"

    def ratio(values: dict[str, float] | None) -> str:
        return "" if values is None else f"{values['median']:.2f} ({values['least']:.2f} to {values['greatest']:.2f})"

    def seconds(name: str) -> str:
        start = measured[name]["start"]
        return f"{start['cold']['compile']:.1f} s, {start['warm']['compile']:.1f} s"

    texts: dict[str, Callable[[str], str]] = {
        "environment alone, steps/s": lambda n: f"{parts[n]['environment alone']['steps_per_second'] / 1e6:.0f} M",
        "rollout of one stage": lambda n: milliseconds(parts[n]["rollout"]),
        "rollout's speed over a random policy's": lambda n: ratio(
            figures[n]["rollout's steps/s over a random policy's"]
        ),
        "inner gradient": lambda n: milliseconds(parts[n].get("inner gradient")),
        "one outer gradient": lambda n: milliseconds(parts[n]["one outer gradient"]),
        "one Fisher-vector product": lambda n: milliseconds(figures[n].get("a Fisher product, s")),
        "meta-iteration": lambda n: milliseconds(parts[n]["meta-iteration"]),
        "environment steps/s": lambda n: f"{parts[n]['meta-iteration']['steps_per_second']:,.0f}",
        "collect and one outer gradient over their parts": lambda n: ratio(
            figures[n].get("collect and one outer gradient over their parts")
        ),
        "one outer gradient over collect": lambda n: ratio(figures[n]["one outer gradient over collect"]),
        "its FLOP/s over 20 products 2000 x 64 x 64": lambda n: ratio(
            figures[n]["one outer gradient's FLOP/s over 20 products'"]
        ),
        "model FLOP utilisation": lambda n: f"{figures[n]['model FLOP utilisation']['median']:.2f}",
        "time to compile, cold and warm cache": seconds,
        "memory": lambda n: f"{parts[n]['meta-iteration']['memory'] / 2**20:.0f} MiB",
    }
    head = ("", *(f"`{name}`" for name in measured))
    return markdown(head, [(what, *map(text, measured)) for what, text in texts.items()])


def growth() -> str:
    """Exponents of time and memory by the size that grows, with 95 % intervals."""
    rows = []
    for axis, kept in (read("scaling.json")["axes"] | read("scaling-devices.json")["axes"]).items():
        fits = [
            f"{fit['exponent']:.2f} ({fit['low']:.2f} to {fit['high']:.2f})"
            for fit in (kept["time"], kept["memory_growth"])
        ]
        slowest, largest = kept["seconds"][-1]["median"], kept["memory"][-1] / 2**20
        ends = f"{kept['sizes'][0]} to {kept['sizes'][-1]}"
        rows.append((axis, ends, *fits, f"{1000 * slowest:.0f} ms", f"{largest:.1f} MiB"))
    return markdown(("size", "range", "time", "memory", "time at the end", "memory at the end"), rows)


def memories() -> str:
    """Time of acting, of one gradient and of one update with every memory."""
    seconds = read("rl2-throughput.json")["seconds"]
    rows = [
        (name, *(f"{1000 * seconds[f'{name}: {part}']['median']:.0f} ms" for part in parts))
        for parts in [("collect", "one outer gradient", "update")]
        for name in MEMORIES
    ]
    return markdown(("memory", "acting", "one gradient", "update, 4 epochs"), rows)


def other_packages() -> str:
    """Steps a second of other packages and of metajax; of a package that fails to install only the first words."""
    measured = read("peers.json")["measured"]
    reasons = ("does_not_install", "does_not_run")
    short = {
        name: row | {why: row[why].partition(" cause:")[0] for why in reasons if why in row}
        for name, row in measured.items()
    }
    return peers.table(short)


def recorded_packages() -> str:
    """Measurements of repositories that are no packages, made once."""
    rows = []
    for one in read("peers.json")["recorded"]:
        speed = f"{one['steps_per_second']:,}" if "steps_per_second" in one else ""
        times = (str(one.get(which, "")) for which in ("wall_seconds", "cpu_seconds"))
        rows.append((one["peer"], one["what"], *times, speed, one["settings"]))
    return markdown(("package", "what", "wall time, s", "CPU time, s", "steps/s", "settings"), rows)


def _interval(ends: list[float]) -> str:
    return f"[{ends[0]:.2f}, {ends[1]:.2f}]"


TABLES: dict[str, Callable[[], str]] = {
    "entries": entries,
    "navigation": lambda: point_navigation.table(point_navigation.METHODS),
    "sparse": point_navigation.sparse_table,
    "estimators": lambda: estimators.table(read("estimators.json")["rows"]),
    "rl2": rl2_tables.table,
    "rl2-memories": rl2_tables.memory_table,
    "rl2-sweep": rl2_sweep.table,
    "exact": exact_values.table,
    "learned-optimizers": learned_optimizers.table,
    "demonstrations": demonstrations.table,
    "successes": successes,
    "locomotion": locomotion.table,
    "scale": scale.table,
    "landscapes": landscapes,
    "searches": searches,
    "search-costs": search_costs,
    "adapters": lambda: adapters.table(read("adapters.json")["suites"]),
    "programs": programs,
    "growth": growth,
    "memories": memories,
    "launches": launches.table,
    "other-packages": other_packages,
    "recorded-packages": recorded_packages,
}


def filled(text: str) -> str:
    """The text with every marked table made anew; raises KeyError for a name that `TABLES` lacks."""
    return MARKED.sub(lambda found: f"<!-- table: {found[1]} -->\n\n{TABLES[found[1]]()}\n\n<!-- end -->", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    check, stale = parser.parse_args().check, []
    new_texts = {path: filled(path.read_text()) for path in FILES} | {published_rows.FILE: published_rows.text()}
    for path, new in new_texts.items():
        if not path.exists() or new != path.read_text():
            stale.append(path.name)
            if not check:
                path.write_text(new)
    print(f"{'stale' if check else 'rewritten'}: {', '.join(stale) or 'none'}")
    raise SystemExit(bool(check and stale))


if __name__ == "__main__":
    main()
