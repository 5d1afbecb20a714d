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
from enum import IntEnum
from pathlib import Path

import torch
from torch import Tensor

from service.embedded.arguments import COMPILERS

SOURCE = Path(__file__).with_name("kernel.c")
INCLUDED = [SOURCE.with_name(name) for name in ("amx.h", "crew.h", "layer.h", "products.h", "sampling.h", "vectors.h")]
FLAGS = (
    "-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-shared", "-fPIC", "-pthread",
    "--param=avoid-fma-max-bits=0",  # else a lone row may be rounded otherwise than a row among others
)  # fmt: skip
COMPILING_SECONDS = 120


TILE_DEPTH, TILE_COLUMNS = 32, 16  # of a matrix in one tile of `amx.h`
TILES_ABREAST = 2  # in a panel


class Form(IntEnum):
    """How a matrix is kept, as `products.h` says."""

    FLOATS = 0
    HALVES = 1
    TILES = 2


class _Matrix(ctypes.Structure):
    """`Matrix` of products.h."""

    _fields_ = (("panels", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("out", "vectors", "form")))


class Panels:
    """A matrix `(in, out)` cut into panels of columns, as the kernel takes it. `kept` holds its numbers."""

    def __init__(self, kept: Tensor, out: int, vectors: int, form: Form) -> None:
        self.kept = kept.contiguous()
        self.form = form
        self._matrix = _Matrix(self.kept.data_ptr(), out, vectors, form)
        self.address = ctypes.addressof(self._matrix)

    @property
    def nbytes(self) -> int:
        return self.kept.nbytes


Weight = Tensor | Panels
"""One matrix `(in, out)`, as torch takes it or as the kernel does."""


_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "lanes": (_SIZE, []),
    "vectors": (_SIZE, []),
    "takes_tiles": (_SIZE, []),
    "product_scratch": (_SIZE, [_SIZE]),
    "multiply": (None, [*[_POINTER] * 3, *[_SIZE] * 3, ctypes.c_int, _POINTER]),
    "sampling_scratch": (_SIZE, [_SIZE, _POINTER]),
    "sample": (_SIZE, [*[_POINTER] * 3, *[_SIZE] * 2, *[_POINTER] * 4]),
    "crew_start": (_POINTER, [_SIZE]),
    "crew_end": (None, [_POINTER]),
    "scratch_size": (_SIZE, [*[_POINTER] * 2, *[_SIZE] * 3, _POINTER]),
    "forward": (
        None,
        [*[_POINTER] * 2, _SIZE, _POINTER, _SIZE, *[_POINTER] * 3, _SIZE, _POINTER, _SIZE, *[_POINTER] * 3],
    ),
}
"""What each function of kernel.c returns, and what it takes."""


class Kernel:
    """The compiled functions."""

    def __init__(self, library: Path) -> None:
        self.functions = ctypes.CDLL(str(library))  # calls let go of Python's lock
        for name, (returns, takes) in _FUNCTIONS.items():
            function = getattr(self.functions, name)
            function.restype, function.argtypes = returns, takes
        self.lanes: int = self.functions.lanes()
        self.vectors: int = self.functions.vectors()
        self.takes_tiles = bool(self.functions.takes_tiles())

    def pack(self, matrix: Tensor) -> Panels:
        """`matrix` `(in, out)`, float32, in panels; in half the space where all its numbers are bfloat16."""
        rows, out = matrix.shape
        if 2 * out <= self.vectors * self.lanes:
            return Panels(self._cut(matrix, 1), out, 1, Form.FLOATS)
        if not torch.equal(matrix, matrix.bfloat16().float()):
            return Panels(self._cut(matrix, self.vectors), out, self.vectors, Form.FLOATS)
        if self.takes_tiles and rows % TILE_DEPTH == 0:
            return Panels(_tiles(matrix.bfloat16()), out, 0, Form.TILES)
        pairs = self._cut(matrix.bfloat16(), self.vectors).unflatten(2, (-1, 2)).transpose(3, 4)
        low_half_first = pairs if sys.byteorder == "little" else pairs.flip(4)  # (panels, in, pairs, lanes, 2)
        return Panels(low_half_first, out, self.vectors, Form.HALVES)

    def _cut(self, matrix: Tensor, vectors: int) -> Tensor:
        """`(panels, in, vectors, lanes)`"""
        padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % (vectors * self.lanes)))
        return padded.view(len(matrix), -1, vectors, self.lanes).transpose(0, 1)

    def multiply(self, x: Tensor, matrix: Panels, y: Tensor, add: bool) -> None:
        """`y = x @ matrix`, or `y +=`; all contiguous and float32."""
        rows, inner = x.shape
        scratch = torch.empty(self.functions.product_scratch(inner))
        self.functions.multiply(
            x.data_ptr(), matrix.address, y.data_ptr(), y.shape[1], rows, inner, add, scratch.data_ptr()
        )


def _tiles(matrix: Tensor) -> Tensor:
    """`matrix` `(in, out)` as `(panels, in / depth, tiles abreast, depth / 2, columns, 2)`."""
    padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % (TILES_ABREAST * TILE_COLUMNS)))
    cut = padded.view(
        -1, TILE_DEPTH // 2, 2, padded.shape[1] // TILE_COLUMNS // TILES_ABREAST, TILES_ABREAST, TILE_COLUMNS
    )
    return cut.permute(3, 0, 4, 1, 5, 2)


def addresses(items: Sequence[Tensor | Panels | None]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of pointers, NULL for None. It does not keep what they point to alive."""
    return (ctypes.c_void_p * len(items))(
        *(item.address if isinstance(item, Panels) else None if item is None else item.data_ptr() for item in items)
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
    sources = (file.read_bytes() for file in (SOURCE, *INCLUDED))
    parts = (*sources, " ".join(FLAGS).encode(), about, _processor())
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
