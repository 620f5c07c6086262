#include "ops/cpu/cpu_ops.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "ops/cpu/expect.h"
#include "quant/rotation.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

// Rows of F32 [tokens, width] are worth a thread from about this many elements on.
constexpr int64_t kElementsPerTask = 4096;

int64_t rows_per_task(int64_t width) { return std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(width, 1)); }

// Where the bytes of a token lie among int8 activations: one token as it is; several in panels of kTokenPanel,
// [width / 4][kTokenPanel][4], the last panel padded.
struct PackedToken {
  PackedToken(const Activations& x, int64_t token)
      : offset(x.tokens == 1 ? 0 : token / kTokenPanel * kTokenPanel * x.width + token % kTokenPanel * 4),
        stride(x.tokens == 1 ? 4 : 4 * kTokenPanel) {}

  int64_t offset;  // of the first 4 columns
  int64_t stride;  // from 4 columns to the next 4
};

// Tokens of one panel, rows one behind the other, to their places in x.
void pack(const int8_t* rows, int64_t count, const PackedToken& to, Activations& x) {
  int8_t* out = x.q.data<int8_t>() + to.offset;
  for (int64_t k = 0; k < x.width; k += 4, out += to.stride)
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + 4 * i, rows + i * x.width + k, 4);
}

void allocate_int8(Arena& arena, Activations& x) {
  const int64_t panels = (x.tokens + kTokenPanel - 1) / kTokenPanel;
  x.q = arena.allocate(DType::i8, {x.tokens == 1 ? 1 : panels * kTokenPanel, x.width});
  x.scale = arena.allocate(DType::f32, {x.tokens});
  x.sum = arena.allocate(DType::i32, {x.tokens});
}

}  // namespace

std::unique_ptr<Ops> make_cpu_ops(std::shared_ptr<ThreadPool> pool) {
  return std::make_unique<CpuOps>(std::move(pool), cpu_level());
}

Tensor CpuOps::embedding(const Weight& table, const Rotation& rotation, std::span<const int32_t> ids) {
  const auto tokens = static_cast<int64_t>(ids.size());
  if (rotation) expect_equal(rotation.signs.dim(0), table.cols, "embedding", "width of the rotation");
  Tensor out = arena_.allocate(DType::f32, {tokens, table.cols});
  for (const int32_t id : ids)
    if (id < 0 || id >= table.rows)
      throw Error("token " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(table.rows));
  pool_.parallel_for(tokens, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = out.data<float>() + t * table.cols;
      decode_rows(table, ids[static_cast<size_t>(t)], ids[static_cast<size_t>(t)] + 1, row);
      if (rotation) rotate_inverse(rotation, row, row);
    }
  });
  return out;
}

Tensor CpuOps::rms_norm(const Tensor& x, const Tensor& weight, float eps) {
  expect(x, DType::f32, 2, "rms_norm", "x");
  expect(weight, DType::f32, 1, "rms_norm", "weight");
  const int64_t width = x.dim(1);
  expect_equal(weight.dim(0), width, "rms_norm", "length of weight");
  Tensor out = arena_.allocate(DType::f32, x.shape());
  pool_.parallel_for(x.dim(0), rows_per_task(width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.rms_norm(x.data<float>() + t * width, weight.data<float>(), width, eps, out.data<float>() + t * width);
  });
  return out;
}

Activations CpuOps::prepare(const Tensor& x, const Rotation& rotation, bool exact) {
  expect(x, DType::f32, 2, "prepare", "x");
  Activations result;
  result.tokens = x.dim(0);
  result.width = x.dim(1);
  if (rotation) expect_equal(rotation.signs.dim(0), result.width, "prepare", "width of the rotation");
  if (!exact && result.width % kGroup != 0)
    throw Error("prepare: int8 activations need a width that is a multiple of " + std::to_string(kGroup) + ", got " +
                std::to_string(result.width));
  result.x = rotation ? arena_.allocate(DType::f32, x.shape()) : x;
  if (!exact) {
    allocate_int8(arena_, result);
  }
  // Panels of a thread's own, if there are enough of them: several would write to the same cache lines.
  const int64_t grain = result.tokens >= 2 * kTokenPanel * pool_.size() ? kTokenPanel : rows_per_task(result.width);
  pool_.parallel_for(result.tokens, grain, [&](int64_t begin, int64_t end) {
    thread_local std::vector<int8_t> rows;
    if (!exact && result.tokens > 1) rows.resize(static_cast<size_t>(kTokenPanel * result.width));
    for (int64_t t = begin; t < end;) {
      const int64_t next = std::min(end, (t / kTokenPanel + 1) * kTokenPanel), first = t;
      for (; t < next; ++t) {
        float* rotated = result.x.data<float>() + t * result.width;
        if (rotation) rotate(rotation, x.data<float>() + t * result.width, rotated);
        if (exact) continue;
        int8_t* q = result.tokens == 1 ? result.q.data<int8_t>() : rows.data() + (t - first) * result.width;
        kernels_.quantize(rotated, result.width, q, result.scale.data<float>() + t, result.sum.data<int32_t>() + t);
      }
      if (!exact && result.tokens > 1) pack(rows.data(), next - first, PackedToken(result, first), result);
    }
  });
  return result;
}

Activations CpuOps::gather(const Activations& x, std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) expect_below(token, x.tokens, "gather", "a token");
  Activations result;
  result.tokens = static_cast<int64_t>(tokens.size());
  result.width = x.width;
  if (!x.q) {
    result.x = gather_rows(x.x, tokens);
    return result;
  }
  allocate_int8(arena_, result);
  pool_.parallel_for(result.tokens, 4 * rows_per_task(x.width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t source = tokens[static_cast<size_t>(t)];
      const PackedToken from(x, source), to(result, t);
      const int8_t* in = x.q.data<int8_t>() + from.offset;
      int8_t* out = result.q.data<int8_t>() + to.offset;
      for (int64_t k = 0; k < x.width / 4; ++k) std::memcpy(out + k * to.stride, in + k * from.stride, 4);
      result.scale.data<float>()[t] = x.scale.data<float>()[source];
      result.sum.data<int32_t>()[t] = x.sum.data<int32_t>()[source];
    }
  });
  return result;
}

Tensor CpuOps::rope(const Tensor& x, const Tensor& cos, const Tensor& sin, std::span<const int32_t> positions,
                    int64_t head_dim) {
  expect(x, DType::f32, 2, "rope", "x");
  expect(cos, DType::f32, 2, "rope", "cos");
  expect_equal(static_cast<int64_t>(positions.size()), x.dim(0), "rope", "number of positions");
  expect(sin, DType::f32, cos.shape(), "rope", "sin");
  const int64_t half = cos.dim(1);
  const int64_t dim = head_dim == 0 ? 2 * half : head_dim;
  if (half < 1 || dim < 2 * half || x.dim(1) % dim != 0)
    throw Error("rope: x " + to_string(x.shape()) + " does not consist of heads of " + std::to_string(dim) +
                (head_dim == 0 ? ", " : ", at least ") + "twice the width of cos");
  const int64_t heads = x.dim(1) / dim;
  for (const int32_t position : positions) expect_below(position, cos.dim(0), "rope", "a position");
  Tensor out = arena_.allocate(DType::f32, x.shape());
  pool_.parallel_for(x.dim(0), rows_per_task(x.dim(1)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = positions[static_cast<size_t>(t)] * half;
      const float *c = cos.data<float>() + row, *s = sin.data<float>() + row, *from = x.data<float>() + t * x.dim(1);
      float* to = out.data<float>() + t * x.dim(1);
      if (dim == 2 * half) {
        kernels_.rope(from, c, s, heads, dim, to);
        continue;
      }
      for (int64_t h = 0; h < heads; ++h, from += dim, to += dim) {
        kernels_.rope(from, c, s, 1, 2 * half, to);
        std::copy(from + 2 * half, from + dim, to + 2 * half);
      }
    }
  });
  return out;
}

Tensor CpuOps::swiglu(const Tensor& gate, const Tensor& up) {
  expect(gate, DType::f32, 2, "swiglu", "gate");
  expect(up, DType::f32, gate.shape(), "swiglu", "up");
  Tensor out = arena_.allocate(DType::f32, gate.shape());
  pool_.parallel_for(gate.elements(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    kernels_.swiglu(gate.data<float>() + begin, up.data<float>() + begin, end - begin, out.data<float>() + begin);
  });
  return out;
}

Tensor CpuOps::clamped_swiglu(const Tensor& gate, const Tensor& up, float alpha, float limit) {
  expect(gate, DType::f32, 2, "clamped_swiglu", "gate");
  expect(up, DType::f32, gate.shape(), "clamped_swiglu", "up");
  Tensor out = arena_.allocate(DType::f32, gate.shape());
  pool_.parallel_for(gate.elements(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    kernels_.clamped_swiglu(gate.data<float>() + begin, up.data<float>() + begin, end - begin, alpha, limit,
                            out.data<float>() + begin);
  });
  return out;
}

Tensor CpuOps::sigmoid_gate(const Tensor& x, const Tensor& gate) {
  expect(x, DType::f32, 2, "sigmoid_gate", "x");
  expect(gate, DType::f32, x.shape(), "sigmoid_gate", "gate");
  Tensor out = arena_.allocate(DType::f32, x.shape());
  pool_.parallel_for(x.elements(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    kernels_.sigmoid_gate(x.data<float>() + begin, gate.data<float>() + begin, end - begin, out.data<float>() + begin);
  });
  return out;
}

Tensor CpuOps::slice_blocks(const Tensor& x, int64_t blocks, int64_t begin, int64_t end) {
  expect(x, DType::f32, 2, "slice_blocks", "x");
  if (blocks < 1 || x.dim(1) % blocks != 0)
    throw Error("slice_blocks: x " + to_string(x.shape()) + " does not consist of " + std::to_string(blocks) +
                " equal blocks");
  const int64_t block = x.dim(1) / blocks, width = end - begin;
  if (begin < 0 || width < 0 || end > block)
    throw Error("slice_blocks: columns " + std::to_string(begin) + " to " + std::to_string(end) + " of blocks of " +
                std::to_string(block));
  Tensor out = arena_.allocate(DType::f32, {x.dim(0), blocks * width});
  pool_.parallel_for(x.dim(0), 4 * rows_per_task(x.dim(1)), [&](int64_t first, int64_t last) {
    for (int64_t i = first * blocks; i < last * blocks; ++i)
      std::copy_n(x.data<float>() + i * block + begin, width, out.data<float>() + i * width);
  });
  return out;
}

Tensor CpuOps::add(const Tensor& a, const Tensor& b) {
  expect(a, DType::f32, 2, "add", "a");
  expect(b, DType::f32, a.shape(), "add", "b");
  Tensor out = arena_.allocate(DType::f32, a.shape());
  pool_.parallel_for(a.elements(), 4 * kElementsPerTask, [&](int64_t begin, int64_t end) {
    kernels_.add(a.data<float>() + begin, b.data<float>() + begin, end - begin, out.data<float>() + begin);
  });
  return out;
}

Tensor CpuOps::gather_rows(const Tensor& x, std::span<const int32_t> rows) {
  expect(x, DType::f32, 2, "gather_rows", "x");
  for (const int32_t row : rows) expect_below(row, x.dim(0), "gather_rows", "a row");
  const int64_t width = x.dim(1);
  Tensor out = arena_.allocate(DType::f32, {static_cast<int64_t>(rows.size()), width});
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(out.data<float>() + static_cast<int64_t>(i) * width, x.data<float>() + rows[i] * width,
                static_cast<size_t>(width) * sizeof(float));
  return out;
}

Tensor CpuOps::weighted_rows(const Tensor& x, std::span<const int32_t> rows, std::span<const float> weights,
                             int64_t per_token) {
  expect(x, DType::f32, 2, "weighted_rows", "x");
  if (per_token < 1) throw Error("weighted_rows: expected at least one row a token");
  expect_equal(static_cast<int64_t>(weights.size()), static_cast<int64_t>(rows.size()), "weighted_rows",
               "number of weights");
  for (const int32_t row : rows) expect_below(row, x.dim(0), "weighted_rows", "a row");
  const int64_t width = x.dim(1), tokens = static_cast<int64_t>(rows.size()) / per_token;
  expect_equal(tokens * per_token, static_cast<int64_t>(rows.size()), "weighted_rows", "number of used rows");
  Tensor out = arena_.allocate(DType::f32, {tokens, width});
  pool_.parallel_for(tokens, std::max<int64_t>(1, rows_per_task(width) / per_token), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* sum = out.data<float>() + t * width;
      std::fill(sum, sum + width, 0.0F);
      for (int64_t j = t * per_token; j < (t + 1) * per_token; ++j) {
        const float weight = weights[static_cast<size_t>(j)];
        const float* row = x.data<float>() + rows[static_cast<size_t>(j)] * width;
        for (int64_t i = 0; i < width; ++i) sum[i] += weight * row[i];
      }
    }
  });
  return out;
}

void CpuOps::each(std::span<const int64_t> weights, const Piece& piece) {
  // One of more than half of a thread's share could leave the others waiting at the end.
  const int64_t most = std::accumulate(weights.begin(), weights.end(), int64_t{0}) / (2 * pool_.size());
  std::vector<int64_t> light;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= most)
      light.push_back(static_cast<int64_t>(i));
    else
      piece(*this, static_cast<int64_t>(i));
  }
  pool_.parallel_for(static_cast<int64_t>(light.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) piece(*this, light[static_cast<size_t>(i)]);
  });
}

Tensor CpuOps::softmax(const Tensor& x) {
  expect(x, DType::f32, 2, "softmax", "x");
  const int64_t width = x.dim(1);
  Tensor out = arena_.allocate(DType::f32, x.shape());
  pool_.parallel_for(x.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.softmax(x.data<float>() + t * width, width, out.data<float>() + t * width);
  });
  return out;
}

}  // namespace turboquant
