"""What the assembler made of the kernels for A100 (sm_80) and H100 (sm_90): the share of multiply-adds in the loops
that matter, and that nothing was fused which must not be."""

import collections
import dataclasses
import re

from assemble import STRICT, assemble, cubin
from tools import Check, call, read

GPUS = {80: 64, 90: 128}  # float32 multiply-adds that a multiprocessor starts in a clock
ISSUE = 4  # instructions of a warp that a multiprocessor starts in a clock
WARP = 32

# Kernels whose main loop is to be at least this share of multiply-adds; see main_products.
LEAST = 0.80


@dataclasses.dataclass
class Loop:
    """The innermost loop of a kernel with the most multiply-adds."""

    instructions: int
    ffma: int
    hmma: int
    counts: dict  # by opcode with its width: {"LDS.128": 32}

    @property
    def share(self):
        return self.ffma / self.instructions

    def issue_bound(self, arch):
        """Part of the peak that is left if nothing but issuing instructions takes time."""
        return min(1.0, self.share * ISSUE * WARP / GPUS[arch])

    def shared_bound(self, arch):
        """The same if nothing but shared memory takes time, at 128 bytes a clock and no bank conflicts. A broadcast is
        counted as if every lane read bytes of its own, so hardware can only be better."""
        passes = sum(n * width(op) for op, n in self.counts.items() if op.startswith(("LDS", "STS", "LDGSTS")))
        clocks = self.ffma * WARP / GPUS[arch]
        return min(1.0, clocks / passes) if passes else 1.0


def width(op):
    """Passes of 128 bytes that a warp's access of this width takes."""
    return 4 if ".128" in op else 2 if ".64" in op else 1


def functions(text):
    """Instructions and labels of each kernel in nvdisasm's output: [("label", name)] and [("op", opcode, operands)]."""
    found, lines = {}, None
    for line in text.splitlines():
        if m := re.match(r"\.text\.(\w+):", line):
            lines = found.setdefault(m[1], [])
        elif line.startswith("//---"):
            lines = None
        elif lines is None:
            continue
        elif m := re.match(r"\s*(\.L_x_\d+):", line):
            lines.append(("label", m[1]))
        elif m := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?(\S+)\s*(.*?);", line):
            lines.append(("op", m[1], m[2]))
    return found


def main_loop(lines):
    """The loop of a kernel that most multiply-adds are in, None if there are none in a loop."""
    places, ops = {}, []
    for line in lines:
        if line[0] == "label":
            places[line[1]] = len(ops)
        else:
            ops.append(line[1:])
    weight = [op.startswith(("FFMA", "HMMA")) for op, _ in ops]
    loops = []
    for at, (op, operands) in enumerate(ops):
        target = re.search(r"(\.L_x_\d+)", operands)
        if op.startswith("BRA") and target and places.get(target[1], at) < at:
            begin = places[target[1]]
            loops.append((begin, at + 1, sum(weight[begin:at + 1])))
    inner = [a for a in loops if a[2] and not any(
        b != a and a[0] <= b[0] and b[1] <= a[1] and 2 * b[2] >= a[2] for b in loops)]
    if not inner:
        return None
    begin, end, _ = max(inner, key=lambda loop: loop[2])
    counts = collections.Counter(op for op, _ in ops[begin:end])
    total = lambda prefix: sum(n for op, n in counts.items() if op.startswith(prefix))
    return Loop(end - begin, total("FFMA"), total("HMMA"), dict(counts))


def code(place, letter, arch, *options, name=""):
    """Instructions of an image for a GPU, or what is against it. What the assembler only warns of is looked at too."""
    _, error = assemble(place, letter, arch, *STRICT, *options, name=name)
    if error:
        name += ".warned"
        _, error = assemble(place, letter, arch, *options, name=name)
    if error:
        return None, error
    done = call(place.wheel("cu13/bin/nvdisasm"), cubin(place, letter, arch, name))
    if done.returncode:
        return None, done.stdout.strip().splitlines()[0]
    return functions(done.stdout), None


def unrounded(ptx):
    """Float32 arithmetic in PTX that leaves the assembler free to fuse or to flush: anything without .rn."""
    return sorted(set(re.findall(r"\b((?:add|sub|mul|mad|fma)(?:\.(?!rn)\w+)*\.f(?:32|64))\b", ptx)))


def main_products(name):
    """Whether a kernel is a main convolution or matrix product: on 128-wide tiles."""
    return "128x128" in name and "tf32" not in name


def run(place):
    """Checks, and the main loops: {image: {kernel: {arch: Loop}}}."""
    checks, loops = [], {}
    for letter in place.images():
        loops[letter] = {}
        loose = unrounded(read(place.image(letter)))
        checks.append(Check(f"image {letter}: every float operation names its rounding", not loose,
                            ", ".join(loose) or "all .rn"))
        for arch in GPUS:
            fused, error = code(place, letter, arch)
            strict, strict_error = code(place, letter, arch, "--fmad=false", name=".strict")
            if error or strict_error:
                checks.append(Check(f"image {letter} for sm_{arch} can be looked at", False, error or strict_error))
                continue
            differ = [name for name in fused if fused[name] != strict.get(name)]
            ffma = sum(op[1].startswith("FFMA") for lines in fused.values() for op in lines if op[0] == "op")
            checks.append(Check(
                f"image {letter} for sm_{arch}: with and without leave to fuse multiply and add, the same code",
                not differ, ", ".join(differ) or f"{len(fused)} kernels, {ffma} multiply-adds, all written as such"))
            for name, lines in fused.items():
                if loop := main_loop(lines):
                    loops[letter].setdefault(name, {})[arch] = loop
    checks += products(loops)
    return checks, loops


def products(loops):
    """The goals of main kernels: the share of multiply-adds, and what shared memory leaves of the peak."""
    checks = []
    for arch in GPUS:
        main = [(f"{name} ({letter})", by_arch[arch]) for letter, kernels in loops.items()
                for name, by_arch in kernels.items() if arch in by_arch and main_products(name)]
        for what, of in (("are multiply-adds", lambda loop: loop.share),
                         ("of the peak are left by shared memory (estimate)", lambda loop: loop.shared_bound(arch))):
            low = [f"{name} {100 * of(loop):.1f} %" for name, loop in main if of(loop) < LEAST]
            least = min(((of(loop), name) for name, loop in main), default=(0, "no main kernel found"))
            checks.append(Check(f"sm_{arch}: in main loops of products at least {100 * LEAST:.0f} % {what}",
                                bool(main) and not low, ", ".join(low) or f"least {100 * least[0]:.1f} %, {least[1]}"))
    return checks
