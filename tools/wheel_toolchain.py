"""Compilers for libraries that run on old systems: glibc 2.28 and the C++ library of GCC 8, which manylinux_2_28 allows.

    python tools/wheel_toolchain.py FOLDER      writes FOLDER/cc and FOLDER/c++

zig (`pip install ziglang`) is Clang with the interface of every glibc. Its own C++ library is not the one of OpenVINO's interface,
so the system's libstdc++ is used, as the manylinux images do: what GCC 8 has comes from the libstdc++.so.6 of the system that runs
the library, what is newer from the static library of this one. A stub, made here, states what GCC 8 has. g++ links.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

GLIBC = "2.28"
# The newest versions of symbols that manylinux_2_28 allows.
NEWEST = {"GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11)}
_SYMBOL = re.compile(
    r"^[0-9a-f]* ?(?P<kind>[A-Za-z]) (?P<name>[^@ ]+)@@(?P<version>(?P<set>[A-Z]+)_(?P<number>[0-9.]+))$"
)
# glibc 2.32 and later say whether a process has one thread; with older ones it may always have several.
_SINGLE_THREADED_H = 'extern "C" const char __libc_single_threaded;\n'
_SINGLE_THREADED_C = '__attribute__((visibility("hidden"))) const char __libc_single_threaded = 0;\n'
_SYSTEM = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2")


def write_toolchain(folder: Path) -> None:
    """Write the compilers to `folder`; exits with a message where g++ or binutils are missing."""
    for program in ("g++", "nm"):
        if shutil.which(program) is None:
            sys.exit(f"error: there is no {program}, which the wheel is built with\nhint: apt install g++ binutils")
    headers = folder / "include" / "sys"
    headers.mkdir(parents=True, exist_ok=True)
    (headers / "single_threaded.h").write_text(_SINGLE_THREADED_H)
    source, module = folder / "single_threaded.c", folder / "single_threaded.o"
    source.write_text(_SINGLE_THREADED_C)
    cache = shlex.quote(str(folder / "zig"))
    zig = f"ZIG_GLOBAL_CACHE_DIR={cache} exec {shlex.join([sys.executable, '-m', 'ziglang'])}"
    options = f"-target x86_64-linux-gnu.{GLIBC} -fno-sanitize=all"
    _write_script(folder / "cc", f'{zig} cc {options} "$@"')
    _output(str(folder / "cc"), "-fPIC", "-O2", "-c", str(source), "-o", str(module))
    includes = shlex.join(f"-I{path}" for path in (headers.parent, *_header_folders()))
    compiler = f'{zig} c++ {options} -nostdinc++ {includes} "$@"'
    linker = shlex.join([str(shutil.which("g++")), "-nodefaultlibs"])
    libraries = shlex.join(_libraries(folder, module))
    # CMake compiles and links a program at once to see what compiler this is; everything else is one or the other.
    _write_script(
        folder / "c++",
        f"""single=
for word; do case "$word" in
-c|-E|-M|-MM|-fsyntax-only) {compiler} ;;
-v|--version|-dumpversion|*.c|*.cpp) single=yes ;;
esac; done
[ -z "$single" ] || {zig} c++ {options} -nostdlib++ "$@"
exec {linker} "$@" {libraries}""",
    )


def _libraries(folder: Path, module: Path) -> list[str]:
    """What g++ links: the stub and the static rest of the C++ library, glibc's interface of zig, the compiler's own library."""
    probe = folder / "probe.c"
    probe.write_text("int probe(void) { return 0; }\n")
    _output(
        str(folder / "cc"), "-shared", "-fPIC", str(probe), "-o", str(folder / "probe.so"), "-lm", "-lpthread", "-ldl"
    )
    made = folder / "zig" / "o"
    (libc,) = {path.parent for path in made.glob("*/libc.so.6")}
    (nonshared,) = made.glob("*/libc_nonshared.a")
    names = ("libstdc++.so", "libstdc++.a", "libgcc_s.so.1", "libgcc.a")
    found = {name: _output("g++", f"-print-file-name={name}").strip() for name in names}
    stub = _write_stub(folder, Path(found["libstdc++.so"]).resolve())
    return [
        "-Wl,--no-as-needed", str(stub), "-Wl,--as-needed", "-Wl,--exclude-libs,ALL", found["libstdc++.a"], str(module),
        *(str(libc / name) for name in _SYSTEM), str(nonshared), found["libgcc_s.so.1"], found["libgcc.a"],
    ]  # fmt: skip


def _header_folders() -> list[str]:
    """The folders of g++'s C++ headers."""
    command = [str(shutil.which("g++")), "-E", "-v", "-x", "c++", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    listed = done.stderr.partition("#include <...> search starts here:")[2].partition("End of search list")[0]
    return [line.strip() for line in listed.splitlines() if "/c++/" in line]


def _write_stub(folder: Path, library: Path) -> Path:
    """A shared library with the symbols of `library` that manylinux_2_28 allows; it is linked to, and never loaded."""
    versions: dict[str, list[str]] = {}
    lines = [".text"]
    for text in _output("nm", "-D", "--defined-only", "--with-symbol-versions", str(library)).splitlines():
        symbol = _SYMBOL.match(text)
        if symbol is None or symbol["kind"] == "A":
            continue
        number = tuple(map(int, symbol["number"].split(".")))
        if number <= NEWEST.get(symbol["set"], ()):
            name = symbol["name"]
            versions.setdefault(symbol["version"], []).append(name)
            kind = "@function" if symbol["kind"] in "TWi" else "@object"
            lines.append(f".globl {name}\n.type {name}, {kind}\n{name}: .skip 8\n.size {name}, 8")
    (folder / "stub.s").write_text("\n".join([*lines, '.section .note.GNU-stack,"",@progbits', ""]))
    script = [
        f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};\n" for version, names in versions.items()
    ]
    (folder / "stub.map").write_text("".join(script))
    stub = folder / "libstdc++.so.6"
    _output(
        "g++", "-shared", "-nostdlib", "-Wl,-soname,libstdc++.so.6", f"-Wl,--version-script={folder / 'stub.map'}",
        "-o", str(stub), str(folder / "stub.s"),
    )  # fmt: skip
    return stub


def _write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _output(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {shlex.join(words)}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    write_toolchain(Path(sys.argv[1]).resolve())
