// Every kernel of the CUDA device, one translation unit: gen.sh compiles it to the two images.
#include "gpu.h"
#include "elementwise.cu"
#include "input.cu"
#include "maps.cu"
#include "softmax.cu"
#include "conv.cu"
#include "dense.cu"
