"""The sides of the comparison, each run as processes of its own: PyTorch's programs and ours."""
import json
import os
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.join(ROOT, "scripts/bench.d")
DATA = os.path.join(ROOT, ".data/bench")
MALLOC = "thp:always,metadata_thp:auto,dirty_decay_ms:-1,muzzy_decay_ms:-1"  # keeps memory, in huge pages
WINDOW = 20  # steps over which workers report times of phases, behind the first


class Failed(Exception):
    """One side could not be measured."""


def pinned(core, *command):
    return ["taskset", "-c", core if isinstance(core, str) else str(core), *command]


def output(command, env=None, what=None):
    """What a command prints; its end on the error output if it fails."""
    p = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if p.returncode:
        raise Failed(f"{what or ' '.join(command)} failed:\n{(p.stdout + p.stderr)[-2000:]}")
    return p.stdout


def piped(command, env=None):
    """Starts a command whose input, output and errors are ours."""
    return subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


class Torch:
    """PyTorch's side. Every process has one thread and a core of its own."""

    def __init__(self, variants, jemalloc, cores):
        self.variants, self.jemalloc, self.cores = variants, jemalloc, cores

    def start(self, core, variant, *args):
        env = dict(os.environ, OMP_NUM_THREADS="1", TORCHINDUCTOR_CACHE_DIR=os.path.join(DATA, "inductor"))
        if self.variants[variant].jemalloc:
            env.update(LD_PRELOAD=self.jemalloc, MALLOC_CONF=MALLOC)
        command = pinned(core, sys.executable, os.path.join(HERE, "column.py"), "--variant", variant, *map(str, args))
        return piped(command, env)

    def results(self, *processes):
        out = []
        for p in processes:
            text, err = p.communicate()
            if p.returncode:
                for other in processes:
                    other.kill()
                raise Failed(f"PyTorch failed:\n{err[-2000:]}")
            out.append(json.loads(text.splitlines()[-1]))
        return out

    def alone(self, variant, *args):
        return self.results(self.start(self.cores[-1], variant, *args))[0]

    def pair(self, variant, *args):
        with tempfile.TemporaryDirectory() as d:
            meet = ("--meet", os.path.join(d, "meet"))
            return self.results(*(self.start(c, variant, *args, *meet, "--rank", k) for k, c in enumerate(self.cores)))


def bench(cores, batch, steps, threads, *args):
    """The command of `worker bench` on some cores."""
    return pinned(",".join(map(str, cores)), os.path.join(ROOT, "bin/worker"), "bench", "--network", "alexnet",
                  "--json", "--batch", str(batch), "--threads", str(threads), "--steps", str(steps), "--warmup", "1",
                  *args)


def ours(cores, batch, steps, threads):
    """Steps of two columns in one worker."""
    return json.loads(output(bench(cores, batch, steps, threads)))


class Turns:
    """Columns that take turns, a step each, so that what else the machine does meets all of them alike. All of them are
    in memory; whoever's turn it is not waits for a line."""

    def __init__(self):
        self.processes = {}

    def add(self, name, process):
        self.processes[name] = process

    def step(self, name):
        """Has a side do a step; its seconds."""
        p = self.processes[name]
        try:
            p.stdin.write("\n")
            p.stdin.flush()
            return float(p.stdout.readline())
        except (OSError, ValueError):
            p.kill()
            raise Failed(f"{name} failed:\n{p.communicate()[1][-2000:]}") from None

    def close(self):
        for p in self.processes.values():
            p.kill()
            p.communicate()


def picture(path, rng):
    """A synthetic 256x256 PNG: 32x32 random colours, magnified."""
    rows = bytearray()
    for _ in range(32):
        row = rng.integers(0, 256, (32, 1, 3), dtype="uint8").repeat(8, 1).tobytes()
        rows += (b"\0" + row) * 8

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 256, 8, 2, 0, 0, 0)) +
                chunk(b"IDAT", zlib.compress(bytes(rows), 1)) + chunk(b"IEND", b""))


def pack(images=512, classes=8):
    """The pack that the real system trains on, made once."""
    import numpy as np
    path = os.path.join(DATA, "synthetic.pack")
    if os.path.exists(path):
        return path
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(dir=DATA) as d:
        for i in range(images):
            os.makedirs(os.path.join(d, str(i % classes)), exist_ok=True)
            picture(os.path.join(d, str(i % classes), f"{i:04}.png"), rng)
        output([os.path.join(ROOT, "bin/worker"), "data", "pack", "--from", d, "--out", path])
    return path


class Cluster:
    """The real system: a coordinator and two workers, one core and one thread each, on a job."""

    def __init__(self, cores, directory, level="info"):
        self.dir, self.processes = directory, []
        log = self.start("coordinator", [os.path.join(ROOT, "bin/coordinator"), "start", "--data",
                                         os.path.join(directory, "coordinator"), "--listen", "127.0.0.1:0", "--http",
                                         "none"])
        self.address = self.wait(lambda: (re.findall(r"coordinator started.* listen=(\S+)", read(log)) or [""])[0], 60,
                                 "the coordinator to start")
        for k, core in enumerate(cores):
            self.start(f"worker-{k}", pinned(core, os.path.join(ROOT, "bin/worker"), "run", "--coordinator",
                                             self.address, "--threads", "1", "--name", f"worker-{k}", "--data",
                                             os.path.join(directory, f"worker-{k}"), "--checkpoints",
                                             os.path.join(directory, "checkpoints"), "--log-level", level))

    def start(self, name, command):
        log = os.path.join(self.dir, name + ".log")
        with open(log, "w") as f:
            self.processes.append(subprocess.Popen(command, stdout=f, stderr=f))
        return log

    def wait(self, ready, limit, what):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            for p in self.processes:
                if p.poll() is not None:
                    raise Failed(f"{p.args[0]} ended by itself; see {self.dir}")
            if value := ready():
                return value
            time.sleep(1)  # asking more often would take time from the workers
        raise Failed(f"waited {limit} s for {what}; see {self.dir}")

    def call(self, *args):
        return output([os.path.join(ROOT, "bin/coordinator"), *args, "--coordinator", self.address])

    def train(self, job, windows):
        """Runs a job until the cells have reported so many windows of steps; returns the last phases of each."""
        path = os.path.join(self.dir, "job.yaml")
        with open(path, "w") as f:
            f.write(job)
        self.wait(lambda: len(json.loads(self.call("status", "--json"))["workers"]) >= 2, 60, "two workers")
        name = json.loads(self.call("job", "submit", path, "--json"))["name"]

        def done():
            shown = json.loads(self.call("job", "show", name, "--json"))
            if shown["state"] in ("failed", "stopped"):
                raise Failed(f"the job {shown['state']}: {shown['reason']}")
            cells = shown["cells"]
            return len(cells) == 2 and all(c["step"] > WINDOW * windows + 1 for c in cells) and cells

        cells = self.wait(done, 900, "the job's steps")
        self.call("job", "stop", name)
        self.wait(lambda: json.loads(self.call("job", "show", name, "--json"))["state"] == "stopped", 120, "the stop")
        return cells

    def close(self):
        for p in reversed(self.processes):
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
        for p in self.processes:
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                p.kill()


def read(path):
    with open(path) as f:
        return f.read()


def train_pair(cores, batch, every, windows, level="info"):
    """Has two columns on two workers train until they have reported so many windows of steps, with a checkpoint every
    so many steps. The last phases of each cell, and the log of the first worker."""
    os.makedirs(DATA, exist_ok=True)
    directory = tempfile.mkdtemp(prefix="pair-", dir=DATA)
    cluster = Cluster(cores, directory, level)
    try:
        cells = cluster.train(f"""
job: pair
network: alexnet
columns: 2
classes: 1000
data: {{train: {pack()}}}
recipe: {{batch: {batch}, epochs: 100000, rate: 0.0001}}
augment: {{crop: random, flip: true}}
checkpoint: {{every: {every}, keep: 1}}
""", windows)
    finally:
        cluster.close()
    log = read(os.path.join(directory, "worker-0.log"))
    shutil.rmtree(directory)
    return cells, log


def pair(cores, batch, windows):
    """Two columns on two workers. Seconds a step, the share of it spent waiting for the other cell, and by which
    carrier."""
    cells, _ = train_pair(cores, batch, 10**6, windows)
    whole = [sum(c["phase_seconds"].values()) for c in cells]
    waits = [sum(s for n, s in c["phase_seconds"].items() if "wait" in n or n == "guard") for c in cells]
    return {"step": max(whole), "images_per_second": batch / max(whole), "waiting": sum(waits) / sum(whole),
            "carrier": cells[0]["carrier"], "reported": [c["images_per_second"] for c in cells],
            "phases": [c["phase_seconds"] for c in cells]}


def checkpoints(cores, batch, turns, each=10):
    """What a checkpoint every ten steps costs, by turns: two columns on two workers save every twentieth step, so that
    ten steps with a checkpoint behind them and ten without one take turns. Seconds of both, by turn."""
    _, log = train_pair(cores, batch, 2 * each, turns + 1, "debug")
    steps = {int(n): float(s) for n, s in re.findall(r"msg=step .*?step=(\d+) seconds=(\S+)", log)}

    def ten(first):
        return sum(steps[n] for n in range(first, first + each))

    firsts = [2 * each * i + 1 for i in range(1, turns + 1)]
    if missing := [n for n in range(firsts[0], firsts[-1] + 2 * each) if n not in steps]:
        raise Failed(f"the worker's log lacks steps {missing[:5]}")
    return {"with": [ten(n) for n in firsts], "without": [ten(n + each) for n in firsts],
            "first": [steps[n] for n in firsts], "median": statistics.median(steps[n] for n in steps if n > 1)}
