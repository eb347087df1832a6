// The flat C face of this package's C++: what Go calls. Functions that can fail return 0 or put a message into err
// (ERR_BYTES, NUL-terminated) and return nonzero, or NULL for a handle. Nothing keeps Go memory. Handles are used by
// one thread at a time. What takes a team computes on its threads too, with the same bits.
#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum { ERR_BYTES = 512 };

const char *ck_version(void);   // "onednn-2.6.3/avx2"

// Paths: what our kernels of convolution are compiled for.
enum { CK_PORTABLE, CK_AVX2, CK_AVX2_WIDE, CK_AVX512, CK_PATHS };
int ck_best_path(void);               // of this processor and oneDNN's own choice
int ck_path_runs(int path);           // whether this processor has the instructions
const char *ck_path_name(int path);   // "avx2"
int ck_block(int path);               // channels in a block of maps: 16 or 8
void *ck_alloc(size_t bytes);   // zeroed, aligned; NULL without memory
void ck_free(void *p);

// Threads that ops are cut among. A team outlives the products made with it.
typedef struct ck_team ck_team;
ck_team *ck_team_new(int threads, int fine, char *err); // fine: in the smallest pieces there can be, for tests
void ck_team_free(ck_team *t);
enum { CK_LANES = 8 }; // that batches are cut into, at most

// A layout of weights, as ops want them.
typedef struct ck_layout ck_layout;
const char *ck_layout_name(const ck_layout *l);
size_t ck_layout_bytes(const ck_layout *l);
int ck_layout_from_plain(const ck_layout *l, const float *src, float *dst, char *err);
int ck_layout_to_plain(const ck_layout *l, const float *src, float *dst, char *err);

// Convolution and dense layers. A block of 1 means plain maps.
typedef struct {
  int n, in, h, w, out, out_h, out_w, kernel, stride, pad_top, pad_left;
  int bias, accumulate, relu, no_data;
  int block_x, block_y;
  int path, winograd; // CK_AVX2 ..., CK_WINOGRAD_...
} ck_conv_desc;
// never, where it is expected to be faster, where it can
enum { CK_WINOGRAD_OFF, CK_WINOGRAD_AUTO, CK_WINOGRAD_ALWAYS };
typedef struct {
  int n, in, out, bias, accumulate, relu, no_data;
  int path;
} ck_dense_desc;
typedef struct ck_product ck_product;
ck_product *ck_conv_new(ck_team *team, const ck_conv_desc *d, char *err);
ck_product *ck_dense_new(ck_team *team, const ck_dense_desc *d, char *err);
const ck_layout *ck_product_weights(const ck_product *p); // lives as long as the process
int ck_product_forward(ck_product *p, const float *x, const float *w, const float *b, float *y, char *err);
int ck_product_backward_data(ck_product *p, const float *dy, const float *w, float *dx, char *err);
int ck_product_backward_weights(ck_product *p, const float *x, const float *dy, float *dw, float *db, char *err);
void ck_product_free(ck_product *p);
// The algorithms of the three passes: 0 is direct, 10*m + r is Winograd's F(m x m, r x r), -1 is direct by plain loops.
void ck_product_algorithms(const ck_product *p, int *forward, int *data, int *weights);
int ck_tile(int i); // the i-th tile that plans choose from, 10*m + r; 0 behind the last

// Maps are n x c/block x h x w x block.
void ck_maps_reorder(ck_team *team, int n, int c, int area, int from, int to, const float *src, float *dst);
typedef struct {
  int n, c, h, w, block, size, space;
  int path; // CK_AVX2 ...
  float k, alpha, beta;
} ck_lrn_desc;
void ck_lrn_forward(ck_team *team, const ck_lrn_desc *d, const float *x, float *y);
void ck_lrn_backward(ck_team *team, const ck_lrn_desc *d, const float *x, const float *dy, float *dx);
typedef struct {
  int n, c, h, w, block, out_h, out_w, kernel, stride, pad_top, pad_left, ties_all;
} ck_pool_desc;
void ck_pool_forward(ck_team *team, const ck_pool_desc *d, const float *x, float *y);
void ck_pool_backward(ck_team *team, const ck_pool_desc *d, const float *x, const float *y, const float *dy,
    float *dx);
// Normalisation and pooling in one pass; d->relu: dx is the gradient before the rectifier that x comes from. picks has
// a byte for each element of y.
typedef struct {
  int n;
  ck_lrn_desc lrn;
  ck_pool_desc pool;
  int relu;
} ck_normpool_desc;
int ck_normpool_fits(const ck_normpool_desc *d);
void ck_normpool_forward(ck_team *team, const ck_normpool_desc *d, const float *x, float *y, uint8_t *picks);
void ck_normpool_backward(ck_team *team, const ck_normpool_desc *d, const float *x, const uint8_t *picks,
    const float *dy, float *dx);
void ck_relu_forward(ck_team *team, size_t n, const float *x, float *y);
void ck_relu_backward(ck_team *team, size_t n, const float *y, const float *dy, float *dx);
void ck_tanh_forward(ck_team *team, size_t n, const float *x, float *y);
void ck_tanh_backward(ck_team *team, size_t n, const float *y, const float *dy, float *dx);
typedef struct {
  int n, c, area, block, first_unit, first_image;
  uint64_t threshold;
  float factor;
} ck_dropout_desc;
void ck_dropout(ck_team *team, const ck_dropout_desc *d, uint64_t key, uint64_t step, const float *x, float *y);
void ck_scale(ck_team *team, size_t n, float factor, const float *x, float *y);
// ck_add_alone is done by the calling thread.
void ck_add_alone(size_t n, float *dst, const float *src);
void ck_add(ck_team *team, size_t n, float *dst, const float *src);
// ck_sgd says whether all of w1 is finite.
int ck_sgd(ck_team *team, size_t n, const float *w0, const float *v0, const float *g, float *w1, float *v1,
    float momentum, float rate, float decay);
void ck_softmax_forward(ck_team *team, int n, int classes, int valid, const float *z, const int32_t *labels,
    float *loss,
    int32_t *rank, int32_t *ties);
void ck_softmax_backward(ck_team *team, int n, int classes, int valid, int divisor, const float *z,
    const int32_t *labels, float *dz);
typedef struct {
  int n, c, h, w, out_h, out_w, block;
  int mean_y, mean_x; // where the output's mean begins in the mean image; -1: each pixel has its own
} ck_input_desc;
typedef struct {
  int32_t y, x;
  uint8_t flip, pad[3];
  float shift[3];
} ck_view;
void ck_input(ck_team *team, const ck_input_desc *d, const uint8_t *images, const ck_view *views, const float *mean,
    float scale,
    float *y);

#ifdef __cplusplus
}
#endif
