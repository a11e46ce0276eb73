"""Write the table of load_tests/README.md from the newest result of each goal.

.venv/bin/python load_tests/report.py            rewrite the table
.venv/bin/python load_tests/report.py --check    exit 1 when it is not what the results say
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE / "README.md"
BEGIN, END = "<!-- results: begin (report.py writes this) -->", "<!-- results: end -->"
HEAD = ("goal", "claim", "measured [quartiles]", "threshold", "met?", "")


def newest(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the newest result of each goal, in the order of the goals. Results of quick mode do not count."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):  # their names begin with the date
        document = json.loads(path.read_text())
        if not document["quick"]:
            found[document["goal"]] = path, document
    return [found[goal] for goal in sorted(found)]


def table(folder: Path) -> str:
    """Return the table in Markdown."""
    lines = [_row(HEAD), _row(["---"] * len(HEAD))]
    for path, document in newest(folder):
        lines += [_row(cells) for cells in _cells(path, document)]
    return "\n".join(lines)


def page(text: str, folder: Path) -> str:
    """Return the page with its table made new."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(folder)}\n{END}{after}"


def _row(cells: Any) -> str:  # noqa: ANN401 - any sequence of strings
    return f"| {' | '.join(cells)} |"


def _cells(path: Path, document: dict[str, Any]) -> Iterator[list[str]]:
    links = [f"[data](results/{path.name})"]
    if "plot" in document:
        links.append(f"[plot](results/{document['plot']})")
    for index, threshold in enumerate(document["thresholds"]):
        summary = document["summary"][threshold["metric"]]
        yield [
            document["goal"] if index == 0 else "",
            threshold["claim"],
            _measured(summary),
            f"{'≥' if threshold['relation'] == '>=' else '≤'} {threshold['bound']:g}",
            "yes" if threshold["met"] else "**no**",
            ", ".join(links) if index == 0 else "",
        ]


def _measured(summary: dict[str, Any]) -> str:
    median = f"{summary['median']:.3g} {summary['unit']}"
    return median if summary["n"] == 1 else f"{median} [{summary['q1']:.3g}, {summary['q3']:.3g}]"


def main(arguments: list[str]) -> int:
    """Write or check."""
    text = PAGE.read_text()
    wanted = page(text, RESULTS)
    if arguments == ["--check"]:
        if wanted != text:
            print(f"{PAGE.name}: the table is not what results/ says; run load_tests/report.py", file=sys.stderr)
        return int(wanted != text)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
