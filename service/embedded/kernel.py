"""`kernel.c`, compiled for this very processor when an engine first starts, and matrices in the form that it takes.

No compiler, or one that fails: the engine computes with torch alone, which is slower and gives the same answers.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from service.embedded.arguments import COMPILERS

SOURCE = Path(__file__).with_name("kernel.c")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-shared", "-fPIC")
COMPILING_SECONDS = 120


@dataclass(frozen=True, eq=False)
class Panels:
    """A matrix `(in, out)` cut into panels of columns: `blocks` `(panels, in, panel_width)`, zeros after the last."""

    blocks: Tensor
    out: int
    kernel: "Kernel"

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes

    @property
    def shape(self) -> tuple[int, int]:
        return self.blocks.shape[1], self.out

    def dense(self) -> Tensor:
        """The matrix `(in, out)` as it was packed."""
        return self.blocks.transpose(0, 1).flatten(1)[:, : self.out].contiguous()


Weight = Tensor | Panels
"""One matrix `(in, out)`, as torch takes it or as the kernel does."""


def multiply(x: Tensor, matrix: Weight, out: Tensor | None = None) -> Tensor:
    """`x @ matrix`, `(n, out)`, written to `out` if that is given."""
    if not isinstance(matrix, Panels):
        return torch.mm(x, matrix, out=out)
    y = x.new_empty(len(x), matrix.out) if out is None else out
    matrix.kernel.multiply(x.contiguous(), matrix, y, add=False)
    return y


def multiply_onto(residual: Tensor, x: Tensor, matrix: Weight) -> Tensor:
    """`residual + x @ matrix`; may write into `residual`."""
    if not isinstance(matrix, Panels):
        return torch.addmm(residual, x, matrix)
    matrix.kernel.multiply(x.contiguous(), matrix, residual, add=True)
    return residual


def dense(matrix: Weight) -> Tensor:
    """A matrix as torch takes it."""
    return matrix.dense() if isinstance(matrix, Panels) else matrix


class Kernel:
    """The compiled functions."""

    def __init__(self, library: Path) -> None:
        self.functions = ctypes.CDLL(str(library))  # calls let go of Python's lock
        self.functions.panel_width.restype = ctypes.c_int64
        self.functions.scratch_size.restype = ctypes.c_int64
        self.panel_width: int = self.functions.panel_width()

    def pack(self, matrix: Tensor) -> Panels:
        """`matrix` `(in, out)`, float32, in panels."""
        rows, out = matrix.shape
        padded = torch.nn.functional.pad(matrix, (0, -out % self.panel_width))
        return Panels(padded.view(rows, -1, self.panel_width).transpose(0, 1).contiguous(), out, self)

    def multiply(self, x: Tensor, matrix: Panels, y: Tensor, add: bool) -> None:
        """`y = x @ matrix`, or `y +=`; all contiguous and float32."""
        size = ctypes.c_int64
        self.functions.multiply(
            address(x), address(matrix.blocks), address(y), size(len(x)), size(x.shape[1]), size(matrix.out),
            ctypes.c_int(add),
        )  # fmt: skip


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers are; NULL for none."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of pointers. It does not keep the tensors alive."""
    return (ctypes.c_void_p * len(tensors))(*(address(tensor) for tensor in tensors))


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
