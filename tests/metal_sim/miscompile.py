"""Bugs like those of Apple's shader compiler, planted: miscompile.py KIND FILE changes preprocessed MSL in place.

loops: a loop that carries a value from turn to turn loses its last turn, unless its counter is volatile.
pointers: such a loop reads the first number of an array in place of the others, unless it reads through a volatile
pointer.
"""

import re
import sys

from translate import closing

FOR = re.compile(r"\bfor\s*\(")
CARRIED = re.compile(r"\b(\w+)\s*[-+*]=|\b(\w+) = [^;=]*\b\2\b|simdgroup_multiply_accumulate\(")
LESS = re.compile(r"\b(\w+)((?: \+ [^;<]*)?) < ")


def loops(text: str) -> list[tuple[int, int, int]]:
    """Of each loop without one inside: where its head begins and ends, and where its body does."""
    found = []
    for match in FOR.finditer(text):
        head = closing(text, match.end() - 1)
        at = head + len(text[head:]) - len(text[head:].lstrip())
        end = closing(text, at) if text[at] == "{" else text.index(";", at) + 1
        if not FOR.search(text, head, end):
            found.append((match.end(), head - 1, end))
    return found


def carries(body: str) -> bool:
    """Whether a value outlives a turn: one that is not declared in the body."""
    for match in CARRIED.finditer(body):
        name = match[1] or match[2]
        if not name or not re.search(rf"\b(float|int|uint|S|T|A|W|bool|Moments) (\w+ = [^;]*, )?{name}\b", body):
            return True
    return False


def is_volatile(text: str, at: int, head: str, counter: str) -> bool:
    """Whether the counter is, by the declaration in the loop's head or the last one before it."""
    before = re.findall(rf"\b(volatile\s+)?u?int {counter}\b", text[:at] + head)
    return bool(before and before[-1])


def lose_turns(text: str) -> str:
    """The text with shorter loops."""
    for begin, head, end in reversed(loops(text)):
        words = text[begin:head]
        less = LESS.search(words)
        if not less or not carries(text[head:end]) or is_volatile(text, begin, words, less[1]):
            continue
        step = re.search(r"\+= (.*)$", words.strip())
        at = begin + less.end(1)
        text = f"{text[:at]} + ({step[1] if step else 1}){text[at:]}"
    return text


def read_first(text: str) -> str:
    """The text with loops that read but one number."""
    for _, head, end in reversed(loops(text)):
        body = text[head:end]
        if not carries(body):
            continue
        for read in reversed(list(re.finditer(r"\b(\w+)\[", body))):
            declared = re.findall(rf"\bdevice const\s+(volatile )?\s*\w+\s*\*\s*{read[1]}\b", text[:head])
            if declared and not declared[-1]:
                close = closing(body, read.end() - 1)
                body = f"{body[: read.end()]}0 * ({body[read.end() : close - 1]}){body[close - 1 :]}"
        text = text[:head] + body + text[end:]
    return text


def main():
    """Changes a file."""
    kind, path = sys.argv[1:]
    with open(path) as f:
        text = f.read()
    with open(path, "w") as f:
        f.write({"loops": lose_turns, "pointers": read_first}[kind](text))


if __name__ == "__main__":
    main()
