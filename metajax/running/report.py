"""The report of a run: a single HTML file without external files."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.evaluation import Evaluation, EvaluationProtocol, reported
from metajax.running import record
from metajax.running.meta_agent import MetaAgent
from metajax.running.run_folder import metrics
from metajax.running.table import code_of, read_evaluation

_PICTURES = (
    ("adaptation.png", "Return in held-out tasks in each stage, with 95 % intervals over tasks"),
    ("histogram.png", "Returns of the held-out tasks, in the first and in the last stage"),
    ("training.png", "Returns in the training tasks"),
    ("animation.gif", "Episodes in held-out tasks, in several stages"),
)
_SHOWN_TASKS = 25

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2rem; }
figure { margin: 1rem 0; } figcaption { font-size: 0.9rem; opacity: 0.8; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem; }
.wide { grid-column: 1 / -1; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.8rem 0.2rem 0; text-align: left; border-bottom: 1px solid #8884; vertical-align: bottom; }
td { white-space: nowrap; }
td.text { white-space: normal; overflow-wrap: anywhere; } pre { overflow-x: auto; font-size: 0.85rem; }
"""


def draw_pictures(agent: MetaAgent, evaluation: Evaluation, folder: Path) -> None:
    """Writes the plots of an evaluated run and, if its tasks can be drawn, an animation."""
    from metajax.pictures import plots  # matplotlib is slow to import

    in_context = agent.algorithm.agent.in_context
    lines = [line for line in metrics(folder) if {"return_before", "return_after"} <= line.keys()]
    figures = {
        "adaptation": plots.adaptation_curve(evaluation, agent.tasks.references, agent.title, in_context=in_context),
        "histogram": plots.task_histogram(evaluation, agent.title, in_context=in_context),
        "training": plots.training_curve(
            [line["iteration"] for line in lines], lines, agent.title, num_tasks=agent.num_tasks
        ),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)
    if agent.can_be_drawn:
        agent.animate(folder / "animation.gif")


def write_report(folder: Path) -> Path:
    """Writes report.html of an evaluated run (curves, configuration, returns by task, animation, versions).

    Returns its path. Raises CheckpointError if the run has no evaluation.
    """
    result = read_evaluation(folder)
    title = f"{result.about['algorithm']} on {result.about['tasks'] or 'unnamed tasks'}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>seed {result.about['seed']}, {result.about['iteration']} meta-iterations</p>",
        "<h2>Result</h2>",
        f"<p>{_text(str(EvaluationProtocol(**result.about['protocol'])))}</p>",
        _results(result.about),
        f'<div class="pictures">{"".join(_figure(folder / name, caption) for name, caption in _PICTURES)}</div>',
        "<h2>Configuration</h2>",
        _pairs(_configuration(folder, result.about)),
        f"<h2>Returns of the first {min(_SHOWN_TASKS, len(result.returns))} held-out tasks</h2>",
        _per_task(result.returns),
        "<h2>Versions and hardware</h2>",
        _pairs(_surroundings(result.about)),
        "<h2>Citation</h2>",
        f"<pre>{_text(_citation(result.about))}</pre>",
    ]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{_text(title)} - metajax</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    )
    path = folder / "report.html"
    record.write_text(path, page + "\n".join(parts) + "\n</body>\n</html>\n")
    return path


def _results(about: Mapping[str, Any]) -> str:
    columns = {"sampled": "sampled actions", "greedy": "most probable actions"}
    unit, stages = reported(EvaluationProtocol(**about["protocol"]), in_context=about.get("in_context", False))
    header, rows = [unit], [[str(number)] for number in stages]
    for name, words in columns.items():
        for field, form, unit in (
            (name, "{:.2f} ± {:.2f}", "return"),
            (f"{name}_success", "{:.3f} ± {:.3f}", "success"),
        ):
            if field not in about:
                continue
            header.append(f"{unit}, {words}")
            for row, stage in zip(rows, stages.values(), strict=True):
                row.append(form.format(about[field]["mean"][stage], about[field]["width_95"][stage]))
        if "worst_tenth" in about.get(name, {}):
            header.append(f"return in the worst tenth of tasks, {words}")
            for row, stage in zip(rows, stages.values(), strict=True):
                row.append(f"{about[name]['worst_tenth'][stage]:.2f}")
    references = [[name, f"{value:g}"] for name, value in about["references"].items()]
    return _table(header, rows) + (_table(["known", "return"], references) if references else "")


def _configuration(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    lines = metrics(folder)
    trained = {"seconds of training": lines[-1]["seconds"]} if lines else {}
    kept = ("log_every", "save_every", "num_iterations")
    run = {name: value for name, value in about.get("run", {}).items() if name in kept}
    return {"num_tasks": about["num_tasks"]} | about.get("all_options", about["options"]) | run | trained


def _surroundings(about: Mapping[str, Any]) -> dict[str, Any]:
    device = about["device"]
    versions = about["versions"] | {"code": code_of(about), "python": about["python"]}
    command = " ".join(about.get("run", about)["command"])
    return versions | {"device": f"{device['count']} x {device['kind']}", "command": command}


def _per_task(returns: np.ndarray) -> str:
    header = ["task", *(f"after {stage}" for stage in range(returns.shape[1]))]
    rows = [[str(number), *(f"{value:.2f}" for value in row)] for number, row in enumerate(returns[:_SHOWN_TASKS])]
    return _table(header, rows)


def _citation(about: Mapping[str, Any]) -> str:
    version = about["versions"]["metajax"]
    return (
        "@software{metajax,\n  title = {metajax: vectorised meta-reinforcement learning in JAX},\n"
        f"  version = {{{version}}},\n  note = {{Command: {' '.join(about.get('run', about)['command'])}}}\n}}"
    )


def _figure(path: Path, caption: str) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/{path.suffix[1:]};base64,{data}"
    kind = ' class="wide"' if path.suffix == ".gif" else ""
    return (
        f'<figure{kind}><img src="{source}" alt="{_text(caption)}"><figcaption>{_text(caption)}</figcaption></figure>\n'
    )


def _pairs(content: Mapping[str, Any]) -> str:
    written = {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td class="text">{_text(value)}</td></tr>'
        for name, value in written.items()
    )
    return f'<div class="scroll"><table>{rows}</table></div>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value: Any) -> str:
    return html.escape(str(value))
