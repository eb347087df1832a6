"""NVIDIA's assembler takes both images for every GPU from Volta on, without a spill."""

import concurrent.futures
import hashlib
import os
import re

from tools import IMAGES, Check, call, read


STRICT = ("-Werror", "-warn-spills", "-warn-lmem-usage")


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
    """Assembles an image; its kernels, or what the assembler has against it. What it said of the same image before, it
    need not say again."""
    ptxas, out = place.wheel("cuda_nvcc/bin/ptxas"), cubin(place, letter, arch, name)
    command = [ptxas, "-v", "-O3", f"-arch=sm_{arch}", *options, place.image(letter), "-o", out]
    key = hashlib.sha256("\0".join([*command, read(place.image(letter))]).encode()).hexdigest()
    log = out + ".log"
    if os.path.exists(out) and os.path.exists(log) and read(log).startswith(key):
        return parse(read(log)), None
    if os.path.exists(log):
        os.remove(log)  # it speaks of the cubin that is about to be written over
    done = call(*command)
    if done.returncode == 0:
        with open(log, "w", encoding="utf-8") as f:
            f.write(f"{key}\n{done.stdout}")
        return parse(done.stdout), None
    errors = [line for line in done.stdout.splitlines() if "error" in line or "warning" in line]
    return {}, (errors or done.stdout.strip().splitlines() or ["no reason given"])[0]


def run(place, only=None):
    """Checks, and what is known of the kernels: {image: {kernel: {arch: figures}}}; only: these GPUs, None for all."""
    archs = {letter: [a for a in IMAGES[letter][1] if not only or a in only] for letter in place.images()}
    jobs = [(letter, arch) for letter in archs for arch in archs[letter]]
    kernels = {letter: {} for letter in place.images()}
    refused = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for (letter, arch), (found, error) in zip(jobs, pool.map(lambda job: assemble(place, *job, *STRICT), jobs)):
            if error:
                refused.append(f"image {letter} for sm_{arch}: {error}")
            for name, figures in found.items():
                kernels[letter].setdefault(name, {})[arch] = figures
    checks = []
    for letter, by_name in kernels.items():
        mine = [r for r in refused if r.startswith(f"image {letter} ")]
        gpus = ", ".join(f"sm_{a}" for a in archs[letter])
        checks.append(Check(f"ptxas 12.9 takes image {letter} for {gpus}, warnings and spills being errors", not mine,
                            "; ".join(mine) or f"{len(by_name)} kernels"))
    if not kernels:
        checks.append(Check("ptxas 12.9 takes the images", False, f"no kernels in {place.ptx}"))
    return checks, kernels
