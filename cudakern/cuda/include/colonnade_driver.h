/* colonnade_driver.h: what the shim in front of libcuda (../shim) says of itself.
 *
 * The program links libcuda.a, made by shim/build.sh, in place of -lcuda. It holds no CUDA: each cu* function looks
 * for the driver's own at its first call. The driver is libcuda.so.1, found as the dynamic loader finds it
 * (LD_LIBRARY_PATH included), or the file named by COLONNADE_LIBCUDA. Without a driver every cu* function returns
 * CUDA_ERROR_NO_DEVICE, and one that the driver lacks returns CUDA_ERROR_NOT_FOUND; neither writes through its
 * arguments.
 *
 * The exception is cuInit, which always returns CUDA_SUCCESS: gorgonia.org/cu calls it before main and ends the process
 * on any error, where the product wants to say what is missing or to run on the CPU. What it really returned is
 * colonnadeDriverInit. All of these may be called from any thread, at any time. */
#ifndef COLONNADE_DRIVER_H
#define COLONNADE_DRIVER_H

#include "cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The driver's own answer to cuInit(0), which this calls if nobody has: CUDA_ERROR_NO_DEVICE without a driver. Any
 * other cu* function is worth calling only after CUDA_SUCCESS here. */
CUresult colonnadeDriverInit(void);

/* Why there is no driver, in the dynamic loader's words; empty if there is one. Never NULL, never freed. */
const char *colonnadeDriverReason(void);

/* The file the driver was loaded from; empty if there is none. Never NULL, never freed. */
const char *colonnadeDriverPath(void);

/* Whether the driver has a function, by its symbol (cuMemAlloc_v2): 0 without a driver. */
int colonnadeDriverHas(const char *symbol);

#ifdef __cplusplus
}
#endif
#endif
