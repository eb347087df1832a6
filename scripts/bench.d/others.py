"""What else part of a training run waits for, by the product's own Go benchmarks."""
import os
import re

from sides import Failed, output

CROSSING = {"11.0MiB": 1, "2.4MiB": 1, "1.0MiB": 2}  # messages forward at batch 128: to conv3, fc6, fc7, fc8


def benchmark(package, pattern, *args, cores=None):
    """Runs Go benchmarks; returns {name: {unit: value}}, the median of three runs."""
    command = ["go", "test", "-run", "^$", "-bench", pattern, "-count", "3", *args, package]
    if cores is not None:
        command = ["taskset", "-c", ",".join(map(str, cores)), *command]
    rows = {}
    for line in output(command).splitlines():
        if m := re.match(r"Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)", line):
            rows.setdefault(m[1], []).append({unit: float(v) for v, unit in re.findall(r"(\S+) (\S+)", m[2])})
    return {name: sorted(runs, key=lambda r: r["ns/op"])[len(runs) // 2] for name, runs in rows.items()}


def exchange(cores):
    """Milliseconds that the messages of one step at batch 128 take on each carrier, with nothing else to do."""
    rows = benchmark("./worker/exchange", "^BenchmarkExchange$", "-benchtime", "30x", cores=cores)
    out = {}
    for carrier in ("local", "shm", "grpc"):
        one = sum(count * rows[f"Exchange/{carrier}/{size}"]["ms/exchange"] for size, count in CROSSING.items())
        out[carrier] = 2 * one  # as much again backward
    return out


def restore(cores):
    """Seconds to verify and load 0.5 GB in two cells from files in no cache."""
    return benchmark("./checkpoint", "^BenchmarkRestore$", "-benchtime", "3x", cores=cores)["Restore"]["ns/op"] / 1e9


def images(core):
    """Images a second and core from a pack to the network's input."""
    return benchmark("./worker/train", "^BenchmarkInput$", "-cpu", "1", cores=[core])["Input"]["images/s"]


def agrees():
    """Holds our losses in two columns to those pinned, with Winograd's algorithm and without; raises if they differ."""
    out = output(["go", "test", "-count", "1", "-v", "-run", "TestPyTorchAgrees/.*alexnet_in", "./worker/train"])
    if out.count("--- PASS: TestPyTorchAgrees/") < 2:
        raise Failed("the test of full-size alexnet did not run:\n" + out)
    return {name.replace("_", " "): float(v) for name, v in
            re.findall(r"RUN\s+TestPyTorchAgrees/(\S+)\n.*?difference of ten losses: (\S+)", out, re.S)}


def versions(torch, jemalloc):
    """Whose figures these are."""
    def first(*command):
        try:
            return output(list(command)).splitlines()[0]
        except Exception:  # noqa: BLE001 - a version is worth no failure
            return "?"

    model = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())
    flags = re.search(r"flags\s*: (.*)", open("/proc/cpuinfo").read())
    flags = flags[1].split() if flags else []
    system = re.search(r'PRETTY_NAME="(.*)"', open("/etc/os-release").read())
    onednn = re.search(r"(?:MKL-DNN|oneDNN) v(\S+)", torch.__config__.show())
    return {
        "machine": f"{model[1] if model else '?'}, {os.cpu_count()} cores, "
                   f"{next((n for n in ('avx512f', 'avx2') if n in flags), 'no AVX2')}",
        "system": f"{system[1] if system else '?'}, Linux {os.uname().release}",
        "torch": f"{torch.__version__}, oneDNN {onednn[1] if onednn else '?'}",
        "jemalloc": os.path.basename(os.path.realpath(jemalloc)) + " " +
                    first("dpkg-query", "-W", "-f", "${Version}", "libjemalloc2"),
        "ours": f"{first('go', 'version')}; {first('g++', '--version')}; libdnnl " +
                first("dpkg-query", "-W", "-f", "${Version}", "libdnnl-dev"),
        "commit": first("git", "describe", "--always", "--dirty", "--abbrev=12"),
    }
