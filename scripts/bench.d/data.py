"""How fast JPEGs become a pack, beside what torchvision's ImageFolder decodes of the same files in the same run, and
that packing which is killed three times on the way comes to the same identity. Prints and keeps a report."""
import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import PIL
import torch
import torchvision

KILLS = (0.3, 0.6, 0.85)  # parts of the pixels that have been written when packing is killed
BATCH = 256


class Failed(Exception):
    """Ends the bench with one line."""


def unpack(archive, to):
    """Unpacks an archive of images; its own splits become one tree of classes."""
    if archive.suffix == ".zst":
        with subprocess.Popen(["zstd", "-dc", archive], stdout=subprocess.PIPE) as p:
            with tarfile.open(fileobj=p.stdout, mode="r|") as t:
                t.extractall(to, filter="data")
    else:
        with tarfile.open(archive) as t:
            t.extractall(to, filter="data")


def merged(tree, to):
    """Hard links of all JPEGs as CLASS/SPLIT-NAME, whatever splits they come in; returns how many there are."""
    count = 0
    for path in sorted(tree.rglob("*.jp*g")):
        target = to / path.parent.name / f"{path.parent.parent.name}-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)
        count += 1
    return count


def packing(worker, images, out):
    return [worker, "data", "pack", "--from", images, "--out", out, "--json"]


def pack(worker, images, out):
    """Packs from nothing; returns seconds and identity."""
    began = time.monotonic()
    done = subprocess.run(packing(worker, images, out), capture_output=True, text=True)
    took = time.monotonic() - began
    if done.returncode:
        raise Failed(done.stderr.strip())
    out.unlink()
    return took, json.loads(done.stdout)["id"]


def killed(worker, images, out, total):
    """Packs and kills it by SIGKILL whenever so much has been written; returns what each run but the first found done,
    and the identity."""
    written = out.with_name(out.name + ".pixels.tmp")
    found = []
    for part in KILLS:
        p = subprocess.Popen(packing(worker, images, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while p.poll() is None and (not written.exists() or written.stat().st_size < part * total):
            time.sleep(0.002)
        if p.poll() is not None:
            raise Failed(f"packing ended before it could be killed at {part:.0%}: {p.stderr.read().strip()}")
        p.send_signal(signal.SIGKILL)
        found.append(resumed(p.communicate()[1]))
        if out.exists():
            raise Failed("a pack that is not whole has the final name")
    done = subprocess.run(packing(worker, images, out), capture_output=True, text=True)
    if done.returncode:
        raise Failed(done.stderr.strip())
    found.append(resumed(done.stderr))
    left = [p.name for p in out.parent.iterdir() if p != out]
    if left:
        raise Failed(f"left behind: {left}")
    out.unlink()
    return found[1:], json.loads(done.stdout)["id"]


def resumed(text):
    """How many images a run did not have to pack again, by what it printed."""
    m = re.search(r"going on after (\d+) of", text)
    return int(m[1]) if m else 0


def folder(images, processes):
    """Decodes all images once by ImageFolder; returns seconds, without those to list the files."""
    data = torchvision.datasets.ImageFolder(images, transform=torchvision.transforms.PILToTensor())
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=processes)
    began = time.monotonic()
    seen = sum(len(labels) for _, labels in loader)
    took = time.monotonic() - began
    if seen != len(data):
        raise Failed(f"ImageFolder gave {seen} of {len(data)} images")
    return took


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--images", type=pathlib.Path, required=True)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--worker", action="append", required=True, metavar="NAME=PROGRAM")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path(".data/bench"))
    a = p.parse_args()
    workers = dict(w.split("=", 1) for w in a.worker)
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="colonnade-bench-") as work:
        work = pathlib.Path(work)
        source = a.images
        if not source.is_dir():
            source = work / "source"
            unpack(a.images, source)
        images = work / "images"
        count = merged(source, images)
        if count == 0:
            raise Failed(f"no JPEG below {a.images}")
        with PIL.Image.open(next(images.rglob("*.jp*g"))) as first:
            total = count * first.width * first.height * 3
        out = work / "out" / "bench.pack"
        out.parent.mkdir()
        load = os.getloadavg()[0]
        seconds, ids = {}, {}
        for _ in range(a.rounds):  # every side once, so that all see the same machine
            for name, program in workers.items():
                took, ids[name] = pack(program, images, out)
                seconds.setdefault(name, []).append(took)
            seconds.setdefault("ImageFolder", []).append(folder(images, cores))
        kills = {name: killed(program, images, out, total) for name, program in workers.items()}
        report(a.out, count, cores, load, seconds, ids, kills)
        if any(kills[name][1] != ids[name] for name in workers):
            raise Failed("packing that was killed came to another identity")
        shutil.rmtree(work / "images")


def report(where, count, cores, load, seconds, ids, kills):
    """Prints what came out and keeps it."""
    rate = {name: count / statistics.median(s) for name, s in seconds.items()}
    now = datetime.datetime.now().astimezone()
    lines = [f"# {count} JPEGs, {now:%Y-%m-%d %H:%M}", "",
             f"{cores} cores, load {load:.1f} before; medians of {len(seconds['ImageFolder'])} rounds in which every "
             "side ran once; page cache warm. ImageFolder with a DataLoader of as many processes as cores, batches of "
             f"{BATCH}, PILToTensor; torchvision {torchvision.__version__}, Pillow {PIL.__version__}, torch "
             f"{torch.__version__}.", "", "| | images/s | seconds | to ImageFolder | killed three times |",
             "|---|---|---|---|---|"]
    for name, r in rate.items():
        after = ""
        if name in kills:
            found, identity = kills[name]
            same = "the same identity" if identity == ids[name] else "ANOTHER IDENTITY"
            after = f"{len(found)} kills, {same}; went on after {', '.join(map(str, found))} images"
        runs = ", ".join(f"{s:.1f}" for s in seconds[name])
        lines.append(f"| {name} | {r:,.0f} | {runs} | {r / rate['ImageFolder']:.2f} | {after} |")
    text = "\n".join(lines) + "\n"
    print(text)
    where.mkdir(parents=True, exist_ok=True)
    at = where / f"data-{now:%Y%m%dT%H%M}"
    at.with_suffix(".md").write_text(text)
    at.with_suffix(".json").write_text(json.dumps({"images": count, "cores": cores, "load": load, "seconds": seconds,
                                                   "identities": ids, "kills": kills}, indent=1))


if __name__ == "__main__":
    try:
        main()
    except (Failed, OSError, tarfile.TarError) as e:
        sys.exit(f"bench data: {e}")
