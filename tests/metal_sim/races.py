"""races.py LOG...: prints ThreadSanitizer's reports of two accesses of shaders; exit status 1 if there is one.

A report counts if both its accesses lie in MSL, whose file is called program_source. The simulator and XLA are not
compiled for the tool, which sees their memory, and not all by which they keep order.
"""

import itertools
import pathlib
import re
import sys

ACCESS = re.compile(r"(Previous )?(atomic )?(read|write) of size", re.IGNORECASE)


def in_shaders(report: str) -> bool:
    """Whether both accesses, each a heading and its frames up to an empty line, are those of shaders."""
    accesses = [part for part in report.split("\n\n") if any(ACCESS.match(line.strip()) for line in part.splitlines())]
    return len(accesses) == 2 and all("program_source" in part for part in accesses)


def main() -> int:
    """Reads the logs."""
    texts = [pathlib.Path(name).read_text(errors="replace") for name in sys.argv[1:]]
    reports = itertools.chain.from_iterable(text.split("==================\n") for text in texts)
    found = [report for report in reports if in_shaders(report)]
    print("".join(found), end="")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
