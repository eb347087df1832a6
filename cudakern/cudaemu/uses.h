// Who uses an allocation, as far as the host can tell when it enqueues: by the ranges of copies and by the arguments of
// launches. With checks = full, freeing what is in use, and using what is freed, is found whatever really came first.
#pragma once

#include "memory.h"
#include "stream.h"

namespace emu {

// noteUse says that an operation will use the allocation at an address. A fault if it is, by then, freed on a stream,
// or if it comes from a stream and is not there yet.
Fault noteUse(uint64_t address, const OperationRef &operation);
// noteBorn and noteFreed say that an allocation begins or ends with an operation of a stream.
void noteBorn(uint64_t address, const OperationRef &operation);
void noteFreed(const Allocation &allocation, const OperationRef &operation);
// freedOnStream says whether an address lay in memory that cuMemFreeAsync has freed, not long ago.
bool freedOnStream(uint64_t address);
// bornOnStream says whether an allocation was made by cuMemAllocAsync.
bool bornOnStream(uint64_t address);
// stillUsed is a fault if an operation that uses the allocation may still run as far as the host knows.
Fault stillUsed(const char *call, const Allocation &allocation);
// usedBeside is a fault if an operation that uses the allocation is not ordered before its cuMemFreeAsync.
Fault usedBeside(const Allocation &allocation);

// forgetUse drops what is known of an allocation that is freed, forgetUses of all that a context had.
void forgetUse(const Allocation &allocation);
void forgetUses(const CUctx_st *context);

} // namespace emu
