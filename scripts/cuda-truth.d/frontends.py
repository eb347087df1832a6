"""The kernels by two more compilers, NVRTC and nvcc, on the emulated driver: the bits of every op must be those of the
images that ship. It finds what one compiler makes of a mistake in a source, and what the emulator makes of instructions
that clang does not use."""

import ctypes
import os
import re

from tools import ROOT, Check, call, read

SOURCES = os.path.join(ROOT, "cudakern/cuda/kernels")
# GPU that an image is for, by letter, as NVRTC of CUDA 12 and nvcc of CUDA 13 can be asked for it.
TARGETS = {"A": {"NVRTC": 70, "nvcc": 75}, "B": {"NVRTC": 80, "nvcc": 80}}
# Contraction is off: where a multiply-add is meant, it is written so.
OPTIONS = ["--fmad=false", "-std=c++17", f"-I{SOURCES}"]


def nvrtc(place, arch, out):
    """Compiles by the library that programs compile with at run time; what it has against the source, if anything."""
    library = ctypes.CDLL(place.wheel("cuda_nvrtc/lib/libnvrtc.so.12"))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source = read(os.path.join(SOURCES, "kernels.cu")).encode()
    options = [o.encode() for o in [f"--gpu-architecture=compute_{arch}", *OPTIONS]]
    library.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None)
    status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    get = ("PTX", library.nvrtcGetPTXSize, library.nvrtcGetPTX) if status == 0 else (
        "log", library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog)
    get[1](program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value + 1)
    get[2](program, text)
    if status:
        return (re.findall(r"error: .*", text.value.decode()) or [f"status {status}"])[0]
    with open(out, "wb") as f:
        f.write(text.value)
    return None


def nvcc(place, arch, out):
    """Compiles by the toolkit's compiler, to PTX."""
    path = place.wheel("cu13/bin/nvcc")
    done = call(path, "-ptx", f"-arch=compute_{arch}", *OPTIONS, os.path.join(SOURCES, "kernels.cu"), "-o", out)
    if done.returncode:
        return (re.findall(r"error: .*|error.*", done.stdout) or done.stdout.strip().splitlines() or ["fails"])[0]
    return None


def run(place, emulator):
    checks = []
    for letter in place.images():
        for name, compiler in (("NVRTC", nvrtc), ("nvcc", nvcc)):
            arch = TARGETS[letter][name]
            ptx = os.path.join(place.out, f"{letter}.{name}.ptx")
            version = "12.9" if name == "NVRTC" else "13.5"
            what = f"image {letter} by {name} {version} (compute_{arch}) gives the bits of the one that ships"
            error = compiler(place, arch, ptx)
            if error:
                checks.append(Check(what, False, error))
                continue
            checks.append(compare(what, emulator, ptx, arch))
    return checks


def compare(what, emulator, ptx, capability):
    """Every case of the conformance suite on both images, on emulated GPUs of the capability that the other is for: the
    same image of ours is taken there."""
    done = call("go", "test", "-count=1", "-v", "-timeout", "20m", "-run", "^TestSameBits$",
                "./scripts/cuda-truth.d/frontends", timeout=1300, env={
                    **os.environ, "COLONNADE_LIBCUDA": os.path.join(emulator, "libcuda.so.1"),
                    "COLONNADE_LIBNVML": os.path.join(emulator, "libnvidia-ml.so.1"), "CUDAEMU_CC": str(capability),
                    "CUDAEMU_DRIVER": "13050", "COLONNADE_TRUTH_PTX": ptx})
    if done.returncode == 0 and "--- PASS: TestSameBits" in done.stdout:
        return Check(what, True, "all cases of the conformance suite")
    lines = [line.strip() for line in done.stdout.splitlines()
             if re.match(r"\s+\w+_test\.go:|cudaemu|panic:|#|.*error", line)]
    return Check(what, False, (lines or done.stdout.strip().splitlines() or ["no output"])[0][:300])
