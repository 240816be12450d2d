"""Metal Shading Language to CUDA C++, for a test on an NVIDIA GPU: one `__global__` function for each pipeline.

Shares the reading of MSL with ../translate.py, which refuses what Apple's compiler would.
"""

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import translate as msl  # noqa: E402

# Address spaces are CUDA's generic one; only memory of a threadgroup is declared as such.
SPACES = re.compile(r"\b(?:device|constant|threadgroup|thread)\b")


def preprocess(text: str) -> str:
    """MSL after the preprocessor, as the simulator runs it; Apple's headers are the shim's."""
    text = re.sub(r"^\s*#\s*include\s*<metal_.*$", "", text, flags=re.M)
    command = ["c++", "-E", "-x", "c++", "-std=c++14", "-undef", "-w", "-D__METAL__=1", "-D__METAL_VERSION__=310", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def set_constants(text: str, values: dict[int, str]) -> str:
    """Gives the function constants their values, so that a pipeline is compiled for them."""

    def known(m: re.Match) -> str:
        index = int(m["index"])
        return f"constexpr {m['kind']} {m['name']} = {values[index]};" if index in values else ""

    declared = (
        r"static const (?P<kind>[\w:]+) (?P<name>\w+) = msl::function_constant<[\w:]+>\((?P<index>\d+), \"\w+\"\);"
    )
    text = re.sub(r"static const int \w+_index = \d+; (?=static const)", "", text)
    text = re.sub(declared, known, text)
    return re.sub(r"is_function_constant_defined\s*\((\w+)\)", lambda m: str(f" {m[1]} =" in text).lower(), text)


def mark_functions(text: str) -> str:
    """Functions of a file and methods of its structs are the GPU's: `__device__` goes before each definition."""
    marks, begin, depth, i = [], 0, 0, 0
    while i < len(text):
        c = text[i]
        if c == "#" and text[text.rfind("\n", 0, i) + 1 : i].strip() == "":  # a line of the preprocessor's
            i = begin = text.index("\n", i)
        elif c == "{":
            statement = text[begin:i]
            if "(" in statement and not re.match(r"\s*(?:enum|namespace)\b", statement):
                template = re.match(r"\s*template\s*<[^;{}]*?>\s*(?=[\w\[])", statement)
                marks.append(begin + (template.end() if template else len(statement) - len(statement.lstrip())))
                i = msl.closing(text, i) - 1
            elif re.search(r"\b(?:struct|class|namespace)\b", statement) and "=" not in statement:
                depth += 1
            else:  # an enumeration or the values of a constant
                i = msl.closing(text, i) - 1
                begin = i + 1
                i += 1
                continue
            begin = i + 1
        elif c in ";}":
            begin = i + 1
        i += 1
    for at in reversed(marks):
        text = text[:at] + "__device__ " + text[at:]
    return text


def translate(text: str, function: str, values: dict[int, str], name: str) -> str:
    """The CUDA C++ of one pipeline: the kernel `function` of preprocessed MSL, as the global function `name`."""
    source = msl.Source(text, spaces=False)
    msl.forbid(source)
    msl.check_pointers(source)
    msl.take_instances(source)
    msl.take_constants(source)
    msl.take_kernels(source)
    msl.check_recursion(source)
    instance = {i[0]: i[1:3] for i in source.instances}
    expression, kernel = instance.get(function, (function, function))
    if kernel not in source.kernels:
        source.refuse(0, f"the source has no kernel '{function}'")
    arguments = source.kernels[kernel][0]
    body = msl.ATTRIBUTE.sub("", source.text)
    body = set_constants(body, values)
    body = msl.THREADGROUP_VARIABLE.sub(r"\1__shared__ \2;", body)
    body = re.sub(r"\bconstant\s+(?=constexpr\b)", "", body)
    body = re.sub(r"^constant\b", "__constant__ const", body, flags=re.M)
    body = mark_functions(SPACES.sub("", body))
    if left_out := [a["name"] for a in arguments if a["present"]]:
        source.refuse(0, f"argument '{left_out[0]}' depends on a function constant, which is not translated")
    where = "".join(f", msl::Where{{msl::{a['kind']}, int({a['index']})}}" for a in arguments)
    most = source.kernels[kernel][1]
    return (
        f"namespace msl {{ namespace {name}_ {{\nusing namespace metal;\n{body}\n}} }}\n"
        f'extern "C" __global__ void __launch_bounds__({most}) {name}(const __grid_constant__ msl::Launch launch) {{\n'
        f"  msl::Bind<&msl::{name}_::{expression}{where}>::run(launch);\n}}\n"
    )
