// The reference of every kernel, one value at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/half.h"
#include "ops/cpu/kernels.h"
#include "quant/kv.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  float squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
  const float scale = 1.0F / std::sqrt(squares / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

void swiglu(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0F + std::exp(-gate[i])) * up[i];
}

void clamped_swiglu(const float* gate, const float* up, int64_t n, float alpha, float limit, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = gate[i] > limit ? limit : gate[i];  // a NaN stays one
    const float u = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
    out[i] = g / (1.0F + std::exp(-(alpha * g))) * (u + 1.0F);
  }
}

void sigmoid_gate(const float* x, const float* gate, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] / (1.0F + std::exp(-gate[i]));
}

void add(const float* a, const float* b, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void rope(const float* x, const float* cos, const float* sin, int64_t heads, int64_t head_dim, float* out) {
  const int64_t half = head_dim / 2;
  for (int64_t h = 0; h < heads; ++h, x += head_dim, out += head_dim)
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[i], b = x[half + i];
      out[i] = a * cos[i] - b * sin[i];
      out[half + i] = b * cos[i] + a * sin[i];
    }
}

void softmax(const float* x, int64_t n, float* out) {
  const float largest = *std::max_element(x, x + n);
  float total = 0;
  for (int64_t i = 0; i < n; ++i) total += out[i] = std::exp(x[i] - largest);
  for (int64_t i = 0; i < n; ++i) out[i] /= total;
}

void quantize(const float* x, int64_t n, int8_t* q, float* scale, int32_t* sum) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  *scale = largest / 127.0F;
  const float inverse = largest > kSmallestQuantized ? 127.0F / largest : 0.0F;
  *sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    q[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
    *sum += q[i];
  }
}

float value(float x) { return x; }
float f16(uint16_t x) { return half_to_float(x); }
float bf16(uint16_t x) { return bfloat_to_float(x); }

template <typename Type, float (*kToFloat)(Type)>
void dense(const void* weight, int64_t rows, int64_t cols, const float* x, int64_t tokens, float* out,
           int64_t out_stride) {
  const auto* w = static_cast<const Type*>(weight);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t r = 0; r < rows; ++r) {
      float sum = 0;
      for (int64_t k = 0; k < cols; ++k) sum += kToFloat(w[r * cols + k]) * x[t * cols + k];
      out[t * out_stride + r] = sum;
    }
}

void tile_panel(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel) {
  const int64_t cols = kGroup * groups;
  std::vector<int8_t> q(static_cast<size_t>(kTileRows * cols));
  unpack_tile(bits, blocks, groups, q.data());
  for (int64_t r = 0; r < kTileRows; ++r)
    for (int64_t k = 0; k < cols; ++k)
      panel[k / 4 * 64 + 4 * r + k % 4] = static_cast<uint8_t>(q[static_cast<size_t>(r * cols + k)]);
}

void tile_dot(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) {
  const int64_t cols = kGroup * groups;
  std::vector<int8_t> q(static_cast<size_t>(kTileRows * cols));
  unpack_tile(bits, blocks, groups, q.data());
  for (int64_t r = 0; r < kTileRows; ++r) {
    out[r] = 0;
    for (int64_t k = 0; k < cols; ++k) out[r] += q[static_cast<size_t>(r * cols + k)] * x[k];
  }
}

int64_t peak_int8(int64_t repeats) {
  volatile int8_t given = 3;  // not known to the compiler
  int32_t sum = 0;
  for (int64_t r = 0; r < repeats; ++r) sum += given * given;
  given = static_cast<int8_t>(sum);
  return repeats;
}

int64_t peak_f32(int64_t repeats) {
  volatile float given = 0.5F;
  float sum = 0;
  for (int64_t r = 0; r < repeats; ++r) sum += given * given;
  given = sum;
  return repeats;
}

float stream_sum(const float* x, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

void tile_dots(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int tokens, int32_t* out) {
  std::vector<int8_t> row(static_cast<size_t>(kGroup * groups));
  for (int t = 0; t < tokens; ++t) {
    for (size_t k = 0; k < row.size(); ++k) row[k] = x[(k / 4 * kTokenPanel + static_cast<size_t>(t)) * 4 + k % 4];
    tile_dot(bits, blocks, groups, row.data(), out + t * kTileRows);
  }
}

void panel_dot(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
               int32_t* out) {
  const uint8_t* panels[kTilePair] = {panel0, panel1};
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < kTilePair; ++i)
      for (int r = 0; r < kTileRows; ++r)
        for (int64_t v = 0; v < 4 * groups; ++v)
          for (int p = 0; p < 4; ++p)
            out[(t * kTilePair + i) * kTileRows + r] +=
                static_cast<int8_t>(panels[i][64 * v + 4 * r + p]) * x[(v * kTokenPanel + t) * 4 + p];
}

void scale_tile(const ScaleTile& tile) {
  for (int64_t t = 0; t < tile.tokens; ++t)
    for (int r = 0; r < kTileRows; ++r) {
      float x = static_cast<float>(tile.sums[t * tile.sums_stride + r] - tile.bias * tile.x_sums[t]) *
                (half_to_float(tile.scales[r]) * tile.x_scales[t]);
      if (tile.offsets != nullptr) x += tile.offsets[r];
      tile.out[t * tile.out_stride + r] = x;
    }
}

float soft_capped(float score, float softcap) { return softcap > 0 ? softcap * std::tanh(score / softcap) : score; }

template <typename Type, float (*kToFloat)(Type)>
void attend_page(const AttendPage& page) {
  const auto* keys = static_cast<const Type*>(page.keys);
  const auto* values = static_cast<const Type*>(page.values);
  for (int64_t row = 0; row < page.rows; ++row) {
    float* sum = page.values_sum[row];
    std::fill(sum, sum + page.head_dim, 0.0F);
    page.maximum[row] = kNoScore;
    page.sum[row] = 0;
    const int64_t tokens = std::max<int64_t>(page.limit[row], 0);
    const int64_t first = page.hidden == nullptr ? 0 : page.hidden[row];
    std::vector<float> scores(static_cast<size_t>(tokens));
    for (int64_t t = first; t < tokens; ++t) {
      float score = 0;
      for (int64_t d = 0; d < page.head_dim; ++d)
        score += page.q[row][d] * kToFloat(keys[(t / kKeyLanes * page.head_dim + d) * kKeyLanes + t % kKeyLanes]);
      score = soft_capped(score * page.scale, page.softcap);
      scores[static_cast<size_t>(t)] = score;
      page.maximum[row] = std::max(page.maximum[row], score);
    }
    for (int64_t t = first; t < tokens; ++t) {
      const float p = std::exp(scores[static_cast<size_t>(t)] - page.maximum[row]);
      page.sum[row] += p;
      for (int64_t d = 0; d < page.head_dim; ++d) sum[d] += p * kToFloat(values[t * page.head_dim + d]);
    }
  }
}

void attend_blocks(const AttendBlocks& a) {
  const int64_t dim = a.head_dim;
  std::vector<float> keys(static_cast<size_t>(kKvBlockTokens * dim)), values(keys.size());
  std::fill(a.results, a.results + a.rows * (kKeyLanes + dim), 0.0F);
  for (int64_t row = 0; row < a.rows; ++row) a.results[row * (kKeyLanes + dim)] = kNoScore;
  for (int64_t block = 0; block < a.count; ++block) {
    kv_decode(KvSide::keys, a.key_bits, a.blocks[block], dim, keys.data());
    kv_decode(KvSide::values, a.value_bits, a.blocks[block] + kv_side_bytes(a.key_bits, dim), dim, values.data());
    for (int64_t row = 0; row < a.rows; ++row) {
      float *result = a.results + row * (kKeyLanes + dim), *sum = result + kKeyLanes;
      for (int64_t t = block == 0 ? a.hidden : 0; t < kKvBlockTokens; ++t) {
        float score = 0;
        for (int64_t d = 0; d < dim; ++d)
          score += static_cast<float>(a.q[row * dim + d]) * keys[static_cast<size_t>(t * dim + d)];
        score = soft_capped(score * a.q_scale[row], a.softcap);
        const float largest = std::max(result[0], score);
        const float keep = result[0] <= kNoScore ? 0.0F : std::exp(result[0] - largest);
        const float p = std::exp(score - largest);
        result[0] = largest;
        result[1] = result[1] * keep + p;
        for (int64_t d = 0; d < dim; ++d) sum[d] = sum[d] * keep + p * values[static_cast<size_t>(t * dim + d)];
      }
    }
  }
}

void attend_merge(float* maximum, float* sum, float* values, float page_maximum, float page_sum,
                  const float* page_values, int64_t head_dim) {
  if (page_sum == 0) return;
  const float largest = std::max(*maximum, page_maximum);
  const float keep = *maximum <= kNoScore ? 0.0F : std::exp(*maximum - largest);
  const float take = std::exp(page_maximum - largest);
  *maximum = largest;
  *sum = *sum * keep + page_sum * take;
  for (int64_t d = 0; d < head_dim; ++d) values[d] = values[d] * keep + page_values[d] * take;
}

void conv1d(const float* const* x, const float* weight, int64_t stride, int64_t taps, int64_t n, float* out) {
  for (int64_t c = 0; c < n; ++c) {
    float sum = 0;
    for (int64_t t = 0; t < taps; ++t) sum += weight[t * stride + c] * x[t][c];
    out[c] = sum / (1.0F + std::exp(-sum));
  }
}

void gated_delta(const DeltaChunk& d) {
  for (int64_t t = 0; t < d.tokens; ++t) {
    const int64_t i = d.begin + t;
    const float *q = d.q + t * d.qk_stride, *k = d.k + t * d.qk_stride;
    float *key_weights = d.key_weights + i * kDeltaChunk, *query_weights = d.query_weights + i * kDeltaChunk;
    const float beta = d.beta[t * d.gate_stride];
    d.decays[i] = (i == 0 ? 0.0F : d.decays[i - 1]) + d.log_decay[t * d.gate_stride];
    for (int64_t m = 0; m < d.key_dim; ++m) d.keys[m * kDeltaChunk + i] = k[m];
    for (int64_t j = 0; j <= i; ++j) {
      float with_key = 0, with_query = 0;
      for (int64_t m = 0; m < d.key_dim; ++m) {
        with_key += k[m] * d.keys[m * kDeltaChunk + j];
        with_query += q[m] * d.keys[m * kDeltaChunk + j];
      }
      const float decay = std::exp(d.decays[i] - d.decays[j]);
      key_weights[j] = -beta * decay * with_key;
      query_weights[j] = decay * with_query;
    }
    const float growth = std::exp(d.decays[i]);
    for (int64_t c = 0; c < d.value_dim; ++c) {
      float recalled = 0, result = 0;
      for (int64_t m = 0; m < d.key_dim; ++m) {
        recalled += d.memory[m * d.value_dim + c] * k[m];
        result += d.memory[m * d.value_dim + c] * q[m];
      }
      float change = (d.v[t * d.v_stride + c] - growth * recalled) * beta;
      result *= growth;
      for (int64_t j = 0; j < i; ++j) {
        change += key_weights[j] * d.changes[j * d.value_dim + c];
        result += query_weights[j] * d.changes[j * d.value_dim + c];
      }
      d.changes[i * d.value_dim + c] = change;
      d.out[t * d.out_stride + c] = result + query_weights[i] * change;
    }
  }
  if (d.begin + d.tokens < kDeltaChunk) return;
  const float last = d.decays[kDeltaChunk - 1];
  for (int64_t m = 0; m < d.key_dim; ++m)
    for (int64_t c = 0; c < d.value_dim; ++c) {
      float& memory = d.memory[m * d.value_dim + c];
      memory *= std::exp(last);
      for (int64_t j = 0; j < kDeltaChunk; ++j)
        memory += std::exp(last - d.decays[j]) * d.keys[m * kDeltaChunk + j] * d.changes[j * d.value_dim + c];
    }
}

}  // namespace

constinit const Kernels kScalarKernels = {
    .level = CpuLevel::scalar,
    .peak_int8 = peak_int8,
    .peak_f32 = peak_f32,
    .stream_sum = stream_sum,
    .rms_norm = rms_norm,
    .swiglu = swiglu,
    .clamped_swiglu = clamped_swiglu,
    .sigmoid_gate = sigmoid_gate,
    .add = add,
    .rope = rope,
    .softmax = softmax,
    .quantize = quantize,
    .dense_f32 = dense<float, value>,
    .dense_f16 = dense<uint16_t, f16>,
    .dense_bf16 = dense<uint16_t, bf16>,
    .tile_dot = tile_dot,
    .tile_dots = tile_dots,
    .shared_tokens = kTokenPanel,
    .tile_panel = tile_panel,
    .panel_dot = panel_dot,
    .bias = 0,
    .scale_tile = scale_tile,
    .attend_page_f16 = attend_page<uint16_t, f16>,
    .attend_page_f32 = attend_page<float, value>,
    .attend_blocks = attend_blocks,
    .attend_merge = attend_merge,
    .conv1d = conv1d,
    .gated_delta = gated_delta,
};

}  // namespace turboquant
