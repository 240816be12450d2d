"""Every message to Apple's own kernels, against selectors.tsv: what Apple's headers say of their classes.

metal-cpp's messages are its own business; ours are the constants of cc/metal that message.h defines.
"""

import dataclasses
import re
from pathlib import Path

import pytest
from setting import ROOT

HERE = Path(__file__).parent
SOURCES = sorted((ROOT / "cc/metal").rglob("*.[ch]*"))

# C++ types by those of the headers; classes and enumerations of the tables go by their names.
TYPES = {
    "void": "void",
    "BOOL": "BOOL",
    "double": "double",
    "NSUInteger": "NS::UInteger",
    "id<MTLBuffer>": "MTL::Buffer*",
    "id<MTLDevice>": "MTL::Device*",
    "id<MTLCommandBuffer>": "MTL::CommandBuffer*",
    "NSString*": "NS::String*",
    "MPSShape*": "NS::Array*",  # of numbers
    "MPSGraphTensorDataDictionary*": "NS::Dictionary*",  # of tensor data by tensors
}


@dataclasses.dataclass(frozen=True)
class Sent:
    """A message of ours."""

    kind: str  # Message, ClassMessage or InitMessage
    cls: str
    selector: str
    result: str
    arguments: tuple[str, ...]


def compact(text):
    return re.sub(r"\s+", "", text)


def read_headers():
    """(class, selector) -> (kind, result, arguments), and name -> (type, values) of the enumerations."""
    selectors, enumerations = {}, {}
    for line in (HERE / "selectors.tsv").read_text().splitlines():
        if line.startswith("#"):
            continue
        cls, kind, name, result, arguments = line.split("\t")
        if kind == "e":
            enumerations[cls] = (name, dict(pair.split("=") for pair in arguments.split(", ")))
            continue
        parts = (
            [] if kind == "p" else [a for a in compact(re.sub(r"NSArray<.*?>\s*\*", "NSArray*", arguments)).split(",")]
        )
        selectors[cls, name] = (kind, compact(result), tuple(p for p in parts if p))
    return selectors, enumerations


SELECTORS, ENUMERATIONS = read_headers()


def messages(text):
    """The messages that a C++ text defines."""
    text = re.sub(r"//[^\n]*", "", text)
    pattern = r"constexpr (\w*Message)<(.*?)\((.*?)\)>\s*\w+\(\s*((?:\"[^\"]*\"[\s,]*)+)\)"
    for kind, result, arguments, strings in re.findall(pattern, text, re.DOTALL):
        cls, _, selector = strings.partition(",")
        selector = "".join(re.findall(r'"([^"]*)"', selector))
        parts = tuple(compact(a) for a in arguments.split(",") if a.strip())
        yield Sent(kind, cls.strip().strip('"'), selector, compact(result), parts)


def enumerations(text):
    """Those that a C++ text defines: name -> (type, values)."""
    for name, kind, body in re.findall(r"enum (MPS\w+) : ([\w:]+) \{(.*?)\}", text, re.DOTALL):
        yield name, (kind, dict(re.findall(r"(\w+) = ([^,}]+?)\s*(?:,|$)", body)))


def in_cpp(kind, cls):
    """The C++ type of a header's."""
    kind = {"instancetype": f"{cls}*", "NSArray*": "NS::Array*"}.get(kind, kind)
    return TYPES.get(kind, kind)


def wrong(sent):
    """What the headers have against a message, or None."""
    if (sent.cls, sent.selector) not in SELECTORS:
        return f"{sent.cls} has no {sent.selector}"
    kind, result, arguments = SELECTORS[sent.cls, sent.selector]
    if (kind == "+") != (sent.kind == "ClassMessage"):
        return "sent to the class, not to an object, or the other way round"
    if (result == "instancetype" and kind == "-") != (sent.kind == "InitMessage"):
        return "an initialiser, or none"
    wanted = tuple(in_cpp(a, sent.cls) for a in arguments)
    if sent.arguments != wanted:
        return f"takes {wanted}, and gets {sent.arguments}"
    if sent.result != in_cpp(result, sent.cls):
        return f"gives {in_cpp(result, sent.cls)}, not {sent.result}"
    if sent.selector.count(":") != len(sent.arguments):
        return "as many arguments as colons"
    return None


SENT = [message for path in SOURCES for message in messages(path.read_text())]


@pytest.mark.parametrize("sent", SENT, ids=lambda m: f"{m.cls} {m.selector[:40]}")
def test_message(sent):
    assert wrong(sent) is None


def test_all_messages_are_read():
    # The rows of the table are those that are sent, and nothing is sent by other means.
    assert {(m.cls, m.selector) for m in SENT} == set(SELECTORS)
    texts = {path.name: re.sub(r"//[^\n]*", "", path.read_text()) for path in SOURCES}
    defined = sum(len(re.findall(r"\bconstexpr \w*Message<", text)) for text in texts.values())
    assert defined == len(SENT)
    for word in ("objc_msgSend", "sel_registerName"):
        assert [name for name, text in texts.items() if word in text] == ["message.h"]


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_enumeration(name):
    found = [values for path in SOURCES for n, values in enumerations(path.read_text()) if n == name]
    assert len(found) == 1
    kind, values = found[0]
    wanted_kind, wanted = ENUMERATIONS[name]
    assert kind == TYPES.get(wanted_kind, wanted_kind)
    assert values
    for constant, value in values.items():
        assert eval(value) == int(wanted[constant])


def test_every_type_is_known():
    classes = {cls for cls, _ in SELECTORS} | {"MPSGraphTensor", "MPSGraphExecutionDescriptor"}  # receivers of nothing
    for (cls, _), (_, result, arguments) in SELECTORS.items():
        for kind in (result, *arguments):
            known = in_cpp(kind, cls)
            assert known in TYPES.values() or known in ENUMERATIONS or known.rstrip("*") in classes, kind


GOOD = """
constexpr Message<void(MTL::CommandBuffer*, MPSMatrix*, MPSMatrix*, MPSMatrix*)> kEncode(
    "MPSMatrixMultiplication", "encodeToCommandBuffer:leftMatrix:"
    "rightMatrix:resultMatrix:");
constexpr InitMessage<MPSMatrix*(MTL::Buffer*, NS::UInteger, MPSMatrixDescriptor*)> kMatrix(
    "MPSMatrix", "initWithBuffer:offset:descriptor:");
constexpr ClassMessage<MPSCommandBuffer*(MTL::CommandBuffer*)> kCommandBuffer(
    "MPSCommandBuffer", "commandBufferWithCommandBuffer:");
constexpr Message<MPSGraphTensor*(NS::Array*, MPSDataType, NS::String*)> kPlaceholder(
    "MPSGraph", "placeholderWithShape:dataType:name:");
"""
PLANTED = [
    ("leftMatrix:", "leftMatrx:"),
    ('"MPSMatrixMultiplication"', '"MPSMatrixMultiplicaton"'),
    ("NS::UInteger, MPSMatrixDescriptor*", "uint32_t, MPSMatrixDescriptor*"),
    ("NS::UInteger, MPSMatrixDescriptor*", "MPSMatrixDescriptor*, NS::UInteger"),
    ("MPSDataType, NS::String*", "NS::UInteger, NS::String*"),
    ("MPSDataType, NS::String*", "MPSDataType"),
    ("void(MTL::CommandBuffer*", "MPSMatrix*(MTL::CommandBuffer*"),
    ("void(MTL::CommandBuffer*", "void(MPSCommandBuffer*"),
    ("ClassMessage<", "Message<"),
    ("InitMessage<", "Message<"),
    ("rightMatrix:resultMatrix:", "rightMatrix:resultMatrix"),
]


@pytest.mark.parametrize(("text", "planted"), PLANTED)
def test_planted_mistake(text, planted):
    assert [wrong(m) for m in messages(GOOD)] == [None] * 4
    assert text in GOOD
    found = list(messages(GOOD.replace(text, planted, 1)))
    assert len(found) == 4
    assert [wrong(m) for m in found].count(None) == 3
