"""PyTorch's trainers that survive the loss of a worker, and how long that takes them."""
import glob
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from sides import HERE, Failed

PEERS = os.path.join(HERE, "peers")
APART = 40      # steps between kills
LIMIT = 60      # seconds to go on in; else that job has not recovered
TUNED = ["--heartbeat_timeout_ms", "500", "--join_timeout_ms", "2000", "--quorum_tick_ms", "20"]


class Events:
    """What the processes of a run have written so far."""

    def __init__(self, directory):
        self.directory, self.at, self.all = directory, {}, []

    def read(self):
        for path in glob.glob(os.path.join(self.directory, "events-*.jsonl")):
            with open(path, "rb") as f:
                f.seek(self.at.get(path, 0))
                for line in f.read().splitlines(keepends=True):
                    if not line.endswith(b"\n"):
                        break  # it is still being written
                    self.all.append(json.loads(line))
                    self.at[path] = self.at.get(path, 0) + len(line)
        return self.all

    def steps(self):
        return [e for e in self.read() if e["event"] == "step"]


class Run:
    """A job of two workers under one of the peers."""

    def __init__(self, peer, directory, kills):
        self.directory, self.peer, self.processes, self.lives = directory, peer, [], 1
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        self.events = Events(directory)
        self.env = dict(os.environ, OMP_NUM_THREADS="1", PEER_DIR=directory, PEER_STEPS=str((kills + 1) * APART))
        if peer.startswith("torchft"):
            port = random.randrange(20000, 30000)
            self.env["TORCHFT_LIGHTHOUSE"] = f"http://localhost:{port}"
            self.start("lighthouse", [os.path.join(os.path.dirname(sys.executable), "torchft_lighthouse"), "--bind",
                                      f"[::]:{port}", "--min_replicas", "2", *TUNED])
            self.groups = [self.group(k, 0) for k in range(2)]
            return
        if peer != "torchrun":
            # By default the agent keeps the workers' store through restarts, and a new worker may find in it where one
            # that is dead has listened: whether it recovers is chance.
            self.env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        if peer.startswith("torchrun"):
            self.start("torchrun", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1",
                                    "--nproc-per-node=2", "--max-restarts=1000", os.path.join(PEERS, "worker.py")])
        else:
            self.start("torchrun", [sys.executable, os.path.join(PEERS, "forked.py")])

    def start(self, name, command, **env):
        with open(os.path.join(self.directory, name + ".log"), "a") as log:
            p = subprocess.Popen(command, env={**self.env, **env}, stdout=log, stderr=log, start_new_session=True)
        self.processes.append(p)
        return p

    def group(self, rank, life):
        return self.start(f"group-{rank}", [sys.executable, os.path.join(PEERS, "group.py")], PEER_RANK=str(rank),
                          PEER_LIFE=str(life))

    def wait(self, what, ready, limit=LIMIT):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if value := ready():
                return value
            if self.processes[0].poll() is not None and not any(e["event"] == "done" for e in self.events.read()):
                raise Failed(f"{self.peer} gave up before {what}; see {self.directory}")
            time.sleep(0.005)
        raise Failed(f"{self.peer}: no {what} within {limit} s; see {self.directory}")

    def kill(self, n):
        """Kills a worker; seconds to the next step that was not finished before, and how many were done again."""
        self.wait("first steps", lambda: any(e["step"] >= n * APART + APART // 2 + 5 for e in self.events.steps()))
        time.sleep(random.random() / 5)
        last = [e for e in self.events.steps() if e["rank"] == 1][-1]
        began = time.time()
        os.kill(last["pid"], signal.SIGKILL)
        if self.peer.startswith("torchft"):
            self.groups[1].wait()
            self.groups[1] = self.group(1, self.lives)  # as whoever starts it would
            self.lives += 1
        time.sleep(0.01)
        had = max(e["step"] for e in self.events.steps() if e["at"] <= began)

        def new():
            return next((e for e in self.events.steps()
                         if e["at"] > began and e["step"] > had and e["rank"] == 0), None)

        def both():  # a step of which both have got the sum may come yet: what counts is one with the new worker in it
            return [e for e in self.events.steps() if e["at"] > began and e["rank"] == 1 and e["pid"] != last["pid"]]

        again = self.wait("recovery", both)[0]
        e = self.wait("new step", new)
        resumed = [x["step"] for x in self.events.all if x["event"] == "resume" and x["at"] > began]
        at = max(e["at"], again["at"]) if e["at"] < again["at"] else e["at"]
        return {"seconds": at - began, "again": again["at"] - began,
                "lost": max(0, had - resumed[0]) if resumed else 0}

    def digests(self):
        self.wait("end", lambda: sum(e["event"] == "done" for e in self.events.read()) >= 2, 4 * LIMIT)
        return {e["digest"] for e in self.events.all if e["event"] == "done"}

    def close(self):
        pids = {e["pid"] for e in self.events.read()}
        for p in self.processes:
            for kill, what in ((os.killpg, p.pid), (os.kill, p.pid)):
                try:
                    kill(what, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for pid in pids:  # workers have sessions of their own
            try:
                with open(f"/proc/{pid}/cmdline") as f:
                    if PEERS in f.read():
                        os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                pass
        for p in self.processes:
            p.wait()


def measure(peer, directory, kills, say, limit=math.inf):
    """Kills of a job's worker, one after another, and whether its end is the undisturbed one. It begins no kill so many
    seconds after the undisturbed run."""
    out = {"kills": [], "failed": []}
    run = Run(peer, os.path.join(directory, peer + "-undisturbed"), kills)
    try:
        out["undisturbed"] = sorted(run.digests())
    finally:
        run.close()
    until = time.monotonic() + limit

    def more():
        return len(out["kills"]) + len(out["failed"]) < kills and time.monotonic() < until

    while more() and len(out["failed"]) < 3:
        run = Run(peer, os.path.join(directory, f"{peer}-{len(out['failed'])}"), kills)
        try:
            n = 0
            while more():
                out["kills"].append(run.kill(n))
                n += 1
            if time.monotonic() < until:
                out["digests"] = sorted(run.digests())
        except Failed as err:
            out["failed"].append(str(err))
            say(f"  {err}")
        finally:
            run.close()
    if "digests" in out:
        out["same"] = out["digests"] == out["undisturbed"]
    return out
