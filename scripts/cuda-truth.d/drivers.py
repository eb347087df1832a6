"""Two generations of NVIDIA's driver, from Debian's non-free section, unpacked and not installed: every function of our
cuda.h is in them, they load and say cleanly that there is no GPU, and their compiler takes our images."""

import ctypes
import glob
import json
import os
import re
import shutil
import sys

from header import OURS
from tools import Check, Failed, call

SUITES = ("bookworm", "trixie")  # 535 and 550
PACKAGES = ("libcuda1", "libnvidia-ptxjitcompiler1", "libnvidia-ml1")
ARCHS = (70, 80, 90)
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
NO_DEVICE = 100


def fetch(place, suite):
    """Where a suite's driver is unpacked; fetched once, with a configuration of apt's that is nobody else's."""
    base = os.path.join(place.root, "drivers", suite)
    root = os.path.join(base, "root")
    if os.path.isdir(root):
        return root
    if not (shutil.which("apt-get") and shutil.which("dpkg") and os.path.exists(KEYRING)):
        raise LookupError("this system is not Debian")
    targets = call("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI) $(COMPONENT)").stdout
    uris = [words[1] for words in map(str.split, targets.splitlines())
            if len(words) == 3 and words[0] in SUITES + ("stable", "oldstable") and words[2] == "main"]
    if not uris:
        raise LookupError("apt's sources do not name Debian")
    shutil.rmtree(base, ignore_errors=True)
    for directory in ("etc/apt.conf.d", "etc/preferences.d", "lists/partial", "cache/archives/partial", "debs", "new"):
        os.makedirs(os.path.join(base, directory))
    for name, text in (("status", ""), ("etc/sources.list", f"deb [signed-by={KEYRING}] {uris[0]} {suite} non-free\n")):
        with open(os.path.join(base, name), "w", encoding="utf-8") as f:
            f.write(text)
    settings = {"Dir::Etc": f"{base}/etc", "Dir::Etc::SourceList": f"{base}/etc/sources.list",
                "Dir::Etc::SourceParts": "/dev/null", "Dir::State": base, "Dir::State::Lists": f"{base}/lists",
                "Dir::State::Status": f"{base}/status", "Dir::Cache": f"{base}/cache", "APT::Sandbox::User": ""}
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    for command in (["update"], ["download", *PACKAGES]):
        done = call("apt-get", *options, *command, cwd=os.path.join(base, "debs"))
        if done.returncode or re.search(r"^(E|W): .*[Ff]ail", done.stdout, re.M):
            raise LookupError((re.findall(r"^[EW]: (.*)", done.stdout, re.M) or ["apt-get fails"])[0])
    for package in glob.glob(os.path.join(base, "debs", "*.deb")):
        if call("dpkg", "-x", package, os.path.join(base, "new")).returncode:
            raise LookupError(f"{package} cannot be unpacked")
    os.rename(os.path.join(base, "new"), root)
    return root


def library(root, name):
    found = glob.glob(os.path.join(root, "**", name), recursive=True)
    if not found:
        raise Failed(f"no {name} below {root}; delete that directory and run this again")
    return found[0]


def alone(*args):
    """Runs a function of this file in a process of its own: a driver's library stays in a process, and may end it."""
    done = call(sys.executable, os.path.abspath(__file__), *args, stderr=None)
    if done.returncode:
        raise Failed(f"{' '.join(args)}: status {done.returncode}")
    return json.loads(done.stdout)


def symbols(path):
    """Functions of our cuda.h that the driver lacks, its answer to cuInit, and its version."""
    text = call("g++", "-E", "-P", "-x", "c++", OURS).stdout
    names = sorted(set(re.findall(r"\b(cu[A-Z]\w*)\(", text)))
    driver = ctypes.CDLL(path)
    version = ctypes.c_int()
    return {"of": len(names), "missing": [n for n in names if not hasattr(driver, n)], "init": driver.cuInit(0),
            "version": version.value if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else version.value}


def compiled(path, ptx, *archs):
    """Registers of each kernel by GPU, as the driver's compiler has it, or what it has against the image."""
    jit = ctypes.CDLL(path)
    with open(ptx, "rb") as f:
        text = f.read()
    found = {}
    for arch in archs:
        handle, size, log = ctypes.c_void_p(), ctypes.c_size_t(), ""
        jit.nvPTXCompilerCreate(ctypes.byref(handle), ctypes.c_size_t(len(text)), text)
        options = (ctypes.c_char_p * 2)(f"--gpu-name=sm_{arch}".encode(), b"--verbose")
        status = jit.nvPTXCompilerCompile(handle, 2, options)
        for kind in ("Error", "Info"):
            getattr(jit, f"nvPTXCompilerGet{kind}LogSize")(handle, ctypes.byref(size))
            if size.value:
                buffer = ctypes.create_string_buffer(size.value + 1)
                getattr(jit, f"nvPTXCompilerGet{kind}Log")(handle, buffer)
                log += buffer.value.decode()
        jit.nvPTXCompilerDestroy(ctypes.byref(handle))
        names = re.findall(r"entry function '(\w+)'", log)
        registers = [int(n) for n in re.findall(r"Used (\d+) reg", log)]
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", log))
        found[arch] = {"status": status, "log": "" if status == 0 else log[:300], "spills": spills,
                       "registers": dict(zip(names, registers))}
    return found


def run(place, worker):
    checks = []
    for suite in SUITES:
        try:
            root = fetch(place, suite)
        except LookupError as err:
            checks.append(Check(f"NVIDIA's driver from Debian {suite}", None, str(err)))
            continue
        cuda = library(root, "libcuda.so.1")
        version = os.path.basename(os.path.realpath(cuda)).removeprefix("libcuda.so.")
        have = alone("symbols", cuda)
        checks.append(Check(f"driver {version} has every function of our cuda.h", not have["missing"],
                            ", ".join(have["missing"]) or f"{have['of']} functions"))
        checks.append(Check(f"driver {version} without a GPU: cuInit is {NO_DEVICE}, no device",
                            have["init"] == NO_DEVICE, f"{have['init']}"))
        checks.append(started(worker, version, cuda, library(root, "libnvidia-ml.so.1")))
        for letter in place.images():
            archs = [str(a) for a in ARCHS if letter == "A" or a >= 80]
            jit = library(root, "libnvidia-ptxjitcompiler.so.1")
            found = alone("compiled", jit, place.image(letter), *archs)
            bad = [f"sm_{a}: {f['log'] or 'spills'}" for a, f in found.items() if f["status"] or f["spills"]]
            most = max((n for f in found.values() for n in f["registers"].values()), default=0)
            checks.append(Check(f"driver {version} compiles image {letter} for {', '.join('sm_' + a for a in archs)}",
                                not bad, "; ".join(bad) or f"no spills, at most {most} registers"))
    return checks


def started(worker, version, cuda, nvml):
    """The worker on the real driver: it starts, and says in a line that there is no GPU."""
    done = call(worker, "verify", "--device", "cuda:0",
                env={**os.environ, "COLONNADE_LIBCUDA": cuda, "COLONNADE_LIBNVML": nvml})
    lines = done.stdout.strip().splitlines()
    good = done.returncode in (1, 2) and len(lines) == 1 and lines[0].startswith("worker: ")
    return Check(f"the worker on driver {version} says in a line that there is no GPU", good, " ".join(lines)[:300])


if __name__ == "__main__":
    print(json.dumps({"symbols": symbols, "compiled": compiled}[sys.argv[1]](*sys.argv[2:])))
