"""seeds.py FOLDER: texts to begin with, one a file: a program of each op's node, and those of seeds.txt."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from program_nodes import NODES, text_of  # noqa: E402


def texts() -> list[str]:
    """All of them."""
    programs = (HERE / "seeds.txt").read_text().split("\n\n")
    return [text_of(*node) for node in NODES] + [program.strip("\n") for program in programs]


if __name__ == "__main__":
    for number, text in enumerate(texts()):
        Path(sys.argv[1], f"{number:03}").write_text(text)
