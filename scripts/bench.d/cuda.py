#!/usr/bin/env python3
"""What a training step of a column must take on two GPUs at least, from what the kernels execute on the emulated
driver: every op of the step runs once, in full size, and its instructions and bytes are set against what the GPUs can
do. It is a bound and no measurement; see scripts/DESIGN.md."""

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, ".data", "bench")
WARP = 32
SECTOR = 32  # bytes
ISSUE = 4  # instructions of warps that a multiprocessor starts in a clock

# Classes of PTX that the assembler has one instruction for at least; others (moves, integers, comparisons) it may fold
# into addresses and predicates.
LASTING = ("ffma", "float", "special", "ld.global", "st.global", "ld.shared", "st.shared", "atomic", "cp.async",
           "shuffle")


@dataclasses.dataclass(frozen=True)
class GPU:
    """What its maker says of a GPU at its boost clock."""

    name: str
    capability: int
    processors: int  # multiprocessors
    lanes: int  # float32 multiply-adds that one starts in a clock
    clock: float  # Hz
    memory: float  # bytes a second
    shared: int = 128  # bytes of shared memory that a multiprocessor moves in a clock

    @property
    def peak(self):
        return 2 * self.processors * self.lanes * self.clock


GPUS = (GPU("A100", 80, 108, 64, 1.41e9, 1.555e12), GPU("H100", 90, 132, 128, 1.98e9, 3.35e12))

# Published times of a training step of AlexNet at batch 128, float32, on one GPU by cuDNN.
PUBLISHED = (
    ("cuDNN R4 in Torch, Titan X (Maxwell)", 81.0, 6.7e12,
     "github.com/soumith/convnet-benchmarks: 27 ms forward, 53 ms backward; the one-tower AlexNet of "
     "\"One weird trick\", 128x3x224x224, without dropout, softmax and update"),
)


@dataclasses.dataclass
class Launch:
    """All launches of a kernel in one shape, in one pass."""

    kernel: str
    blocks: int  # of one launch
    launches: int
    ffma: float  # instructions of warps
    float: float  # other arithmetic in float32, which the same units do
    issued: float  # all instructions but moves, which the assembler does away with
    lasting: float  # those of them that it cannot do away with
    lanes: float  # multiply-adds of lanes that take part
    moved: float  # bytes of global memory: in whole sectors where they were counted, else as asked for
    asked: float  # bytes of it that instructions ask for
    passes: float  # of shared memory: 128 bytes without a conflict
    smooth: float  # passes if no two words that are read at once were in one bank

    def seconds(self, gpu):
        """The least time on a GPU, by what takes it: {"arithmetic": s, "issue": s, "shared memory": s}. Blocks are
        dealt out evenly, so the multiprocessor that has most of them sets the time."""
        per = self.launches * self.blocks
        most = -(-self.blocks // gpu.processors) * self.launches / gpu.clock
        return {"arithmetic": (self.ffma + self.float) / per * WARP / gpu.lanes * most,
                "issue": self.lasting / per / ISSUE * most,
                "shared memory": self.passes / per * 128 / gpu.shared * most}


def asked(tally):
    """Bytes of global memory that instructions ask for."""
    return sum(tally["bytes"].get(name, 0) for name in ("ld.global", "st.global", "cp.async"))


def moved(tally):
    """Bytes between a multiprocessor and the rest: sectors if the emulator counted them, else what instructions ask."""
    return SECTOR * (tally["sectors_loaded"] + tally["sectors_stored"]) or asked(tally)


def launches(counts, times):
    """What a pass executes, `times` that of its counts: they may be of fewer images than the step has."""
    out = []
    for kernel, shapes in counts.items():
        for tally in shapes.values():
            warp = tally["warp"]
            get = lambda name: warp.get(name, 0) * times
            n = tally["launches"]
            out.append(Launch(kernel, round(tally["blocks"] / n * times), n, get("ffma"), get("float"),
                              sum(warp.values()) * times - get("move"), sum(map(get, LASTING)),
                              tally["thread"].get("ffma", 0) * times,
                              moved(tally) * times, asked(tally) * times, tally["shared_passes"] * times,
                              tally["shared_passes_ideal"] * times))
    return out


@dataclasses.dataclass
class Pass:
    """One op of the step in one direction, and what it executes."""

    layer: str
    name: str
    times: int
    macs: int
    bytes: int  # of operands
    launches: list

    def total(self, what):
        return sum(getattr(launch, what) for launch in self.launches)

    def bound(self, gpu):
        """(seconds, what takes them): kernels one after another, each as fast as the scarcest thing lets it; and all of
        them no faster than memory moves the operands once."""
        by = {}
        for launch in self.launches:
            what, seconds = max(launch.seconds(gpu).items(), key=lambda item: item[1])
            by[what] = by.get(what, 0) + seconds
        seconds, memory = sum(by.values()), self.bytes / gpu.memory
        if memory >= seconds:
            return memory, "memory"
        return seconds, max(by, key=by.get)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Failed(Exception):
    """What ends the run, in a line."""


def run(command, **more):
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise Failed(f"{' '.join(command[:4])}: status {done.returncode}: {lines[-1]}")
    return done.stdout


def counted(program, emulator, options, index, directory):
    """Runs one pass on the emulated driver, with so many images; its counts by kernel and shape."""
    path = os.path.join(directory, f"{index}.json")
    env = {**os.environ, "COLONNADE_LIBCUDA": os.path.join(emulator, "libcuda.so.1"), "CUDAEMU_CC": "80",
           "COLONNADE_LIBNVML": os.path.join(emulator, "libnvidia-ml.so.1"), "CUDAEMU_DEVICES": "1",
           "CUDAEMU_CHECK": "off", "CUDAEMU_MEMORY": str(8 << 30), "CUDAEMU_COUNTS": path, "CUDAEMU_COUNTS_DETAIL": "1"}
    run([program, "run", *options, str(index)], env=env)
    with open(path, encoding="utf-8") as f:
        counts = json.load(f)
    if not counts:
        raise Failed(f"pass {index} ran, and the emulated driver counted nothing of it")
    return counts


def less(counts, other):
    """Counts without those of a pass that was done first."""
    out = {}
    for kernel, shapes in counts.items():
        if left := {shape: tally for shape, tally in shapes.items() if shape not in other.get(kernel, {})}:
            out[kernel] = left
    return out


def measure(a):
    """All passes of the step with what they execute."""
    program = os.path.join(DATA, "passes")
    os.makedirs(DATA, exist_ok=True)
    run(["go", "build", "-o", program, "./scripts/bench.d/passes"], cwd=ROOT)
    options = lambda images: ["--network", a.network, "--columns", str(a.columns), "--batch", str(images)]
    listed = json.loads(run([program, "list", *options(a.batch)]))
    images = [a.images if p["image"] else a.batch for p in listed]
    began = datetime.datetime.now()
    with tempfile.TemporaryDirectory() as directory, concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        counts = list(pool.map(lambda i: counted(program, a.emulator, options(images[i]), i, directory),
                               range(len(listed))))
    say(f"{len(listed)} passes on the emulated driver: {datetime.datetime.now() - began}")
    first = {(p["layer"], p["pass"]): c for p, c in zip(listed, counts)}
    return [Pass(p["layer"], p["pass"], p["times"], p["macs"], p["bytes"],
                 launches(less(c, first[p["layer"], p["with"]]) if p["with"] else c, a.batch / n))
            for p, c, n in zip(listed, counts, images)], counts


def table(head, rows, left=1):
    marks = ("---" if i < left else "--:" for i in range(len(head)))
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(marks) + "|"]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def detail(passes):
    """A row for each pass."""
    rows = []
    for p in passes:
        issued = p.total("issued")
        row = [p.layer, p.name + (f" x{p.times}" if p.times > 1 else ""),
               ", ".join(f"{launch.kernel} {launch.blocks}" for launch in p.launches),
               f"{100 * p.total('ffma') / issued:.0f} %" if issued and p.macs else "",
               f"{100 * p.macs / p.total('lanes'):.0f} %" if p.macs and p.total("lanes") else "",
               f"{p.total('moved') / 1e6:.1f}", f"{p.bytes / 1e6:.1f}", f"{2 * p.macs / p.bytes:.0f}" if p.macs else ""]
        for gpu in GPUS:
            seconds, what = p.bound(gpu)
            row.append(f"{1e3 * seconds:.3f} {what}")
        rows.append(row)
    head = ["layer", "pass", "kernels, blocks", "FFMA", "useful", "MB moved", "MB of operands", "FLOP/byte"]
    return table(head + [f"{g.name}, ms at least" for g in GPUS], rows, left=3)


def layers(passes):
    """A row for each layer, and the step; and seconds of the step on each GPU."""
    order = list(dict.fromkeys(p.layer for p in passes))
    rows = [layer_row(name, [p for p in passes if p.layer == name]) for name in order]
    rows.append(["**step**", *layer_row("", passes)[1:]])
    head = ["layer", "FFMA", "G multiply-adds", "useful", "MB in sectors", "of them asked for", "MB of operands",
            "FLOP/byte of sectors", "of operands", "M shared passes", "of them conflicts"]
    head += [c for g in GPUS for c in (f"{g.name} (sm_{g.capability}), ms at least", "shared memory busy", "of peak")]
    return table(head, rows), [sum(p.times * p.bound(g)[0] for p in passes) for g in GPUS]


def layer_row(name, passes):
    """Sums over passes, as often as the step does them."""
    total = lambda what: sum(p.times * p.total(what) for p in passes)
    macs, operands = sum(p.times * p.macs for p in passes), sum(p.times * p.bytes for p in passes)
    share = lambda part, whole: f"{100 * part / whole:.0f} %" if whole else ""
    row = [name, share(total("ffma"), total("issued")) if macs else "", f"{macs / 1e9:.1f}" if macs else "",
           share(macs, total("lanes")) if macs else "", f"{total('moved') / 1e6:.0f}",
           share(total("asked"), total("moved")), f"{operands / 1e6:.0f}",
           f"{2 * macs / total('moved'):.0f}" if macs else "", f"{2 * macs / operands:.0f}" if macs else "",
           f"{total('passes') / 1e6:.2f}", share(total("passes") - total("smooth"), total("passes"))]
    for gpu in GPUS:
        seconds = sum(p.times * p.bound(gpu)[0] for p in passes)
        shared = sum(p.times * launch.seconds(gpu)["shared memory"] for p in passes for launch in p.launches)
        row += [f"{1e3 * seconds:.3f}", share(shared, seconds), share(2 * macs / gpu.peak, seconds) if macs else ""]
    return row


def step(a, totals):
    """What a step takes: our bound, and what was published, at the same share of a GPU's peak."""
    rows = []
    for gpu, seconds in zip(GPUS, totals):
        rows.append([f"{gpu.name} (sm_{gpu.capability}, {gpu.peak / 1e12:.1f} TFLOP/s, {gpu.memory / 1e12:.2f} TB/s)",
                     f"{1e3 * seconds:.2f}", f"{a.batch / seconds:,.0f}", f"{1e3 * a.columns * seconds:.2f}",
                     *(f"{ms * peak / gpu.peak:.1f}" for _, ms, peak, _ in PUBLISHED)])
    return table(["GPU", "bound: ms a step of a column", f"so images/s at most, on {a.columns}",
                  "bound: ms, all columns on one",
                  *(f"{name}, scaled by peak: ms, all on one" for name, *_ in PUBLISHED)], rows)


def report(a, passes):
    lines = [f"# scripts/bench cuda: {a.network}, column 1 of {a.columns}, batch {a.batch}", "",
             "**A bound, not a measurement: nothing of this ran on a GPU.** Each op ran once on the emulated driver, "
             "in full size. Its time is at least what its multiply-adds, its shared memory or its operands' bytes "
             "take; launches, latencies, caches and exchanges are left out." + (
                 f" What is done image by image was counted for {a.images} images and multiplied."
                 if a.images != a.batch else ""), ""]
    by_layer, totals = layers(passes)
    lines += by_layer + [""]
    lines += step(a, totals) + [""]
    for name, ms, _, source in PUBLISHED:
        lines.append(f"- {name}: {ms:.0f} ms measured ({source}). By the definition's count that is about all of its "
                     "peak, so some of its layers must be done by algorithms that multiply less; ours are not.")
    return "\n".join(lines + ["", "## By op", "", *detail(passes)]) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--emulator", required=True)
    p.add_argument("--network", default="alexnet")
    p.add_argument("--columns", type=int, default=2)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--images", type=int)
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    a = p.parse_args()
    a.images = min(a.images or 16, a.batch)
    if a.images < 1 or a.batch % a.images:
        p.error(f"--images {a.images} does not divide --batch {a.batch}")
    try:
        passes, counts = measure(a)
    except Failed as err:
        sys.exit(f"scripts/bench cuda: {err}")
    text = report(a, passes)
    base = os.path.join(DATA, "CUDA")
    with open(base + ".md", "w", encoding="utf-8") as f:
        f.write(text)
    with open(base + ".json", "w", encoding="utf-8") as f:
        json.dump([{"layer": p.layer, "pass": p.name, "times": p.times, "macs": p.macs, "bytes": p.bytes, "counts": c,
                    "seconds": {g.name: p.bound(g)[0] for g in GPUS}} for p, c in zip(passes, counts)], f, indent=1)
    print(text)
    say(f"kept in {base}.md and .json")


if __name__ == "__main__":
    main()
