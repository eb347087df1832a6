/* Finds the CUDA driver at run time; see ../include/colonnade_driver.h for what it promises. In C, because what links
 * it need not link the C++ library. */
#define _GNU_SOURCE /* dlinfo */
#include "../include/colonnade_driver.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

/* The driver's functions by the index that the trampolines know them by. */
static const char *const symbols[] = {
#define FUNCTION(symbol) #symbol,
#include "functions.inc"
#undef FUNCTION
};

/* What is known of the driver; written once, by open_driver. It is never closed: its threads outlive any moment at
 * which that would be safe. */
static pthread_once_t opened = PTHREAD_ONCE_INIT;
static void *library;
static CUresult init_result = CUDA_ERROR_NO_DEVICE;
static char reason[1024], path[4096];

static void open_driver(void) {
  const char *file = getenv("COLONNADE_LIBCUDA");
  if (!file || !*file) file = "libcuda.so.1";
  void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char *error = dlerror();
    snprintf(reason, sizeof reason, "%s", error ? error : "the dynamic loader gives no reason");
    return;
  }
  CUresult (*init)(unsigned int) = (CUresult(*)(unsigned int))dlsym(handle, "cuInit");
  if (!init) {
    snprintf(reason, sizeof reason, "%s: no function cuInit, so this is not a CUDA driver", file);
    dlclose(handle);
    return;
  }
  struct link_map *map = NULL;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name)
    snprintf(path, sizeof path, "%s", map->l_name);
  library = handle;
  init_result = init(0);
}

static void need_driver(void) { pthread_once(&opened, open_driver); }

static CUresult no_driver(void) { return CUDA_ERROR_NO_DEVICE; }
static CUresult no_function(void) { return CUDA_ERROR_NOT_FOUND; }

/* Where the trampolines jump: the driver's function once it is known, before that null. */
_Atomic(void *) colonnade_slots[sizeof symbols / sizeof *symbols];

/* Called by a trampoline whose slot is null. Two threads may both come here; they store the same. */
void *colonnade_resolve(unsigned index) {
  need_driver();
  void *found = library ? dlsym(library, symbols[index]) : (void *)no_driver;
  if (!found) found = (void *)no_function;
  atomic_store_explicit(&colonnade_slots[index], found, memory_order_release);
  return found;
}

CUresult cuInit(unsigned int flags) {
  (void)flags; /* zero by contract */
  need_driver();
  return CUDA_SUCCESS;
}

CUresult colonnadeDriverInit(void) {
  need_driver();
  return init_result;
}

const char *colonnadeDriverReason(void) {
  need_driver();
  return reason;
}

const char *colonnadeDriverPath(void) {
  need_driver();
  return path;
}

int colonnadeDriverHas(const char *symbol) {
  need_driver();
  return library && dlsym(library, symbol);
}
