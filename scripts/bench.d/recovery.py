"""How long training stands still when a worker is killed, beside PyTorch's trainers that survive it, and what the loss
of the leader of the coordinators does. Prints and keeps a report."""
import argparse
import datetime
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile

import torch

import others
import peers
import sides
from main import IDLE, busy, say

OURS = {
    "spare": ("ours, a warm spare", "median <= 0.2, p95 <= 0.4"),
    "restart": ("ours, the process is started again", "median <= 0.2, p95 <= 0.4"),
    "fewer": ("ours, no spare: the other worker takes over", "<= 1"),
    "machine": ("ours, the machine is lost: from copies on another", "<= 1"),
    "alexnet": ("ours, full-size alexnet, batch 32, a warm spare", "<= 0.5 + a step of {step:.2f}"),
}
PEERS = {
    "torchrun": "torchrun, default",
    "torchrun-store": "torchrun, each attempt with a store of its own",
    "forked": "torchrun's agent, workers forked from a warm process",
    "torchft": "torchft, min_replicas 2 of 2, tuned",
}


def quantile(values, q):
    values = sorted(values)
    return values[max(0, math.ceil(q * len(values)) - 1)]


def figures(kills, key="seconds"):
    v = [k[key] for k in kills]
    return f"{statistics.median(v):.2f} | {quantile(v, 0.95):.2f} | {max(v):.2f} | {len(v)}"


def slowest(kind, r):
    """The longest time between steps, stretch by stretch."""
    gaps = [1000 * g for g in (r["quiet"] if kind == "quiet" else [k["gap"] for k in r["kills"]])]
    step = 1000 * r["step_seconds"]
    slow = sum(g > 1.5 * step for g in gaps)
    return (f"{statistics.median(gaps):.0f} | {quantile(gaps, 0.95):.0f} | {max(gaps):.0f} | {len(gaps)} | "
            f"{slow} over {1.5 * step:.0f}")


def row(name, kills, failed, same, goal=""):
    if not kills:
        return f"| {name} | - | - | - | 0{failed} | | | {goal} |"
    lost = [k["lost"] for k in kills]
    again = f"{statistics.median(lost):.0f} ({max(lost)})"
    return f"| {name} | {figures(kills)}{failed} | {again} | {same} | {goal} |"


def ours(a, directory):
    command = [os.path.join(sides.ROOT, "bin/recovery"), "--dir", directory, "--kills", str(a.kills), "--every",
               str(a.apart), "--limit", f"{a.limit}s", "--programs", os.path.join(sides.ROOT, "bin"), "--only", a.ours]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        out, _ = p.communicate()
    except (Ended, KeyboardInterrupt):
        p.terminate()  # it tells what it has
        out, _ = p.communicate(timeout=60)
        a.peers = ""
    if p.returncode:
        sys.exit("scripts/bench: our side of the recovery could not be measured; see above")
    return json.loads(out)


def table(mine, theirs):
    lines = ["## SIGKILL of a worker", "",
             "| | median, s | p95 | most | n | finished steps done again, median (most) | same bits | goal, s |",
             "|---|---|---|---|---|---|---|---|"]
    want = mine.get("undisturbed", {}).get("digest")
    for key, (name, goal) in OURS.items():
        if r := mine.get(key):
            same = {True: "yes", False: "**no**"}[r.get("digest") == want] if r.get("digest") and want else "?"
            failed = f", then failed: {r['failed']}" if r.get("failed") else ""
            if r.get("skipped"):
                failed += f" ({r['skipped']})"
            if key == "alexnet":
                same = ""  # another network's
            lines.append(row(name, r["kills"] or [], failed, same, goal.format(step=r["step_seconds"])))
    for key, name in PEERS.items():
        if r := theirs.get(key):
            if "why" in r:
                lines.append(f"| {name} | not measured: {r['why']} | | | | | | |")
                continue
            same = {True: "yes", False: "**no**", None: "?"}[r.get("same")]
            failed = f"; {len(r['failed'])} not recovered" if r["failed"] else ""
            lines.append(row(name, r["kills"], failed, same))
    lines += leader(mine) + hangs(mine) + costs(mine)
    best = min((statistics.median(k["seconds"] for k in r["kills"]) for r in theirs.values() if r.get("kills")),
               default=None)
    fast = [statistics.median(k["seconds"] for k in mine[k]["kills"]) for k in ("spare", "restart")
            if mine.get(k, {}).get("kills")]
    if best and fast:
        lines += ["", f"The fastest peer takes {best / max(fast):.1f} times as long as the slower of ours with a spare "
                  "or a restart."]
    return lines


def leader(mine):
    r = mine.get("leader")
    if not r or not r["kills"]:
        return []
    same = r.get("digest") or "not waited for"  # it is twice as long as the others
    lines = ["", "## SIGKILL of the coordinator that leads three", "", "| | median | p95 | most | n | goal |",
             "|---|---|---|---|---|---|", f"| to the next acknowledged write, s | {figures(r['kills'])} | p99 <= 0.5 |"]
    name = f"longest time between two steps, ms (a step: {1000 * r['step_seconds']:.0f}), "
    lines.append(f"| {name} while the leader dies | {slowest('gap', r)} |")
    lines.append(f"| the same, in as long a stretch before | {slowest('quiet', r)} |")
    if (u := mine.get("undisturbed")) and u.get("quiet"):
        lines.append(f"| the same, of one coordinator that nothing happens to | {slowest('quiet', u)} |")
    ms = {k: 1000 * statistics.median(x[k] for x in r["kills"])
          for k in r["kills"][0] if k.startswith(("control", "work"))}
    return lines + ["", f"The job's digest: {same}. Processor time in such a stretch, ms, medians, before and while "
                    f"the leader dies: the other coordinators {ms['control_seconds_before']:.0f} and "
                    f"{ms['control_seconds']:.0f}, workers {ms['workers_seconds_before']:.0f} and "
                    f"{ms['workers_seconds']:.0f}."]


def hangs(mine):
    lines = []
    for key, name in (("stopped", "stopped (SIGSTOP)"), ("stuck", "a thread is stuck in its computing")):
        if (r := mine.get(key)) and r["kills"]:
            named = sum(bool(k.get("named")) and k["seconds"] <= 2 for k in r["kills"])
            lines.append(f"| {name} | {figures(r['kills'])} | {named} |")
    if not lines:
        return []
    return ["", "## A worker that hangs is named", "",
            "| | median, s | p95 | most | n | within 2 s, with worker, device, cell, phase, step and who waits |",
            "|---|---|---|---|---|---|", *lines]


def costs(mine):
    r = mine.get("cost")
    if not r or not r.get("cost"):
        return []
    lines = ["", "## What it costs in an undisturbed step (two workers as on two hosts, gRPC; turns of 0.3 s)", "",
             "| with | a step, ms | more, % | workers' processor in a step, ms | more, % | coordinators' processor, "
             "cores | goal |", "|---|---|---|---|---|---|---|"]
    for i, c in enumerate(r["cost"]):
        more, work = (f"{100 * c[k]:+.1f} ± {100 * c[k + '_standard_error']:.1f}" if i else ""
                      for k in ("more", "work_more"))
        lines.append(f"| {c['name']} | {1000 * c['step_seconds']:.1f} | {more} | {1000 * c['work_seconds']:.1f} | "
                     f"{work} | {c['coordinators_cores']:.3f} | {'<= 1 %' if i else ''} |")
    return lines


class Ended(Exception):
    """Somebody wants this to end."""


def ended(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and timeout sends it twice
    raise Ended("ended by a signal")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--kills", type=int, default=50, help="of each kind of ours")
    p.add_argument("--peer-kills", type=int, default=10, help="of each peer")
    p.add_argument("--apart", type=int, default=40, help="steps between kills")
    p.add_argument("--ours", default="undisturbed,spare,restart,fewer,machine,leader,stopped,stuck,alexnet,cost")
    p.add_argument("--limit", type=int, default=3600, help="seconds for the kills of one kind; then there are fewer")
    p.add_argument("--peers", default="torchrun,torchrun-store,forked,torchft")
    a = p.parse_args()
    signal.signal(signal.SIGTERM, ended)  # so that what was started is ended, and what was measured is told
    os.makedirs(sides.DATA, exist_ok=True)
    now = datetime.datetime.now().astimezone()
    load = busy()
    if load > IDLE:
        say(f"WARNING: {100 * load:.0f} % of the cores are busy; the figures are not to be relied on")
    peers.APART = a.apart
    directory = tempfile.mkdtemp(prefix="recovery-", dir=sides.DATA)
    mine = ours(a, directory) if a.ours else {}
    theirs = {}
    for key in [k for k in a.peers.split(",") if k]:
        if key not in PEERS:
            p.error(f"--peers {key}: there is {', '.join(PEERS)}")
        say(f"  {PEERS[key]}")
        probe = [sys.executable, "-c", "import torchft"]
        if key == "torchft" and subprocess.run(probe, capture_output=True).returncode:
            theirs[key] = {"why": "torchft is not installed"}
            continue
        try:
            theirs[key] = peers.measure(key, directory, a.peer_kills, say, a.limit)
        except sides.Failed as err:
            theirs[key] = {"why": str(err)}
        except (Ended, KeyboardInterrupt) as err:
            theirs[key] = {"why": str(err) or "interrupted"}
            break
    head = {"date": now.isoformat(timespec="minutes"), **others.versions(torch, "-"),
            "busy before": f"{100 * load:.0f} %"}
    lines = [f"# scripts/bench recovery, {head['date']}", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "date"]
    lines += ["- alexnet-32, batch 32, two workers with a thread each; ours splits layers in two columns, the others "
              "the batch, since none of them splits layers; all save every ten steps",
              "- seconds from the SIGKILL to the next step that was not finished before"]
    if load > IDLE:
        lines.append("- **This machine was not idle: the figures are not to be relied on.**")
    text = "\n".join(lines + [""] + table(mine, theirs)) + "\n"
    base = os.path.join(sides.DATA, "recovery-" + now.strftime("%Y%m%d-%H%M%S"))
    with open(base + ".md", "w") as f:
        f.write(text)
    with open(base + ".json", "w") as f:
        json.dump({"head": head, "ours": mine, "peers": theirs}, f, indent=1)
    print(text)
    say(f"kept in {base}.md and .json; logs in {directory}")
    sys.exit(any(r.get("failed") for r in mine.values()))


if __name__ == "__main__":
    main()
