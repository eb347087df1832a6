"""Faults planted in the image and in the header: each check of this directory finds the one that it is for."""

import os
import re
import shutil
import tempfile

import assemble
import drivers
import header
import sass
from tools import IMAGES, Check, Failed, Place, read

KERNEL = "conv_forward_128x128"


def alone(ptx, kernel):
    """The image with one kernel only: assembling all of them for a fault in one would take minutes."""
    entry = re.compile(r"^\.visible \.entry (\w+)\(.*?^\}\n", re.M | re.S)
    if kernel not in entry.findall(ptx):
        raise Failed(f"no kernel {kernel} in image A; name another in scripts/cuda-truth.d/planted.py")
    return entry.sub(lambda m: m[0] if m[1] == kernel else "", ptx)


FMA = re.compile(r"fma\.rn\.f32\s+(%\w+), (\S+), (\S+), (%\w+);")


def split(rounding):
    """A fault: every multiply-add as two instructions, of which the assembler may make one if they are not rounded."""
    def plant(ptx):
        parted = FMA.sub(lambda m: f"mul{rounding}.f32 %planted, {m[2]}, {m[3]};\n\t"
                                   f"add{rounding}.f32 {m[1]}, %planted, {m[4]};", ptx)
        return re.sub(r"^\{\n", "{\n\t.reg .f32 %planted;\n", parted, count=1, flags=re.M)
    return plant


def crowded(ptx):
    """A fault: so many blocks to a multiprocessor that registers do not suffice."""
    return re.sub(r"\.minnctapersm \d+", ".minnctapersm 7", ptx)


def newer(ptx):
    """A fault: PTX of a version that the drivers do not know."""
    return re.sub(r"^\.version .*$", ".version 9.5", ptx, flags=re.M)


def found(checks, word):
    return any(c.good is False and word in c.what for c in checks)


def images(place):
    """Faults in the image, with whether the check that is for them found them."""
    sound = alone(read(place.image("A")), KERNEL)
    faults = {
        "nothing": (lambda ptx: ptx, lambda p: all(c.good for c in assemble.run(p, [80])[0] + sass.run(p)[0])),
        "too few registers": (crowded, lambda p: found(assemble.run(p, [80])[0], "ptxas")),
        "arithmetic without rounding": (split(""), lambda p: found(sass.run(p)[0], "names its rounding")),
        "arithmetic that gets fused": (split(""), lambda p: found(sass.run(p)[0], "leave to fuse")),
        "rounded arithmetic, which must not get fused": (
            split(".rn"),
            lambda p: not found(sass.run(p)[0], "leave to fuse") and found(sass.run(p)[0], "are multiply-adds")),
    }
    for suite in drivers.SUITES:
        try:
            jit = drivers.library(drivers.fetch(place, suite), "libnvidia-ptxjitcompiler.so.1")
        except LookupError:
            continue
        faults[f"PTX newer than the driver of {suite}"] = (
            newer, lambda p, jit=jit: drivers.alone("compiled", jit, p.image("A"), "80")["80"]["status"] != 0)
    for name, (plant, seen) in faults.items():
        with tempfile.TemporaryDirectory() as directory:
            for letter, text in (("A", plant(sound)), ("B", "")):
                with open(os.path.join(directory, IMAGES[letter][0]), "w", encoding="utf-8") as f:
                    f.write(text)
            scratch = Place(place.root, directory, "planted")
            yield name, (plant(sound) != sound or name == "nothing") and seen(scratch)


def headers(place):
    """The same for the header."""
    sound = read(header.OURS)
    for name, old, new in (("a value", "CU_EVENT_INTERPROCESS = 4", "CU_EVENT_INTERPROCESS = 8"),
                           ("the order of fields", "size_t srcPitch, srcHeight;", "size_t srcHeight, srcPitch;"),
                           ("a symbol", "cuMemFree cuMemFree_v2", "cuMemFree cuMemFree"),
                           ("a type", "cuEventElapsedTime(float *", "cuEventElapsedTime(double *")):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "cuda.h")
            with open(path, "w", encoding="utf-8") as f:
                f.write(sound.replace(old, new))
            yield f"header: {name}", old in sound and found(header.run(place, path), "cuda.h")


def run(place):
    scratch = Place(place.root, place.ptx, "planted").out
    results = [*images(place), *headers(place)]
    shutil.rmtree(scratch, ignore_errors=True)
    missed = [name for name, seen in results if not seen]
    return [Check("faults planted in the image and the header are found", not missed,
                  "not: " + ", ".join(missed) if missed else f"{len(results)} of {len(results)}: " +
                  ", ".join(name for name, _ in results))]
