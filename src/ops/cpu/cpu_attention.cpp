// Attention of the CPU backend over pages of full-precision keys and values.
//
// A page holds, for each KV head, keys [kPageTokens / 16][head_dim][16] and then values [kPageTokens][head_dim]. Each
// page gives every query row a result of its own, and the results are merged in page order: the same additions whether
// one thread walks the pages of a row (prefill) or the threads share them (decode).
#include <algorithm>
#include <array>
#include <cstring>

#include "core/half.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/expect.h"

namespace turboquant {
namespace {

// What one (row, page) pair leaves behind: maximum, sum, then the values, in this many floats.
int64_t result_floats(int64_t head_dim) { return head_dim + kKeyLanes; }

void store(DType dtype, std::byte* base, int64_t index, float value) {
  if (dtype == DType::f32)
    reinterpret_cast<float*>(base)[index] = value;
  else
    reinterpret_cast<uint16_t*>(base)[index] = float_to_half(value);
}

void expect_cache(const AttentionShape& shape, const KvPages& cache, int64_t tokens, const char* op) {
  if (cache.dtype != DType::f16 && cache.dtype != DType::f32)
    throw Error(std::string(op) + ": a cache is F16 or F32, got " + std::string(name(cache.dtype)));
  if (shape.head_dim < 1 || shape.head_dim % kKeyLanes != 0)
    throw Error("attention heads of " + std::to_string(shape.head_dim) +
                " are not supported: head_dim must be a multiple of " + std::to_string(kKeyLanes));
  if (shape.n_kv_heads < 1 || shape.n_heads % shape.n_kv_heads != 0)
    throw Error(std::string(op) + ": " + std::to_string(shape.n_heads) + " heads do not share " +
                std::to_string(shape.n_kv_heads) + " key and value heads evenly");
  const auto pages = static_cast<int64_t>(cache.pages.size());
  if (tokens > pages * kPageTokens)
    throw Error(std::string(op) + ": " + std::to_string(tokens) + " tokens do not fit " + std::to_string(pages) +
                " pages of " + std::to_string(kPageTokens));
}

}  // namespace

size_t CpuOps::page_bytes(const AttentionShape& shape, DType dtype) const {
  return static_cast<size_t>(2 * shape.n_kv_heads * kPageTokens * shape.head_dim) * item_size(dtype);
}

void CpuOps::append_kv(const Tensor& keys, const Tensor& values, const AttentionShape& shape, const KvPages& cache) {
  const int64_t dim = shape.head_dim, width = shape.n_kv_heads * dim;
  expect(keys, DType::f32, 2, "append_kv", "keys");
  expect_cache(shape, cache, cache.length + keys.dim(0), "append_kv");
  expect_equal(keys.dim(1), width, "append_kv", "width of keys");
  expect(values, DType::f32, keys.shape(), "append_kv", "values");
  const size_t head_bytes = static_cast<size_t>(kPageTokens * dim) * item_size(cache.dtype);
  pool_.parallel_for(keys.dim(0), std::max<int64_t>(1, 2048 / width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t position = cache.length + i, token = position % kPageTokens;
      std::byte* page = cache.pages[static_cast<size_t>(position / kPageTokens)];
      for (int64_t h = 0; h < shape.n_kv_heads; ++h) {
        std::byte* key_base = page + static_cast<size_t>(2 * h) * head_bytes;
        std::byte* value_base = key_base + head_bytes;
        const float* k = keys.data<float>() + i * width + h * dim;
        const float* v = values.data<float>() + i * width + h * dim;
        for (int64_t d = 0; d < dim; ++d) {
          store(cache.dtype, key_base, (token / kKeyLanes * dim + d) * kKeyLanes + token % kKeyLanes, k[d]);
          store(cache.dtype, value_base, token * dim + d, v[d]);
        }
      }
    }
  });
}

void CpuOps::read_kv(const AttentionShape& shape, const KvPages& cache, int64_t begin, Tensor keys,
                     Tensor values) const {
  const int64_t dim = shape.head_dim, width = shape.n_kv_heads * dim;
  expect(keys, DType::f32, 2, "read_kv", "keys");
  expect_cache(shape, cache, cache.length, "read_kv");
  expect_equal(keys.dim(1), width, "read_kv", "width of keys");
  expect(values, DType::f32, keys.shape(), "read_kv", "values");
  if (begin < 0 || begin + keys.dim(0) > cache.length ||
      (keys.dim(0) > 0 && cache.pages[static_cast<size_t>(begin / kPageTokens)] == nullptr))
    throw Error("read_kv: tokens that are not in the cache");
  const size_t head_bytes = static_cast<size_t>(kPageTokens * dim) * item_size(cache.dtype);
  const auto load = [&](const std::byte* base, int64_t at) {
    return cache.dtype == DType::f16 ? half_to_float(reinterpret_cast<const uint16_t*>(base)[at])
                                     : reinterpret_cast<const float*>(base)[at];
  };
  pool_.parallel_for(keys.dim(0), std::max<int64_t>(1, 2048 / width), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t position = begin + i, token = position % kPageTokens;
      const std::byte* page = cache.pages[static_cast<size_t>(position / kPageTokens)];
      for (int64_t h = 0; h < shape.n_kv_heads; ++h) {
        const std::byte* key_base = page + static_cast<size_t>(2 * h) * head_bytes;
        const std::byte* value_base = key_base + head_bytes;
        for (int64_t d = 0; d < dim; ++d) {
          keys.data<float>()[i * width + h * dim + d] =
              load(key_base, (token / kKeyLanes * dim + d) * kKeyLanes + token % kKeyLanes);
          values.data<float>()[i * width + h * dim + d] = load(value_base, token * dim + d);
        }
      }
    }
  });
}

void CpuOps::attention(const Tensor& queries, const AttentionShape& shape, const KvPages& cache, Tensor out) {
  expect(queries, DType::f32, 2, "attention", "queries");
  expect_cache(shape, cache, cache.length, "attention");
  expect_equal(queries.dim(1), shape.n_heads * shape.head_dim, "attention", "width of queries");
  expect(out, DType::f32, queries.shape(), "attention", "out");
  if (shape.sinks) expect(shape.sinks, DType::f32, Shape{shape.n_heads}, "attention", "sinks");
  if (queries.dim(0) > cache.length)
    throw Error("attention: " + std::to_string(queries.dim(0)) + " queries, but the cache holds " +
                std::to_string(cache.length) + " tokens: append their keys and values first");
  const int64_t tokens = queries.dim(0), dim = shape.head_dim, group = shape.n_heads / shape.n_kv_heads;
  const int64_t rows = tokens * group;  // of one KV head; row = token * group + head in the group
  const int64_t first_position = cache.length - tokens;
  const int64_t pages = (cache.length + kPageTokens - 1) / kPageTokens;
  // Pages that lie before every window of these queries are never touched.
  const auto first_page = [&](int64_t position) {
    return shape.window == 0 ? 0 : std::max<int64_t>(position - shape.window + 1, 0) / kPageTokens;
  };
  const int64_t floats = result_floats(dim);
  const size_t head_bytes = static_cast<size_t>(kPageTokens * dim) * item_size(cache.dtype);
  const auto attend = cache.dtype == DType::f16 ? kernels_.attend_page_f16 : kernels_.attend_page_f32;
  const auto offset = [&](int64_t head, int64_t row) {
    return row / group * shape.n_heads * dim + (head * group + row % group) * dim;
  };
  // Rows [first, first + count) of a KV head, at most kAttendRows, over one page, results at `results`.
  const auto one_page = [&](int64_t head, int64_t first, int64_t count, int64_t page, float* results) {
    std::array<const float*, kAttendRows> q{};
    std::array<int64_t, kAttendRows> limit{}, hidden{};
    std::array<float, kAttendRows> maximum{}, sum{};
    std::array<float*, kAttendRows> values{};
    for (int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      q[at] = queries.data<float>() + offset(head, first + i);
      const int64_t visible = first_position + (first + i) / group + 1 - page * kPageTokens;
      limit[at] = std::clamp<int64_t>(visible, 0, kPageTokens);
      hidden[at] = shape.window == 0 ? 0 : std::clamp<int64_t>(visible - shape.window, 0, kPageTokens);
      values[at] = results + i * floats + kKeyLanes;
    }
    const std::byte* base = cache.pages[static_cast<size_t>(page)] + static_cast<size_t>(2 * head) * head_bytes;
    attend({base, base + head_bytes, dim, shape.scale, count, q.data(), limit.data(), maximum.data(), sum.data(),
            values.data(), hidden.data(), shape.softcap});
    for (int64_t i = 0; i < count; ++i) {
      results[i * floats] = maximum[static_cast<size_t>(i)];
      results[i * floats + 1] = sum[static_cast<size_t>(i)];
    }
  };
  const auto merge = [&](float* total, const float* part) {
    kernels_.attend_merge(total, total + 1, total + kKeyLanes, part[0], part[1], part + kKeyLanes, dim);
  };
  // A sink is what was seen first: a score without a value.
  const auto start = [&](int64_t head, int64_t row, float* total) {
    std::fill(total, total + floats, 0.0F);
    total[0] = shape.sinks ? shape.sinks.data<float>()[head * group + row % group] : kNoScore;
    total[1] = shape.sinks ? 1.0F : 0.0F;
  };
  const auto finish = [&](int64_t head, int64_t row, const float* total) {
    float* o = out.data<float>() + offset(head, row);
    for (int64_t d = 0; d < dim; ++d) o[d] = total[kKeyLanes + d] / total[1];
  };

  const int64_t skipped = first_page(first_position), seen_pages = pages - skipped;
  if (rows <= kSharedRows && seen_pages > 1) {  // decode: the threads share the pages of a head
    Tensor parts = arena_.allocate(DType::f32, {shape.n_kv_heads, seen_pages, rows, floats});
    const auto part = [&](int64_t head, int64_t page) {
      return parts.data<float>() + (head * seen_pages + page) * rows * floats;
    };
    pool_.parallel_for(shape.n_kv_heads * seen_pages, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t head = i / seen_pages, page = i % seen_pages;
        for (int64_t first = 0; first < rows; first += kAttendRows)
          one_page(head, first, std::min<int64_t>(kAttendRows, rows - first), skipped + page,
                   part(head, page) + first * floats);
      }
    });
    std::vector<float> total(static_cast<size_t>(floats));
    for (int64_t head = 0; head < shape.n_kv_heads; ++head)
      for (int64_t row = 0; row < rows; ++row) {
        start(head, row, total.data());
        for (int64_t page = 0; page < seen_pages; ++page) merge(total.data(), part(head, page) + row * floats);
        finish(head, row, total.data());
      }
    return;
  }
  const int64_t pieces = (rows + kAttendRows - 1) / kAttendRows;
  pool_.parallel_for(shape.n_kv_heads * pieces, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> total(static_cast<size_t>(kAttendRows * floats)), part(total.size());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / pieces, first = i % pieces * kAttendRows,
                    count = std::min<int64_t>(kAttendRows, rows - first);
      for (int64_t row = 0; row < count; ++row) start(head, first + row, total.data() + row * floats);
      const int64_t seen = first_position + (first + count - 1) / group + 1;
      for (int64_t page = first_page(first_position + first / group); page * kPageTokens < seen; ++page) {
        one_page(head, first, count, page, part.data());
        for (int64_t row = 0; row < count; ++row) merge(total.data() + row * floats, part.data() + row * floats);
      }
      for (int64_t row = 0; row < count; ++row) finish(head, first + row, total.data() + row * floats);
    }
  });
}

}  // namespace turboquant
