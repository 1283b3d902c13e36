"""Model cards: a folder with exported meta-parameters, what they were trained on, and what they reach."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metajax.evaluation import EvaluationProtocol, reported
from metajax.running import record
from metajax.running.meta_agent import MetaAgent
from metajax.running.table import code_of, read_evaluation

PARAMS = "params.safetensors"
PICTURES = ("adaptation.png", "animation.gif")
LICENSE = "apache-2.0"


def write_card(run: Path, folder: Path, agent: MetaAgent, *, license_: str = LICENSE) -> Path:
    """Writes README.md and the pictures of an evaluated run next to its exported parameters; returns the card's path.

    The card begins with metadata as the Hugging Face hub reads them. Raises CheckpointError if the run has no
    evaluation.

    Args:
        run: the run folder.
        folder: where the parameters are.
        agent: the trained agent of the run.
        license_: identifier of the licence of the parameters.
    """
    about = read_evaluation(run).about
    for name in PICTURES:
        if (run / name).is_file() and folder.resolve() != run.resolve():
            shutil.copy(run / name, folder / name)
    path = folder / "README.md"
    record.write_text(path, "\n".join(_lines(about, agent, folder, license_)) + "\n")
    return path


def _lines(about: Mapping[str, Any], agent: MetaAgent, folder: Path, license_: str) -> Iterator[str]:
    algorithm, tasks = about["algorithm"], about["tasks"] or "unnamed tasks"
    protocol = EvaluationProtocol(**about["protocol"])
    unit, stages = reported(protocol, in_context=about.get("in_context", False))
    results = {number: _result(about["sampled"], stage) for number, stage in stages.items()}
    yield from _metadata(algorithm, tasks, unit, results, license_)
    yield from (f"# {algorithm} on {tasks}", "")
    yield f"A policy that was meta-trained with metajax: {agent.title}."
    yield from ("", "```python", "import jax", "from metajax import MetaAgent", "")
    yield f'agent = MetaAgent.from_export("{PARAMS}")'
    yield "adapted = agent.adapt(agent.tasks.sample(jax.random.key(0)))"
    yield from ("action = adapted.act(observation)", "```", "")
    if algorithm == "learned_optimizer":
        yield f'`metajax.load_optimizer("{PARAMS}")` is the optimiser as an optax transformation, for any weights.'
        yield ""
    yield from ("## Results", "", f"Evaluated on {protocol}.", "")
    yield from (f"| {unit} | return |", "|---|---|")
    yield from (f"| {number} | {mean:.2f} ± {width:.2f} |" for number, (mean, width) in results.items())
    for name, value in about["references"].items():
        yield f"| known: {name} | {value:g} |"
    yield ""
    yield from (f"![{Path(name).stem}]({name})" for name in PICTURES if (folder / name).is_file())
    yield from ("", "## Training", "", f"{about['iteration']} meta-iterations of {about['num_tasks']} tasks.", "")
    yield from ("| option | value |", "|---|---|")
    yield from (
        f"| {name} | {json.dumps(value)} |" for name, value in about.get("all_options", about["options"]).items()
    )
    yield from ("", "## Versions", "", "| package | version |", "|---|---|")
    versions = about["versions"] | {"code": code_of(about), "python": about["python"]}
    yield from (f"| {name} | {value} |" for name, value in versions.items())
    yield from ("", f"Trained with `{' '.join(about.get('run', about)['command'])}`.")


def _result(means: Mapping[str, Any], stage: int) -> tuple[float, float]:
    return means["mean"][stage], means["width_95"][stage]


def _metadata(
    algorithm: str, tasks: str, unit: str, results: Mapping[int, tuple[float, float]], license_: str
) -> Iterator[str]:
    """The metadata as YAML, whose texts are JSON, which YAML contains."""
    (last, (mean, width)) = list(results.items())[-1]
    yield from ("---", "library_name: metajax", f"license: {json.dumps(license_)}")
    yield f"tags: {json.dumps(['meta-reinforcement-learning', 'reinforcement-learning', 'jax', algorithm, tasks])}"
    yield from ("model-index:", f"- name: {json.dumps(f'{algorithm} on {tasks}')}", "  results:")
    yield "  - task: {type: reinforcement-learning}"
    yield f"    dataset: {{type: {json.dumps(tasks)}, name: {json.dumps(tasks)}}}"
    yield "    metrics:"
    yield f"    - {{type: mean_reward, name: {json.dumps(f'{last} {unit}')}, value: '{mean:.2f} +/- {width:.2f}'}}"
    yield "---"
