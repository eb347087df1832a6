"""Our cuda.h beside NVIDIA's: every constant, structure and signature that ours has."""

import os
import re

from tools import ROOT, Check, Failed, call, read

OURS = os.path.join(ROOT, "cudakern/cuda/include/cuda.h")

# What differs by intent: ours is what CUDA 12.0 has, so that no driver of 12 lacks anything.
OWN = {"CUDA_VERSION"}


def names(text):
    """What cuda.h declares: enumerators and constants, structures with their fields, functions."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    constants = re.findall(r"^#define (CU[A-Z0-9_]+) \S", text, flags=re.M)
    for body in re.findall(r"typedef enum \w+ \{(.*?)\}", text, flags=re.S):
        constants += re.findall(r"(\w+) =", body)
    structs = {}
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, flags=re.S):
        structs[name] = [re.sub(r"[\s*]|\[.*", "", field) for declaration in body.split(";") if declaration.strip()
                         for field in re.sub(r"^\s*(const )?(unsigned )?\w+ ", "", declaration).split(",")]
    functions = re.findall(r"^CUresult (cu\w+)\(", text, flags=re.M)
    types = re.findall(r"^typedef .*?\b(CU\w+);", text, flags=re.M)
    return [c for c in constants if c not in OWN], structs, functions, [t for t in types if t not in structs]


def program(constants, structs, functions, types):
    """C++ that prints what a compiler makes of each name: values, offsets, and types as it mangles them."""
    lines = ['#include "cuda.h"', "#include <cstddef>", "#include <cstdio>", "#include <typeinfo>",
             "#define TEXT_(x) #x", "#define TEXT(x) TEXT_(x)", "int main() {"]
    for c in constants:
        lines.append(f'  printf("%s = %lld\\n", "{c}", (long long)(unsigned long long)({c}));')
    for s, fields in structs.items():
        lines.append(f'  printf("%s: %zu bytes, aligned to %zu\\n", "{s}", sizeof({s}), alignof({s}));')
        lines += [f'  printf("%s.%s at %zu, %s\\n", "{s}", "{f}", offsetof({s}, {f}), '
                  f"typeid(decltype({s}::{f})).name());" for f in fields]
    for f in functions:  # under its source name: the macro behind it gives the symbol
        lines.append(f'  printf("%s is %s, %s\\n", "{f}", TEXT({f}), typeid(decltype(&{f})).name());')
    lines += [f'  printf("%s: %s\\n", "{t}", typeid({t}).name());' for t in types]
    return "\n".join(lines + ["}"]) + "\n"


def facts(place, include, source, label):
    """Compiles the program against a header and runs it; names that header lacks are left out and returned."""
    binary = os.path.join(place.out, f"header-{label}")
    done = call("g++", "-std=c++17", "-w", f"-I{include}", "-x", "c++", "-", "-o", binary, input=source)
    if done.returncode:
        return None, re.findall(r"error: (.*)", done.stdout)
    return call(binary).stdout.splitlines(), []


def normal(line):
    """Types that differ in name only: CUDA 12 has versioned structures behind the plain names."""
    return re.sub(r"\d+(CUDA_\w+?|CU\w+?)_(?:v\d_)?st", lambda m: m[1] + "_st", line)


def run(place, path=OURS):
    constants, structs, functions, types = names(read(path))
    if len(constants) < 200 or len(functions) < 150 or len(structs) < 8:
        raise Failed(f"{path} is not read as it should be: {len(constants)} constants, {len(functions)} functions")
    source = program(constants, structs, functions, types)
    ours, errors = facts(place, os.path.dirname(path), source, "ours")
    if errors:
        raise Failed(f"our own cuda.h does not compile: {errors[0]}")
    real = os.path.dirname(place.wheel("cuda_runtime/include/cuda.h"))
    theirs, errors = facts(place, real, source, "nvidia")
    what = (f"cuda.h is NVIDIA's of CUDA 12.9: {len(constants)} constants, {len(structs)} structures, "
            f"{len(functions)} functions, {len(types)} other types")
    if errors:
        return [Check(what, False, "; ".join(errors[:5]))]
    differ = [f"{a} (NVIDIA: {b})" for a, b in zip(ours, theirs) if normal(a) != normal(b)]
    return [Check(what, not differ, "; ".join(differ[:5]) or f"{len(ours)} facts, all equal")]
