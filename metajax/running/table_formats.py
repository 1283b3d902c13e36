"""The formats of tables of results: Markdown, LaTeX and CSV, from a header, rows of cells and notes."""

import csv
import io
from collections.abc import Sequence


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]) + "\n"


def _latex(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    def escaped(text: str) -> str:
        special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
        return "".join(special.get(one, f"\\{one}" if one in "&%$#_{}" else one) for one in text)

    lines = [" & ".join(map(escaped, row)) + r" \\" for row in (header, *rows)]
    top, *body = lines
    inner = [rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}", r"\toprule", top, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*(f"% {note}" for note in notes), *inner, r"\end{tabular}"]) + "\n"


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    text = io.StringIO()
    text.writelines(f"# {note}\n" for note in notes)
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


WRITERS = {"markdown": _markdown, "latex": _latex, "csv": _csv}
