"""`kernel.c`, compiled for this very processor when an engine first starts, and matrices in the form that it takes.

No compiler, or one that fails: the engine computes with torch alone, which is slower and gives the same answers.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from service.embedded.arguments import COMPILERS

SOURCE = Path(__file__).with_name("kernel.c")
FLAGS = (
    "-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-shared", "-fPIC",
    "--param=avoid-fma-max-bits=0",  # else a lone row may be rounded otherwise than a row among others
)  # fmt: skip
COMPILING_SECONDS = 120


class _Matrix(ctypes.Structure):
    """`Matrix` of kernel.c."""

    _fields_ = (("panels", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("out", "vectors", "halves")))


class Panels:
    """A matrix `(in, out)` cut into panels of columns, as the kernel takes it. `kept` holds its numbers."""

    def __init__(self, kept: Tensor, out: int, vectors: int, halves: bool) -> None:
        self.kept = kept
        self._matrix = _Matrix(kept.data_ptr(), out, vectors, halves)
        self.address = ctypes.addressof(self._matrix)

    @property
    def nbytes(self) -> int:
        return self.kept.nbytes


Weight = Tensor | Panels
"""One matrix `(in, out)`, as torch takes it or as the kernel does."""


class Kernel:
    """The compiled functions."""

    def __init__(self, library: Path) -> None:
        self.functions = ctypes.CDLL(str(library))  # calls let go of Python's lock
        for name in ("lanes", "vectors", "scratch_size"):
            getattr(self.functions, name).restype = ctypes.c_int64
        self.lanes: int = self.functions.lanes()
        self.vectors: int = self.functions.vectors()

    def pack(self, matrix: Tensor) -> Panels:
        """`matrix` `(in, out)`, float32, in panels; in half the space where all its numbers are bfloat16."""
        rows, out = matrix.shape
        vectors = self.vectors if 2 * out > self.vectors * self.lanes else 1
        padded = torch.nn.functional.pad(matrix, (0, -out % (vectors * self.lanes)))
        panels = padded.view(rows, -1, vectors, self.lanes).transpose(0, 1)  # (panels, in, vectors, lanes)
        halves = vectors > 1 and torch.equal(matrix, matrix.bfloat16().float())
        if halves:
            pairs = panels.bfloat16().unflatten(2, (-1, 2)).transpose(3, 4)  # (panels, in, pairs, lanes, 2)
            low_half_first = pairs if sys.byteorder == "little" else pairs.flip(4)
            return Panels(low_half_first.contiguous(), out, vectors, halves)
        return Panels(panels.contiguous(), out, vectors, halves)

    def multiply(self, x: Tensor, matrix: Panels, y: Tensor, add: bool) -> None:
        """`y = x @ matrix`, or `y +=`; all contiguous and float32."""
        size = ctypes.c_int64
        self.functions.multiply(
            address(x), ctypes.c_void_p(matrix.address), address(y), size(y.shape[1]), size(len(x)), size(x.shape[1]),
            ctypes.c_int(add),
        )  # fmt: skip


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers are; NULL for none."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def addresses(items: Sequence[Tensor | Panels | None]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of pointers. It does not keep what they point to alive."""
    return (ctypes.c_void_p * len(items))(
        *(ctypes.c_void_p(item.address) if isinstance(item, Panels) else address(item) for item in items)
    )


def load_kernel() -> Kernel | None:
    """The kernel, compiled now if this machine has not done so before; None where that is not possible."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return None
    try:
        return Kernel(_cached(compiler))
    except subprocess.SubprocessError:
        return None
    except OSError:  # it cannot be kept, or what was kept is broken: compile it for this process alone
        pass
    with tempfile.TemporaryDirectory() as work:
        try:
            return Kernel(_compile(compiler, Path(work)))
        except (OSError, subprocess.SubprocessError):
            return None


def _cached(compiler: str) -> Path:
    """The library in the user's cache. Its name ends in its own hash: a call into a damaged one ends the process."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hone"
    name = f"kernel-{_fingerprint(compiler)}"
    for library in folder.glob(f"{name}-*.so"):
        if library.name == f"{name}-{_hash(library.read_bytes())}.so":
            return library
        library.unlink()
    with tempfile.TemporaryDirectory() as work:
        content = _compile(compiler, Path(work)).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{name}-{_hash(content)}.so"
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(file.name).replace(library)


def _compile(compiler: str, folder: Path) -> Path:
    library = folder / "kernel.so"
    command = [compiler, *FLAGS, "-o", str(library), str(SOURCE), "-lm"]
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILING_SECONDS)
    return library


def _fingerprint(compiler: str) -> str:
    """What the compiled file depends on: source, flags, compiler and processor."""
    about = subprocess.run([compiler, "--version"], capture_output=True, timeout=COMPILING_SECONDS, check=False).stdout
    parts = (SOURCE.read_bytes(), " ".join(FLAGS).encode(), about, _processor())
    return _hash(b"\0".join(parts))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _processor() -> bytes:
    """The processor's model and abilities."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return " ".join(platform.uname()).encode()
    telling = (b"model name", b"flags", b"Features", b"CPU part")
    return b"\n".join(dict.fromkeys(line for line in lines if line.startswith(telling)))
