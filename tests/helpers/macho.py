"""What a 64-bit Mach-O library says of itself: the symbols it wants and gives, its libraries, system and signature."""

import dataclasses
import hashlib
import struct
from pathlib import Path

BUILD_VERSION, LOAD_DYLIB, LOAD_WEAK_DYLIB, SYMTAB, CODE_SIGNATURE, DYLD_INFO = 50, 12, 0x80000018, 2, 29, 0x80000022
ARM64, MACOS, DYLIB = 0x0100000C, 1, 6


@dataclasses.dataclass(frozen=True)
class Import:
    """A symbol that the loader binds."""

    name: str
    library: str  # its path, or "" where any may have it
    weak: bool  # null where there is none


class MachO:
    """The library of a file; anything else raises ValueError."""

    def __init__(self, path: Path):
        self.data = data = Path(path).read_bytes()
        magic, self.processor, _, self.kind, commands, _, _, _ = struct.unpack_from("<8I", data)
        if magic != 0xFEEDFACF:
            raise ValueError(f"{path} is no 64-bit Mach-O file")
        self.libraries, self.minimum_system, self.platform, self.signature = [], None, None, None
        self.exported, bindings = [], []
        at = 32
        for _ in range(commands):
            command, size = struct.unpack_from("<2I", data, at)
            if command in (LOAD_DYLIB, LOAD_WEAK_DYLIB):
                self.libraries.append(self.text(at + struct.unpack_from("<I", data, at + 8)[0]))
            elif command == BUILD_VERSION:
                self.platform, version = struct.unpack_from("<2I", data, at + 8)
                self.minimum_system = (version >> 16, version >> 8 & 255)
            elif command == SYMTAB:
                self.read_symbols(*struct.unpack_from("<3I", data, at + 8))
            elif command == CODE_SIGNATURE:
                (self.signature,) = struct.unpack_from("<I", data, at + 8)
            elif command == DYLD_INFO:
                _, _, *bindings = struct.unpack_from("<8I", data, at + 8)
            at += size
        bound, _, lazy = (slice(o, o + n) for o, n in zip(bindings[::2], bindings[1::2], strict=True))
        self.imports = sorted({*self.read_bindings(data[bound]), *self.read_bindings(data[lazy])}, key=lambda i: i.name)

    def text(self, at: int) -> str:
        """The zero-terminated string at a place of the file."""
        return self.data[at : self.data.index(b"\0", at)].decode()

    def read_symbols(self, symbols: int, count: int, strings: int) -> None:
        """Fills `exported` from the symbol table: external, defined, no debugging entry."""
        for i in range(count):
            name, kind = struct.unpack_from("<IB", self.data, symbols + 16 * i)
            if not kind & 0xE0 and kind & 1 and kind & 0x0E:
                self.exported.append(self.text(strings + name))

    def read_bindings(self, code: bytes) -> set[Import]:
        """What a program of binding opcodes binds: an opcode in the high half of a byte, a number in the low one."""
        found, at, library, name, weak = set(), 0, "", "", False

        def number():  # seven bits a byte, the last one below 128
            nonlocal at
            start = at
            while code[at] >= 128:
                at += 1
            at += 1
            return sum((b & 127) << 7 * i for i, b in enumerate(code[start:at]))

        while at < len(code):
            opcode, small = code[at] >> 4, code[at] & 15
            at += 1
            if opcode in (1, 2):  # the library by its place in the list, from 1
                place = small if opcode == 1 else number()
                library = self.libraries[place - 1] if place else "this library"
            elif opcode == 3:  # a special one: 0 is this library, 14 whichever has the symbol
                library = "" if small == 14 else f"special {small}"
            elif opcode == 4:
                end = code.index(0, at)
                name, weak, at = code[at:end].decode(), bool(small & 1), end + 1
            elif opcode in (6, 7, 8):
                number()
            elif opcode in (9, 10, 11, 12):
                found.add(Import(name, library, weak))
                for _ in range({10: 1, 12: 2}.get(opcode, 0)):
                    number()
        return found

    def wrong_pages(self) -> list[int]:
        """The pages whose hash in the signature's code directory is not theirs."""
        _, _, blobs = struct.unpack_from(">3I", self.data, self.signature)
        places = dict(struct.unpack_from(">2I", self.data, self.signature + 12 + 8 * i) for i in range(blobs))
        directory = self.signature + places[0]
        hashes, _, _, pages, limit = struct.unpack_from(">5I", self.data, directory + 16)
        size, kind, _, bits = struct.unpack_from("4B", self.data, directory + 36)
        if (size, kind) != (32, 2) or pages != -(-limit >> bits):
            raise ValueError("the signature has no SHA-256 of every page")
        first = directory + hashes
        return [
            page
            for page in range(pages)
            if hashlib.sha256(self.data[page << bits : min((page + 1) << bits, limit)]).digest()
            != self.data[first + size * page : first + size * (page + 1)]
        ]
