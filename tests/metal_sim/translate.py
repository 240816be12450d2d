"""Metal Shading Language to C++: what clang cannot parse is rewritten, what Apple's compiler would refuse is refused.

translate.py SOURCE OUTPUT: SOURCE is preprocessed MSL with line markers. Line numbers are kept. Errors are written as
`file:line: error: ...`, and the exit status is then 1. OUTPUT is the C++ that runs; beside it, with `.spaces.cc` for
`.cc`, stands a form that is only to be parsed, with -DMSL_ADDRESS_SPACES, and in which address spaces are kept apart.
"""

import re
import sys

BUILTINS = {
    "thread_position_in_grid": "kPosition",
    "thread_position_in_threadgroup": "kLocal",
    "threadgroup_position_in_grid": "kGroup",
    "threadgroups_per_grid": "kGroups",
    "threads_per_threadgroup": "kGroupSize",
    "dispatch_threads_per_threadgroup": "kFullSize",
    "threads_per_grid": "kGrid",
    "thread_index_in_threadgroup": "kIndex",
    "thread_index_in_simdgroup": "kLane",
    "simdgroup_index_in_threadgroup": "kSimd",
    "simdgroups_per_threadgroup": "kSimds",
    "threads_per_simdgroup": "kSimdWidth",
    "thread_execution_width": "kSimdWidth",
}
# What MSL lacks although C++ has it.
FORBIDDEN = {
    "double": "MSL has no double",
    "new": "MSL has no operator new",
    "delete": "MSL has no operator delete",
    "virtual": "MSL has no virtual functions",
    "throw": "MSL has no exceptions",
    "try": "MSL has no exceptions",
    "dynamic_cast": "MSL has no dynamic_cast",
    "typeid": "MSL has no typeid",
    "goto": "MSL has no goto",
    "thread_local": "MSL has no thread_local",
    "std": "MSL has no standard library of C++; its own is namespace metal",
}
# A declarator has no * or & outside of its brackets; pointers into threadgroup memory are left as they are.
THREADGROUP_VARIABLE = re.compile(r"(?<=[;{}])((?:\s|\n#[^\n]*)*)threadgroup\s+((?:[^;*&\[]|\[[^\]]*\])*);")
ATTRIBUTE = re.compile(r"\[\[(?:[^\[\]]|\[[^\[\]]*\])*\]\]")


class Refused(Exception):
    """A construct that Apple's compiler refuses, or that the runner asks for."""


class Source:
    """The text, edited in place with its lines kept, and what the edits found."""

    def __init__(self, text: str, spaces: bool):
        self.text = text
        self.spaces = spaces  # keep address spaces apart, in code that is parsed and never run
        self.kernels = {}  # name -> (arguments, attributes)
        self.instances = []  # (host name, C++ expression, kernel name)
        self.variables = 0

    def where(self, at: int) -> str:
        """The file and line of an offset, by the line markers before it."""
        file, line = "program_source", 1
        for text in self.text[:at].split("\n")[:-1]:
            if marker := re.match(r'# (\d+) "([^"]*)"', text):
                line, file = int(marker[1]), marker[2]
            else:
                line += 1
        return f"{file}:{line}"

    def refuse(self, at: int, text: str):
        """Stops with an error at an offset."""
        raise Refused(f"{self.where(at)}: error: {text}")

    def replace(self, start: int, end: int, text: str):
        """Replaces a range; lines that the new text lacks are added to it."""
        missing = self.text.count("\n", start, end) - text.count("\n")
        self.text = self.text[:start] + text + "\n" * missing + self.text[end:]


def closing(text: str, at: int) -> int:
    """The offset after the bracket that closes the one at an offset."""
    pairs = {"(": ")", "{": "}", "<": ">", "[": "]"}
    stack = []
    for i in range(at, len(text)):
        c = text[i]
        if c in "({[" or (c == "<" and text[at] == "<"):
            stack.append(pairs[c])
        elif stack and c == stack[-1]:
            stack.pop()
            if not stack:
                return i + 1
    raise Refused(f"program_source:1: error: no bracket closes `{text[at : at + 30]}`")


def split_commas(text: str) -> list[str]:
    """Splits at the commas outside of brackets."""
    parts, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "(<[{") - (c in ")>]}")
        if c == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    last = text[begin:]
    return [*parts, last] if last.strip() else parts


def parse_argument(source: Source, at: int, kernel: str, text: str) -> dict:
    """One argument of a kernel: its kind, index, name, and the function constant that it depends on."""
    plain = ATTRIBUTE.sub("", text).strip()
    name = re.search(r"(\w+)\s*(?:\[[^\]]*\])?$", plain)
    name = name[1] if name else plain
    found = {"name": name, "type": plain, "present": None, "kind": None, "index": "0"}
    for attribute in re.findall(r"\[\[(.*?)\]\]", text, re.S):
        for word in split_commas(attribute):
            word = " ".join(word.split())
            if m := re.fullmatch(r"(buffer|threadgroup)\s*\((.*)\)", word):
                found["kind"], found["index"] = ("kBuffer" if m[1] == "buffer" else "kThreadgroup"), m[2]
            elif m := re.fullmatch(r"function_constant\s*\((.*)\)", word):
                found["present"] = m[1]
            elif word in BUILTINS:
                found["kind"] = BUILTINS[word]
            else:
                source.refuse(at, f"attribute [[{word}]] of argument '{name}' of kernel '{kernel}' is not known")
    if found["kind"] is None:
        source.refuse(at, f"argument '{name}' of kernel '{kernel}' has no attribute, as [[buffer(0)]]")
    pointer = re.search(r"[*&]", plain)
    space = re.search(r"\b(device|constant|threadgroup|thread)\b", plain)
    if pointer and not space:
        source.refuse(at, f"argument '{name}' of kernel '{kernel}' is a pointer with no address space")
    if pointer and found["kind"] == "kBuffer" and space[1] not in ("device", "constant"):
        source.refuse(at, f"buffer argument '{name}' of kernel '{kernel}' must be device or constant")
    if pointer and found["kind"] == "kThreadgroup" and space[1] != "threadgroup":
        source.refuse(at, f"argument '{name}' of kernel '{kernel}' must be in threadgroup memory")
    if found["kind"] in ("kBuffer", "kThreadgroup") and not pointer:
        source.refuse(at, f"argument '{name}' of kernel '{kernel}' must be a pointer or a reference")
    return found


def forbid(source: Source):
    """Refuses the words of C++ that are no part of MSL, and casts of vectors that C++ would read as bits."""
    for m in re.finditer(r"\b(" + "|".join(FORBIDDEN) + r")\b", source.text):
        line = source.text[source.text.rfind("\n", 0, m.start()) + 1 : m.start()]
        if not line.startswith("#"):
            source.refuse(m.start(), FORBIDDEN[m[1]])
    if m := re.search(r"\bif\s+constexpr\b", source.text):
        source.refuse(m.start(), "`if constexpr` is C++17; Metal 3.1 is C++14")
    vector = r"(?:float|half|bfloat|u?int|u?short|u?char|u?long)[234]"
    for m in re.finditer(rf"\(\s*{vector}\s*\)\s*[\w(]|static_cast\s*<\s*{vector}\s*>", source.text):
        source.refuse(m.start(), "a C-style cast of a vector; write it as a constructor, float4(v)")


def check_pointers(source: Source):
    """Refuses pointers and references of MSL's types that name no address space."""
    kinds = r"(?:T|R|float|half|bfloat|u?int|u?short|u?char|u?long|bool|void)[234]?"
    declared = re.compile(rf"(?:[(,;{{}}]|\bconst)\s*(?:const\s+)?\b{kinds}\s*(?:const\s*)?[*&]\s*\w+\s*[,)=;]")
    for m in declared.finditer(source.text):
        before = source.text[max(0, m.start() - 40) : m.start()]
        if not (m[0].startswith("const") and re.search(r"\b(device|constant|threadgroup|thread)\s*$", before)):
            source.refuse(m.end() - 1, f"no address space in `{' '.join(m[0].strip('(,;{} ').split())}`")


def take_instances(source: Source):
    """Removes explicit instantiations and keeps their host names."""
    pattern = re.compile(r"template\s*((?:\[\[.*?\]\]\s*)+)", re.S)
    while m := pattern.search(source.text):
        host = re.search(r"host_name\s*\(\s*((?:\"[^\"]*\"\s*)+)\)", m[1])
        if not host:
            source.refuse(m.start(), "an instantiated kernel needs [[host_name(...)]]")
        name = "".join(re.findall(r'"([^"]*)"', host[1]))
        end = source.text.index(";", m.end())
        body = source.text[m.end() : end].strip()
        body = re.sub(r"^kernel\b", "", body).strip()
        if d := re.match(r"decltype\s*\(", body):
            expression = body[d.end() : closing(body, d.end() - 1) - 1].strip()
            arguments = None
        else:
            v = re.match(r"void\s+(\w+)\s*", body)
            if not v:
                source.refuse(m.start(), f"cannot read the instantiation of '{name}'")
            after = closing(body, v.end()) if body[v.end() : v.end() + 1] == "<" else v.end()
            expression = body[v.start(1) : after].strip()
            arguments = body[body.index("(", after) + 1 : body.rindex(")")]
        source.instances.append((name, expression, expression.split("<")[0].strip(), arguments, m.start()))
        source.replace(m.start(), end + 1, "")


def take_kernels(source: Source):
    """Finds the kernels, reads their arguments and drops their attributes."""
    source.text = re.sub(r"\[\[\s*kernel\s*,\s*", "[[kernel]] [[", source.text)
    pattern = re.compile(
        r"((?:\[\[[^\]]*\]\]\s*)*)(?:\[\[\s*kernel\s*\]\]|\bkernel\b)\s*((?:\[\[.*?\]\]\s*)*)void\s+(\w+)\s*\("
    )
    while m := pattern.search(source.text):
        end = closing(source.text, m.end() - 1)
        parts = split_commas(source.text[m.end() : end - 1])
        arguments = [parse_argument(source, m.start(3), m[3], p) for p in parts]
        for kind, limit in (("kBuffer", 31), ("kThreadgroup", 31)):
            used = [a["index"] for a in arguments if a["kind"] == kind]
            if double := {u for u in used if used.count(u) > 1}:
                source.refuse(m.start(3), f"kernel '{m[3]}' uses {kind[1:].lower()}({double.pop()}) twice")
            if any(u.isdigit() and int(u) >= limit for u in used):
                source.refuse(m.start(3), f"kernel '{m[3]}': an index of {kind[1:].lower()} is past {limit - 1}")
        most = re.search(r"max_total_threads_per_threadgroup\s*\((.*?)\)\s*\]\]", m[1] + m[2])
        if m[3] in source.kernels:
            source.refuse(m.start(3), f"kernel '{m[3]}' is defined twice")
        before = source.text[: m.start()].rstrip()
        template = before.endswith(">") and re.search(r"template\s*<[^;{}]*>$", before)
        source.kernels[m[3]] = (arguments, most[1] if most else "1024", bool(template))
        head = f"{'' if template else 'static '}void {m[3]}("
        source.replace(m.start(), m.end(), head)


def take_constants(source: Source):
    """Function constants become variables that are read when the library is loaded for a pipeline."""
    pattern = re.compile(r"\bconstant\s+([\w:]+)\s+(\w+)\s*\[\[\s*function_constant\s*\((.*?)\)\s*\]\]\s*;", re.S)
    while m := pattern.search(source.text):
        kind, name, index = m[1], m[2], m[3]
        value = f'msl::function_constant<{kind}>({index}, "{name}")'
        if source.spaces:
            value = "{}"
            kind = f"constant {kind}"
        text = f"static const int {name}_index = {index}; static const {kind} {name} = {value};"
        source.replace(m.start(), m.end(), text)


def take_variables(source: Source):
    """Threadgroup variables of kernels become references into the threadgroup's memory."""
    while m := THREADGROUP_VARIABLE.search(source.text):
        declarators = split_commas(m[2])
        first = re.match(r"(.*?)\b(\w+)\s*((?:\[.*\])*)\s*$", declarators[0].strip(), re.S)
        if not first or not first[1].strip() or "=" in m[2]:
            source.refuse(m.start(2), "cannot read this threadgroup variable (an initialiser is not allowed)")
        text = []
        for d in [f"{first[2]}{first[3]}", *declarators[1:]]:
            n = re.fullmatch(r"\s*(\w+)\s*((?:\[.*\])*)\s*", d, re.S)
            if not n:
                source.refuse(m.start(2), f"cannot read the threadgroup variable `{d.strip()}`")
            source.variables += 1
            if source.spaces:
                text.append(f"static threadgroup {first[1].strip()} {n[1]}{n[2]};")
                continue
            kind = f"std::type_identity_t<{first[1].strip()}{n[2]}>"
            text.append(f'auto& {n[1]} = msl::threadgroup_variable<{kind}, {source.variables}>("{n[1]}");')
        source.replace(m.end(1), m.end(), " ".join(text))


def check_recursion(source: Source):
    """Refuses functions that call themselves, directly or not (names with overloads are left alone)."""
    bodies = {}
    for m in re.finditer(r"\b(\w+)\s*\(", source.text):
        if m[1] in ("if", "for", "while", "switch", "return", "sizeof", "decltype", "alignas"):
            continue
        try:
            end = closing(source.text, m.end() - 1)
        except Refused:
            continue
        if brace := re.match(r"\s*(?:const\s*)?\{", source.text[end:]):
            body = source.text[end : closing(source.text, end + brace.end() - 1)]
            bodies.setdefault(m[1], []).append((m.start(), body))
    calls = {
        name: set(re.findall(r"(?<![.>])\b(\w+)\s*(?:<[^;(){}]*>)?\s*\(", found[0][1])) & bodies.keys()
        for name, found in bodies.items()
        if len(found) == 1
    }
    for name in calls:
        reached, todo = set(), set(calls[name])
        while todo:
            n = todo.pop()
            if n == name:
                source.refuse(bodies[name][0][0], f"function '{name}' is recursive")
            if n not in reached:
                reached.add(n)
                todo |= calls.get(n, set())


def table(source: Source) -> str:
    """The C++ table of kernels that the simulator reads."""
    rows, lists = [], []
    instances = [(n, n, n, None, 0) for n, k in source.kernels.items() if not k[2]] + source.instances
    for i, (host, expression, name, listed, at) in enumerate(instances):
        if name not in source.kernels:
            source.refuse(at, f"'{host}' instantiates '{name}', which is no kernel")
        arguments, most, _ = source.kernels[name]
        if listed is not None:
            again = [parse_argument(source, at, host, p) for p in split_commas(listed)]
            if [(a["kind"], a["index"]) for a in again] != [(a["kind"], a["index"]) for a in arguments]:
                source.refuse(at, f"the arguments of the instantiation '{host}' are not those of kernel '{name}'")
        where = ", ".join(f"msl::Where{{msl::{a['kind']}, int({a['index']})}}" for a in arguments)
        present = ", ".join(f"&{a['present']}" if a["present"] else "nullptr" for a in arguments)
        names = ", ".join(f'"{a["name"]}"' for a in arguments)
        lists.append(
            f"static const bool* const present{i}[] = {{{present or 'nullptr'}}};\n"
            f"static const char* const names{i}[] = {{{names or 'nullptr'}}};\n"
            f"using Bind{i} = msl::Bind<&{expression}{', ' if where else ''}{where}>;"
        )
        rows.append(
            f'{{"{host}", Bind{i}::arguments, Bind{i}::count, &Bind{i}::run, present{i}, names{i}, int({most})}},'
        )
    return (
        "\n#undef constant\n#undef device\n#undef threadgroup\n#undef thread\n"
        "namespace msl_table {\n" + "\n".join(lists) + "\n"
        "static const msl::Kernel kernels[] = {\n" + "\n".join(rows) + "\n{}};\n}\n"
        'extern "C" __attribute__((visibility("default"))) const msl::Kernel* msl_kernels(int* count) {\n'
        f"  *count = {len(rows)};\n  return msl_table::kernels;\n}}\n"
    )


def translate(text: str, spaces: bool = False) -> str:
    """The C++ of preprocessed MSL."""
    source = Source(text, spaces)
    forbid(source)
    check_pointers(source)
    take_instances(source)
    take_constants(source)
    take_kernels(source)
    check_recursion(source)
    if not source.kernels:
        source.refuse(0, "the source has no kernel")
    source.text = ATTRIBUTE.sub(lambda m: "\n" * m[0].count("\n"), source.text)
    take_variables(source)
    # vec<T, 4>(...) constructs like float4(...).
    for m in reversed(list(re.finditer(r"\b(?:metal::)?vec\s*(?=<)", source.text))):
        end = closing(source.text, m.end())
        if source.text[end:].lstrip().startswith("("):
            source.text = source.text[: m.start()] + f"msl::make<{source.text[m.start() : end]}>" + source.text[end:]
    end = "" if spaces else table(source)
    return "#include <metal_stdlib>\n" + source.text + end


def main() -> int:
    """Translates a file."""
    source, output = sys.argv[1:]
    with open(source) as f:
        text = f.read()
    try:
        result = translate(text)
        apart = translate(text, spaces=True)
    except Refused as e:
        print(e, file=sys.stderr)
        return 1
    with open(output, "w") as f:
        f.write(result)
    with open(output.removesuffix(".cc") + ".spaces.cc", "w") as f:
        f.write(apart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
