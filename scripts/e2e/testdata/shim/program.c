/* Calls the driver through the shim, each function twice: the first call looks it up, the second does not. */
#include "colonnade_driver.h"

#include <stdio.h>

int main(void) {
  printf("cuInit %d, really %d, path %s, reason %s\n", cuInit(0), colonnadeDriverInit(),
         *colonnadeDriverPath() ? "known" : "none", *colonnadeDriverReason() ? "known" : "none");
  printf("has launch %d, alloc %d\n", colonnadeDriverHas("cuLaunchKernel"), colonnadeDriverHas("cuMemAlloc_v2"));
  for (int i = 0; i < 2; i++) {
    unsigned long long digits = 0;
    float sum = 0;
    CUdeviceptr address = 7;
    CUipcMemHandle handle = {{42}};
    handle.reserved[63] = 17;
    int launch = cuLaunchKernel((CUfunction)1, 2, 3, 4, 5, 6, 7, 8, (CUstream)9, (void **)0, (void **)&digits);
    int clamp = cuTexRefSetMipmapLevelClamp((CUtexref)&sum, 1.5f, 0.25f);
    int open = cuIpcOpenMemHandle(&address, handle, 5);
    printf("launch %d %llu, clamp %d %g, open %d %llu\n", launch, digits, clamp, sum, open, address);
    address = 7;
    int missing = cuMemAlloc(&address, 64);
    printf("missing %d, address %llu\n", missing, address);
  }
  return 0;
}
