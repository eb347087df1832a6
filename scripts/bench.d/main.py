"""Runs the comparison: the same network first, then every side in turn, several rounds; prints and keeps a report."""
import argparse
import datetime
import hashlib
import json
import os
import statistics
import sys
import time

import torch

import others
import sides
from network import VARIANTS

CLOSE = 1e-6  # of losses, relative; equal networks are 1e-7 off, a wrong normalisation 4e-6, a wrong gradient 1e-3
PAIRS = ("stock", "tuned")
PARTS = ("column", "pair", "checkpoint", "others")
IDLE = 0.05   # share of the cores that may be busy before a round


def say(text):
    print(text, file=sys.stderr, flush=True)


def same(torch_side, check, rounds):
    """The largest relative difference of each side's losses from the pinned ones; Failed if one is too large. Pairs
    are held to the pinned losses; a column alone, whose other half is made up, to the stock column alone. What does not
    compile on this machine is no side of the rounds."""
    if not os.path.exists(check):
        say("drawing the initial weights of the pinned steps")
        sides.output([sys.executable, os.path.join(sides.HERE, "check.py"), check])
    wanted = torch.load(check)["losses"]
    found = {}

    def hold(name, losses, against):
        found[name] = max(abs(a - b) / abs(b) for a, b in zip(losses, against, strict=True))
        say(f"  {name}: {found[name]:.1e} off")
        if not found[name] <= CLOSE:
            raise sides.Failed(f"{name} is another network: losses {losses}, not {against}")

    for variant in PAIRS:
        for rank, r in enumerate(torch_side.pair(variant, "--check", check)):
            hold(f"PyTorch {variant}, pair, column {rank}", r["losses"], wanted)
    stock = torch_side.alone("stock", "--check", check)["losses"]
    for name, variant in VARIANTS.items():
        if name == "stock":
            continue
        try:
            alone = torch_side.alone(name, "--check", check)["losses"]
        except sides.Failed as err:
            if not variant.compiled:
                raise
            rounds.failed[f"PyTorch {name}"] = str(err)
            say(f"  PyTorch {name} does not run: {err}")
            continue
        hold(f"PyTorch {name}, alone, against stock", alone, stock)
    for name, off in others.agrees().items():
        found["ours: " + name] = off
        say(f"  ours: {name}: {off:.1e} off")
    return found


def busy():
    """The share of this machine's cores in use during a second in which we use none."""
    def read():
        with open("/proc/stat") as f:
            ticks = [int(v) for v in f.readline().split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]

    (a, idle), _ = read(), time.sleep(1)
    b, after = read()
    return 1 - (after - idle) / max(b - a, 1)


class Rounds:
    """What was measured, by side and round."""

    def __init__(self):
        self.values, self.raw, self.failed = {}, {}, {}

    def measure(self, name, run, value, keep=True):
        """Runs a side once and keeps the number that value makes of its result."""
        if name in self.failed:
            return
        try:
            result = run()
        except sides.Failed as err:
            self.failed[name] = str(err)
            say(f"  {name} FAILED: {err}")
            return
        if not keep:
            return
        self.raw.setdefault(name, []).append(result)
        self.values.setdefault(name, []).append(value(result))

    def median(self, name):
        return statistics.median(self.values[name]) if name in self.values else None

    def ratio(self, a, b):
        """a / b: the median of the rounds', their least and their most; None if one is missing."""
        if a not in self.values or b not in self.values:
            return None
        each = [x / y for x, y in zip(self.values[a], self.values[b])]
        return statistics.median(each), min(each), max(each)


def columns(a, torch_side, cores, rounds):
    """Has one column of every side train on one core, a step of each in turn: rounds.values has the images a second of
    every turn."""
    def start(name, process):
        if name not in rounds.failed:
            turns.add(name, process())

    turns, last = sides.Turns(), cores[-1:]
    steps = ("--batch", a.batch, "--steps", a.turns)
    try:
        for v in VARIANTS:
            start(f"PyTorch {v}", lambda v=v: torch_side.start(cores[-1], v, *steps, "--paced"))
        for name, on, threads in (("ours", last, 1), ("ours, 2 threads", cores, 2)):
            command = sides.bench(on, a.batch, a.turns, threads, "--alone", "--paced")
            start(name, lambda command=command: sides.piped(command))
        for turn in range(a.turns + 1):
            say(f"  turn {turn} of {a.turns}" + (", which does not count" if turn == 0 else ""))
            names = [n for n in turns.processes if n not in rounds.failed]
            for name in names if turn % 2 == 1 else reversed(names):
                rounds.measure(name, lambda: turns.step(name), lambda seconds: a.batch / seconds, keep=turn > 0)
    finally:
        turns.close()


def plan(a, torch_side, cores):
    """The sides of a round of pairs: name, what runs it, what its figure is."""
    def speed(r):
        return a.batch / statistics.median(r["steps"])

    pair = [(f"pair: PyTorch {v}", lambda v=v: torch_side.pair(v, "--batch", a.batch, "--steps", a.steps),
             lambda rs: min(map(speed, rs))) for v in PAIRS]
    return pair + [
        ("pair: ours", lambda: sides.pair(cores, a.batch, a.windows), lambda r: r["images_per_second"]),
        ("pair: ours, one worker", lambda: sides.ours(cores, a.batch, a.steps, threads=2), speed)]


def spread(r, digits=2):
    return "failed" if r is None else f"{r[0]:.{digits}f} ({r[1]:.{digits}f}-{r[2]:.{digits}f})"


def report(a, head, found, loads, rounds, extra):
    """The report in Markdown."""
    lines = [f"# scripts/bench, {head['date']}", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "date"]
    lines += [f"- batch {a.batch}; columns take turns, a step of each, {a.turns} times; pairs {a.rounds} times",
              "- medians, and (least-most) over the turns",
              "- cores busy before the rounds: " + ", ".join(f"{100 * v:.0f} %" for v in loads)]
    if max(loads, default=0) > IDLE:
        lines.append("- **This machine was not idle: the figures are not to be relied on.**")
    if a.quick:
        lines.append("- **--quick: shows that it works, not how fast.**")
    lines += ["", "The same network: losses from the same weights, relative difference", ""]
    lines += [f"- {k}: {v:.1e}" for k, v in found.items()]
    for title, ours, goals in (
            ("One column, one core", "ours", {"PyTorch tuned": 2.2, "PyTorch stock": 4.5}),
            ("Pair of columns, two cores, with exchange", "pair: ours", {"pair: PyTorch tuned": 2.0,
                                                                       "pair: PyTorch stock": 4.0})):
        names = [n for n in list(rounds.values) + list(rounds.failed)
                 if n.startswith("pair: ") == ours.startswith("pair: ")]
        if not names:
            continue
        lines += ["", f"## {title}", "", "| side | images/s | ours is faster by | goal |", "|---|---|---|---|"]
        for n in names:
            if n in rounds.failed:
                lines.append(f"| {n} | failed | | |")
                continue
            v = rounds.values[n]
            by = spread(rounds.ratio(ours, n)) if "PyTorch" in n else ""
            goal = f">= {goals[n]}" if n in goals else ""
            lines.append(f"| {n} | {spread((rounds.median(n), min(v), max(v)), 1)} | {by} | {goal} |")
    lines += ["", "## Else", "", "| | | goal |", "|---|---|---|"] + [f"| {' | '.join(row)} |" for row in extra]
    for n, why in rounds.failed.items():
        lines += ["", f"{n} failed:", "", "    " + why.replace("\n", "\n    ")]
    return "\n".join(lines) + "\n"


def derived(rounds):
    """Rows about our own sides."""
    rows = []
    if r := rounds.ratio("ours, 2 threads", "ours"):
        rows.append(("one column: two threads on two cores against one", spread(r), ">= 1.8"))
    if r := rounds.ratio("pair: ours, one worker", "pair: ours"):
        rows.append(("two columns in one worker against two workers", spread(r), ">= 0.95"))
    if runs := rounds.raw.get("pair: ours"):
        waits = [100 * r["waiting"] for r in runs]
        rows.append((f"share of the step spent waiting for the exchange ({runs[0]['carrier']})",
                     spread((statistics.median(waits), min(waits), max(waits))) + " %", "<= 1 %"))
    return rows


def saving(r):
    """Rows of what sides.checkpoints measured: the mean over its turns, and that mean's standard error."""
    costs = [100 * (w / o - 1) for w, o in zip(r["with"], r["without"])]
    error = statistics.stdev(costs) / len(costs) ** 0.5 if len(costs) > 1 else float("inf")
    # The step behind a snapshot holds the trainer's wait for it.
    stands = statistics.median(r["first"]) - r["median"]
    return [(f"a checkpoint every 10 steps, 0.5 GB in two cells: slower by (mean of {len(costs)} turns, and its error)",
             f"{statistics.mean(costs):.1f} ± {error:.1f} %; median {statistics.median(costs):.1f} %", "<= 1 %"),
            ("of that, the step behind the snapshot takes longer by", f"{1000 * stands:.0f} ms", "")]


def elsewhere(cores):
    """Rows by Go benchmarks."""
    say("other figures: exchange, restore, input")
    carriers = others.exchange(cores)
    return [("all messages of a step at batch 128, by carrier",
             ", ".join(f"{k} {v:.1f} ms" for k, v in carriers.items()), ""),
            ("restore and verify 0.5 GB in two cells, cold cache", f"{others.restore(cores):.2f} s", "<= 0.5 s"),
            ("pack to augmented input, 256x256 colour, one core",
             f"{others.images(cores[-1]):.0f} images/s", ">= 6000")]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--jemalloc", required=True)
    p.add_argument("--rounds", type=int, default=0)
    p.add_argument("--batch", type=int, default=0)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--only", type=lambda s: s.split(","), default=list(PARTS))
    a = p.parse_args()
    for part in a.only:
        if part not in PARTS:
            p.error(f"--only {part}: there is {', '.join(PARTS)}")
    a.rounds = a.rounds or (1 if a.quick else 3)
    a.batch = a.batch or (32 if a.quick else 128)
    a.turns, a.steps, a.windows = (2, 3, 1) if a.quick else (4 * a.rounds, 7, 2)
    a.saves = 1 if a.quick else 4 * a.rounds
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.makedirs(sides.DATA, exist_ok=True)
    torch_side = sides.Torch(VARIANTS, a.jemalloc, cores)
    now = datetime.datetime.now().astimezone()
    rounds, loads, found, extra = Rounds(), [], {}, []
    try:
        if "column" in a.only or "pair" in a.only:
            say("is it the same network?")
            with open(os.path.join(sides.ROOT, "worker/train/testdata/torch.json"), "rb") as f:
                digest = hashlib.sha256(f.read()).hexdigest()[:12]
            found = same(torch_side, os.path.join(sides.DATA, f"pinned-{digest}.pt"), rounds)
        if "pair" in a.only or "checkpoint" in a.only:
            sides.pack()
        for i in range(a.rounds):
            loads.append(busy())
            say(f"round {i + 1} of {a.rounds}; {100 * loads[-1]:.0f} % of the cores are busy with something else")
            if loads[-1] > IDLE:
                say("WARNING: this machine is not idle; the figures are not to be relied on")
            if "column" in a.only and i == 0:
                columns(a, torch_side, cores, rounds)
            each = plan(a, torch_side, cores) if "pair" in a.only else []
            for side in each if i % 2 == 0 else reversed(each):
                say(f"  {side[0]}")
                rounds.measure(*side)
        extra = derived(rounds)
        if "checkpoint" in a.only:
            say(f"checkpoints, {a.saves} turns of 20 steps")
            raw = sides.checkpoints(cores, a.batch, a.saves)
            rounds.raw["checkpoints"] = [raw]
            extra += saving(raw)
        extra += elsewhere(cores) if "others" in a.only else []
    except sides.Failed as err:
        sys.exit(f"scripts/bench: {err}")
    head = {"date": now.isoformat(timespec="minutes"), **others.versions(torch, a.jemalloc)}
    text = report(a, head, found, loads, rounds, extra)
    base = os.path.join(sides.DATA, now.strftime("%Y%m%d-%H%M%S"))
    with open(base + ".md", "w") as f:
        f.write(text)
    with open(base + ".json", "w") as f:
        json.dump({"head": head, "batch": a.batch, "same": found, "busy": loads, "figures": rounds.values,
                   "runs": rounds.raw, "failed": rounds.failed, "else": extra}, f, indent=1)
    print(text)
    say(f"kept in {base}.md and .json")
    sys.exit(bool(rounds.failed))


if __name__ == "__main__":
    main()
