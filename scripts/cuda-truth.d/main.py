#!/usr/bin/env python3
"""Holds the CUDA device against NVIDIA's tools and drivers and prints one report; see scripts/cuda-truth."""

import argparse
import dataclasses
import datetime
import json
import os
import sys
import time

import assemble
import drivers
import frontends
import header
import planted
import sass
from tools import Failed, Place, table


def kernel_table(kernels, loops):
    """A row for each kernel of each image: registers by GPU, shared memory, spills, and its main loop."""
    archs = sorted({arch for by_name in kernels.values() for by_arch in by_name.values() for arch in by_arch})
    head = (["kernel", "image"] + [f"sm_{a}" for a in archs] + ["shared", "spills"] +
            [f"FFMA sm_{a}" for a in sass.GPUS] + ["bound"])
    rows = []
    for letter, by_name in kernels.items():
        for name, by_arch in sorted(by_name.items()):
            mine = loops.get(letter, {}).get(name, {})
            rows.append([name, letter] + [by_arch[a]["registers"] if a in by_arch else None for a in archs] +
                        [max(f["shared"] for f in by_arch.values()), sum(f["spills"] for f in by_arch.values())] +
                        [loop_cell(mine.get(a)) for a in sass.GPUS] + [bound_cell(mine)])
    return table(head, rows)


def loop_cell(loop):
    if not loop:
        return ""
    what, n = ("HMMA", loop.hmma) if loop.hmma else ("", loop.ffma)
    return f"{n}/{loop.instructions} {what or f'{100 * loop.share:.1f} %'}".strip()


def bound_cell(by_arch):
    """What issuing and shared memory leave of the peak, the less of the two, on each GPU."""
    return ", ".join(f"{100 * min(loop.issue_bound(a), loop.shared_bound(a)):.0f} %"
                     for a, loop in by_arch.items() if loop.ffma)


def report(when, checks, kernels, loops):
    lines = [f"# scripts/cuda-truth, {when}", "",
             "No GPU took part. Registers are by the assembler; FFMA is the share of multiply-adds in the main loop on "
             "sm_80 and sm_90; the bound is the part of a multiprocessor's peak that issuing and shared memory leave "
             "there.", ""]
    lines += table(("what", "holds", "found"), [c.row() for c in checks])
    if kernels:
        lines += ["", *kernel_table(kernels, loops)]
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--place", required=True)
    p.add_argument("--only", required=True, type=lambda s: s.split(","))
    p.add_argument("--ptx", default="cudakern/cuda/kernels")
    p.add_argument("--gpus", type=lambda s: [int(a) for a in s.split(",")])
    p.add_argument("--json")
    p.add_argument("--emulator")
    p.add_argument("--worker")
    a = p.parse_args()
    place = Place(os.path.abspath(a.place), os.path.abspath(a.ptx))
    checks, kernels, loops, seconds = [], {}, {}, {}
    try:
        for part in a.only:
            began = time.monotonic()
            print(f"cuda-truth: {part}", file=sys.stderr, flush=True)
            if part == "ptxas":
                found, kernels = assemble.run(place, a.gpus)
            elif part == "sass":
                found, loops = sass.run(place)
            elif part == "header":
                found = header.run(place)
            elif part == "drivers":
                found = drivers.run(place, a.worker)
            elif part == "planted":
                found = planted.run(place)
            else:
                found = frontends.run(place, a.emulator)
            checks += found
            seconds[part] = round(time.monotonic() - began, 1)
    except Failed as err:
        sys.exit(f"cuda-truth: {err}")
    when = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    text = report(when, checks, kernels, loops)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"date": when, "seconds": seconds, "checks": [dataclasses.asdict(c) for c in checks],
                       "kernels": kernels,
                       "loops": {letter: {name: {arch: dataclasses.asdict(loop) for arch, loop in by_arch.items()}
                                          for name, by_arch in names.items()} for letter, names in loops.items()}},
                      f, indent=1)
    print(text)
    print("cuda-truth: " + ", ".join(f"{part} {s} s" for part, s in seconds.items()), file=sys.stderr)
    sys.exit(any(c.good is False for c in checks))


if __name__ == "__main__":
    main()
