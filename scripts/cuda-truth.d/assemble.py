"""NVIDIA's assembler takes both images for every GPU from Volta on, without a spill."""

import concurrent.futures
import os
import re

from tools import IMAGES, Check, call


def parse(log):
    """What `ptxas -v` says of each kernel: registers, static shared memory, stack and spills in bytes."""
    kernels, name = {}, None
    for line in log.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            name = m[1]
            kernels[name] = {"registers": 0, "shared": 0, "stack": 0, "spills": 0}
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernels[name] |= {"stack": int(m[1]), "spills": int(m[2]) + int(m[3])}
        elif m := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name] |= {"registers": int(m[1]), "shared": int(shared[1]) if shared else 0}
    return kernels


def cubin(place, letter, arch, name=""):
    return os.path.join(place.out, f"{letter}{name}.sm_{arch}.cubin")


def assemble(place, letter, arch, *options, name=""):
    """Assembles an image; its kernels, or what the assembler has against it."""
    done = call(place.wheel("cuda_nvcc/bin/ptxas"), "-v", "-O3", f"-arch=sm_{arch}", *options,
                place.image(letter), "-o", cubin(place, letter, arch, name))
    with open(cubin(place, letter, arch, name) + ".log", "w", encoding="utf-8") as f:
        f.write(done.stdout)
    if done.returncode == 0:
        return parse(done.stdout), None
    errors = [line for line in done.stdout.splitlines() if "error" in line or "warning" in line]
    return {}, (errors or done.stdout.strip().splitlines() or ["no reason given"])[0]


def run(place):
    """Checks, and what is known of the kernels: {image: {kernel: {arch: figures}}}."""
    jobs = [(letter, arch) for letter in place.images() for arch in IMAGES[letter][1]]
    kernels = {letter: {} for letter in place.images()}
    refused = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        options = ("-Werror", "-warn-spills", "-warn-lmem-usage")
        for (letter, arch), (found, error) in zip(jobs, pool.map(
                lambda job: assemble(place, *job, *options), jobs)):
            if error:
                refused.append(f"image {letter} for sm_{arch}: {error}")
            for name, figures in found.items():
                kernels[letter].setdefault(name, {})[arch] = figures
    checks = []
    for letter, by_name in kernels.items():
        mine = [r for r in refused if r.startswith(f"image {letter} ")]
        archs = ", ".join(f"sm_{a}" for a in IMAGES[letter][1])
        checks.append(Check(f"ptxas 12.9 takes image {letter} for {archs}, warnings and spills being errors", not mine,
                            "; ".join(mine) or f"{len(by_name)} kernels"))
    if not kernels:
        checks.append(Check("ptxas 12.9 takes the images", False, f"no kernels in {place.ptx}"))
    return checks, kernels
