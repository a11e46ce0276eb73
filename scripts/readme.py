"""Run a block of commands of README.md, so that CI executes what a newcomer is told instead of a copy of it.

    python3 scripts/readme.py NAME    runs every block that begins with ```bash ci=NAME, from the repository's root

Becomes bash: signals sent to this process reach the commands.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```bash(?P<marks>[^\n]*)\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(markdown: str) -> list[tuple[str, str]]:
    """(mark, commands) of every bash block: the mark is what follows ``ci=``, or empty."""
    found = BLOCK.finditer(markdown)
    return [(match["marks"].strip().removeprefix("ci="), match["commands"]) for match in found]


def main(name: str) -> None:
    commands = "".join(text for mark, text in blocks((ROOT / "README.md").read_text()) if mark == name)
    if not commands:
        sys.exit(f"README.md has no block marked ci={name}")
    os.chdir(ROOT)
    os.execvp("bash", ["bash", "-euxo", "pipefail", "-c", commands])  # noqa: S606, S607 - the commands are our own README's


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)  # noqa: PLR2004
