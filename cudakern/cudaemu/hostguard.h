// What the host may not touch.
//
// Device memory: a host that dereferences a device address is told so by name, and then dies as it would anywhere.
//
// Pinned memory, with checks = full: from the moment a copy is enqueued until the host has waited for it, a host
// that writes what is copied from, or touches what is copied to, is in a race whoever happens to be first. Pages
// that lie wholly within such a range are protected for that time; a handler of SIGSEGV names the access, breaks
// the context and lets the host go on. What is not whole pages, and registered memory, is watched in other ways: a
// source must hold at the copy what it held when the copy was enqueued, unless the device writes it in between; a
// target holds 0xFF (in floats: NaN) until the copy is made.
#pragma once

#include "memory.h"
#include "stream.h"

namespace emu {

// watchHost installs the handler, once.
void watchHost();

// watchSource gives a check for an operation to make when it reads a range of host memory; empty if there is none.
std::function<Fault()> watchSource(uint64_t address, size_t bytes);
// spoilTarget fills a range that a copy, which is not enqueued yet, will write, unless something may still read it.
void spoilTarget(uint64_t address, size_t bytes);
// guardHost keeps the host from a range that an operation, which is enqueued, reads or writes.
void guardHost(CUctx_st &context, const OperationRef &operation, uint64_t address, size_t bytes, bool write);

// settleGuards lets go of ranges whose operations a clock covers: the host has waited for them.
void settleGuards(const Ticks &clock);
// forgetGuards lets go of all that overlaps a range: it is being freed.
void forgetGuards(uint64_t address, size_t bytes);

} // namespace emu
