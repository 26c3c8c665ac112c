"""The kernels' C interface by itself, as another program uses it: versions, older callers, refusals, threads of the caller."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_build import ROOT, run
from native_library import ISAS, built, random_integers

from ovround.runtime.engines.native import library as native_library
from ovround.tensors import native_layout as layout
from ovround.tensors.qtensor import QTensor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test builds
OK, INVALID = 0, 1
HEADER = ROOT / "runtime" / "native" / "include" / "ovround" / "kernels.h"
Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
Run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)


class IntegerWeight(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("bits", ctypes.c_int64), ("codes", ctypes.c_void_p), ("scales", ctypes.c_void_p),
        ("zero_points", ctypes.c_void_p), ("one_zero_point", ctypes.c_int64), ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64), ("groups", ctypes.c_int64), ("blocks", ctypes.c_int64), ("minimums", ctypes.c_void_p),
    ]  # fmt: skip


class Product(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("x", ctypes.c_void_p), ("tokens", ctypes.c_int64), ("exact", ctypes.c_int64),
        ("isa", ctypes.c_char_p), ("run", ctypes.c_void_p), ("threads", ctypes.c_void_p),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    return native_library.load_kernels(built() / native_library.KERNELS)


class Call:
    """A weight of 4 bits, 3 rows of inputs, and the structures that state them."""

    def __init__(self) -> None:
        self.weight: QTensor = random_integers(4, (70, 256), 64, symmetric=True)
        self.x = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
        self.y = np.zeros((3, 70), np.float32)
        self.parts = (
            layout.pack_integers(self.weight.codes, 4),
            layout.halves_as_bytes(layout.pack_qparams(self.weight.scales)),
            np.array([8], np.uint8),
        )
        pointers = [part.ctypes.data for part in self.parts]
        self.stated = IntegerWeight(ctypes.sizeof(IntegerWeight), 4, *pointers, 1, 70, 256, 4, 0, None)
        self.product = Product(ctypes.sizeof(Product), self.x.ctypes.data, 3, 1, None, None, None)

    def result(self, kernels: ctypes.CDLL) -> int:
        outputs = (ctypes.c_void_p * 1)(self.y.ctypes.data)
        status: int = kernels.ovround_integer_products(
            ctypes.byref(self.stated), ctypes.c_int64(1), ctypes.byref(self.product), outputs
        )
        return status

    def error(self) -> float:
        expected = self.x.astype(np.float64) @ self.weight.dequantize().astype(np.float64).T
        return float(np.abs(self.y - expected).max() / np.abs(expected).max())


def test_the_calling_thread_computes_where_no_other_is_given(kernels: ctypes.CDLL) -> None:
    call = Call()
    assert call.result(kernels) == OK
    assert call.error() < 2e-6


def test_the_callers_threads_get_every_task_once(kernels: ctypes.CDLL) -> None:
    call, tasks = Call(), []

    def run_tasks(threads: int, count: int, task: int, context: int) -> None:
        for index in reversed(range(count)):
            tasks.append(index)
            Task(task)(context, index)

    held = Run(run_tasks)
    call.product.run = ctypes.cast(held, ctypes.c_void_p)
    assert call.result(kernels) == OK
    assert call.error() < 2e-6
    assert tasks == [1, 0]  # 70 rows are two tasks of 64


def test_a_caller_of_an_older_header_is_understood(kernels: ctypes.CDLL) -> None:
    call = Call()
    call.stated.size = IntegerWeight.blocks.offset  # without `blocks` and `minimums`, whose bytes are something else
    call.stated.blocks, call.stated.minimums = 77, 1
    call.product.size = Product.isa.offset
    call.product.isa = b"something else"
    assert call.result(kernels) == OK
    assert call.error() < 2e-6


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        ("stated", "bits", 7), ("stated", "bits", 5), ("stated", "outputs", 0), ("stated", "inputs", -1), ("stated", "groups", 0),
        ("product", "tokens", -1), ("product", "isa", b"avx1024"),
    ],
)  # fmt: skip
def test_what_the_library_does_not_have_is_refused(kernels: ctypes.CDLL, where: str, field: str, value: Any) -> None:
    call = Call()
    setattr(getattr(call, where), field, value)
    assert call.result(kernels) == INVALID
    assert not call.y.any()


def test_it_states_its_version_and_this_processor(kernels: ctypes.CDLL) -> None:
    assert kernels.ovround_kernels_version() == native_library.INTERFACE
    best = native_library.instruction_set(built() / "any")
    assert best in ISAS
    assert [isa for isa in ISAS if kernels.ovround_kernels_has(isa.encode())][-1] in (best, "avx512vbmi", "avx512")
    assert kernels.ovround_kernels_has(b"") == kernels.ovround_kernels_has(None) == 0
    assert native_library.is_faster(built() / "any") == (best in ("amx", "avx512vbmi", "avxvnni"))


def test_an_older_library_is_an_error(kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "INTERFACE", native_library.INTERFACE + 1)
    with pytest.raises(OSError, match=r"has interface 1; 2 is needed"):
        native_library.load_kernels(built() / "any")


def test_the_header_is_c_and_names_no_engine(tmp_path: Path) -> None:
    text = HEADER.read_text().lower()
    assert "openvino" not in text
    assert "onnx" not in text
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    source = tmp_path / "use.c"
    source.write_text(
        "#include <ovround/kernels.h>\n#include <stdio.h>\nint main(void) { ovround_product call = {sizeof call};\n"
        'printf("%d %s %zu", ovround_kernels_version(), ovround_kernels_isa(), call.size); return 0; }\n'
    )
    library = built() / native_library.KERNELS
    flags = ("-std=c99", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror")
    done = run(
        "cc", *flags, f"-I{HEADER.parents[1]}", source, library, f"-Wl,-rpath,{library.parent}", "-o", tmp_path / "use"
    )
    assert done.returncode == 0, done.stderr
    assert run(tmp_path / "use").stdout == f"1 {native_library.instruction_set(library)} {ctypes.sizeof(Product)}"
