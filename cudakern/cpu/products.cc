// Convolution and dense layers: who does which pass.
#include <functional>

#include "dense.h"
#include "direct.h"
#include "engine.h"
#include "onednn.h"
#include "shallow.h"
#include "winograd.h"

struct ck_product {
  const ck_layout *weights = nullptr;
  std::function<void(const float *x, const float *w, const float *b, float *y)> forward;
  std::function<void(const float *dy, const float *w, float *dx)> data;
  std::function<void(const float *x, const float *dy, float *dw, float *db)> gradient;
  int algorithms[3] = {}; // of these, as ck_product_algorithms has them
};

namespace {

ck_product *conv(threads::Team *team, const ck_conv_desc &d) {
  using namespace std::placeholders;
  auto p = std::make_unique<ck_product>();
  const auto wino = std::make_shared<winograd::Plan>(winograd::plan(team, d));
  std::shared_ptr<shallow::Pass> few;
  if (!wino->any()) few = shallow::plan(team, d);
  if (wino->any() || few) {
    const compat::dims shape{d.out, d.in, d.kernel, d.kernel};
    p->weights = onednn::layout({shape, onednn::f32, d.block_y == 16 ? onednn::tag::Abcd16a : onednn::tag::Abcd8a},
        shape);
  }
  const direct::Passes rest = {!wino->forward, !wino->data && !d.no_data, !wino->gradient && !few};
  if (rest.forward || rest.data || rest.gradient) {
    const auto plain = std::make_shared<direct::Conv>(team, d, rest, p->weights);
    p->weights = plain->weights();
    p->forward = std::bind(&direct::Conv::forward, plain, _1, _2, _3, _4);
    p->data = std::bind(&direct::Conv::data, plain, _1, _2, _3);
    p->gradient = std::bind(&direct::Conv::gradient, plain, _1, _2, _3, _4);
    p->algorithms[0] = -plain->slow().forward;
    p->algorithms[1] = -plain->slow().data;
    p->algorithms[2] = -plain->slow().gradient;
  }
  const auto name = [](const winograd::Pass &w) { return 10 * w.tile()->m + w.tile()->r; };
  if (wino->forward) {
    p->forward = [wino, flags = matrix::flags(d)](const float *x, const float *w, const float *b, float *y) {
      wino->forward->forward(x, w, b, y, flags);
    };
    p->algorithms[0] = name(*wino->forward);
  }
  if (wino->data) {
    p->data = [wino](const float *dy, const float *w, float *dx) { wino->data->data(dy, w, dx); };
    p->algorithms[1] = name(*wino->data);
  }
  if (wino->gradient) {
    p->gradient = [wino](const float *x, const float *dy, float *dw, float *db) {
      wino->gradient->gradient(x, dy, dw, db);
    };
    p->algorithms[2] = name(*wino->gradient);
  }
  if (few) p->gradient = std::bind(&shallow::Pass::gradient, few, _1, _2, _3, _4);
  return p.release();
}

ck_product *dense_layer(threads::Team *team, const ck_dense_desc &d) {
  using namespace std::placeholders;
  auto p = std::make_unique<ck_product>();
  p->weights = onednn::blocked(d.out, d.in, ck_block(d.path));
  const auto l = std::make_shared<dense::Layer>(team, d);
  p->forward = std::bind(&dense::Layer::forward, l, _1, _2, _3, _4);
  p->data = std::bind(&dense::Layer::data, l, _1, _2, _3);
  p->gradient = std::bind(&dense::Layer::gradient, l, _1, _2, _3, _4);
  return p.release();
}

} // namespace

extern "C" {

ck_product *ck_conv_new(ck_team *team, const ck_conv_desc *d, char *err) {
  ck_product *p = nullptr;
  onednn::guard(err, [&] { p = conv(team, *d); });
  return p;
}
ck_product *ck_dense_new(ck_team *team, const ck_dense_desc *d, char *err) {
  ck_product *p = nullptr;
  onednn::guard(err, [&] { p = dense_layer(team, *d); });
  return p;
}
const ck_layout *ck_product_weights(const ck_product *p) { return p->weights; }

int ck_product_forward(ck_product *p, const float *x, const float *w, const float *b, float *y, char *err) {
  return onednn::guard(err, [&] { p->forward(x, w, b, y); });
}
int ck_product_backward_data(ck_product *p, const float *dy, const float *w, float *dx, char *err) {
  return onednn::guard(err, [&] { p->data(dy, w, dx); });
}
int ck_product_backward_weights(ck_product *p, const float *x, const float *dy, float *dw, float *db, char *err) {
  return onednn::guard(err, [&] { p->gradient(x, dy, dw, db); });
}
void ck_product_free(ck_product *p) { delete p; }

void ck_product_algorithms(const ck_product *p, int *forward, int *data, int *weights) {
  *forward = p->algorithms[0];
  *data = p->algorithms[1];
  *weights = p->algorithms[2];
}

} // extern "C"
