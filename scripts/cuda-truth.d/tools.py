"""NVIDIA's tools where scripts/cuda-truth installed them, and what every part reports."""

import dataclasses
import glob
import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# The images of the kernels: letter, file, and the GPUs they are assembled for. sm_70 is the oldest that image A is
# written for, sm_120 the newest that this assembler knows.
IMAGES = {
    "A": ("colonnade_sm70.ptx", (70, 75, 80, 86, 89, 90, 100, 120)),
    "B": ("colonnade_sm80.ptx", (80, 86, 89, 90, 100, 120)),
}


class Failed(Exception):
    """A tool that did not do what it is for: not a finding about the kernels, but the end of the run."""


@dataclasses.dataclass
class Place:
    """Directories of a run."""

    root: str  # .tools/cuda-truth
    ptx: str  # where the images are
    scratch: str = "out"  # below root: what the tools write

    @property
    def out(self):
        path = os.path.join(self.root, self.scratch)
        os.makedirs(path, exist_ok=True)
        return path

    def wheel(self, pattern):
        """The one file of the wheels that a pattern names."""
        found = glob.glob(os.path.join(self.root, "venv/lib/python3*/site-packages/nvidia", pattern))
        if len(found) != 1:
            raise Failed(f"{len(found)} files {pattern} below {self.root}; delete that directory and run this again")
        return found[0]

    def image(self, letter):
        return os.path.join(self.ptx, IMAGES[letter][0])

    def images(self):
        """Letters of the images that have kernels; one that is still empty has nothing to look at."""
        return [letter for letter in IMAGES if ".entry" in read(self.image(letter))]


@dataclasses.dataclass
class Check:
    """One thing that was held against NVIDIA's: what, whether it holds (None: could not be tried), and the figures."""

    what: str
    good: bool | None
    found: str

    def row(self):
        return (self.what, {True: "yes", False: "**NO**", None: "not tried"}[self.good], self.found)


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def call(*command, **more):
    """Runs a command to its end within ten minutes; its output and status are the caller's to judge."""
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 600} | more
    try:
        return subprocess.run(command, check=False, **more)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise Failed(f"{command[0]}: {err}") from err


def table(head, rows):
    """A Markdown table; what is not a text is aligned to the right."""
    lines = ["| " + " | ".join(head) + " |"]
    right = [bool(rows) and not isinstance(rows[0][i], str) for i in range(len(head))]
    lines.append("|" + "|".join("--:" if r else "---" for r in right) + "|")
    lines += ["| " + " | ".join("" if c is None else str(c) for c in row) + " |" for row in rows]
    return lines
