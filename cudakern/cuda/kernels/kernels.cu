// Every kernel of the CUDA device, one translation unit: gen.sh compiles it to the two images.
#include "gpu.h"
