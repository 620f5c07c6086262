// The kernels of the CPU backend: plain functions on pointers, one table an instruction set. They trust their caller;
// shapes and types are validated in cpu_ops.cpp. The table `scalar` is the readable reference of all others.
#pragma once

#include <cstdint>

#include "core/cpu.h"
#include "ops/delta.h"

namespace turboquant {

/// One page of a layer's keys and values, for one KV head and some query rows that share it.
struct AttendPage {
  const void* keys;    // [tokens / 16][head_dim][16]: 16 tokens side by side, one vector a coordinate
  const void* values;  // [tokens][head_dim]
  int64_t head_dim;    // a multiple of 16
  float scale;
  int64_t rows;           // query rows, at most kAttendRows
  const float* const* q;  // [rows] -> [head_dim]
  const int64_t* limit;   // [rows] how many tokens of this page the row may see; may be <= 0
  // Result of every row, over this page alone: the largest score (kNoScore if it sees nothing), the sum of
  // exp(score - maximum), and the values weighted by that [head_dim].
  float* maximum;
  float* sum;
  float* const* values_sum;
  // [rows] how many of the page's first tokens lie before the row's sliding window; null: none for all rows.
  const int64_t* hidden = nullptr;
  float softcap = 0;  // as in AttentionShape
};

/// Some blocks of a layer's compressed keys and values (quant/kv.h), for one KV head and some query rows that share it.
struct AttendBlocks {
  int key_bits, value_bits;
  int64_t head_dim;              // a multiple of 16, at most kKvMaxHeadDim
  int64_t count;                 // blocks, in the order of their tokens, at most kSpanBlocks
  const uint8_t* const* blocks;  // [count] -> keys and then values of this head
  int64_t hidden;                // how many of the first block's first tokens are not seen, fewer than 64
  int64_t rows;                  // query rows, any number; each sees all else
  const int8_t* q;               // [rows][head_dim], in the basis of the keys
  const float* q_scale;          // [rows] a score is q_scale * sum(q * key)
  const int32_t* q_sum;          // [rows] sum of q
  // [rows][kKeyLanes + head_dim] of every row the maximum, the sum and, from kKeyLanes on, the values as in AttendPage;
  // the values in the basis that they are stored in.
  float* results;
  float softcap = 0;  // as in AttentionShape
  // For speed, with many rows: where the codes may be decoded to once for all of them, [2][count][64 * head_dim] bytes;
  // null: decoded again for every few rows. The results are the same.
  uint8_t* panel = nullptr;
  // For speed: the blocks of the next call of this thread, whose keys are fetched, and whether the call before did
  // that.
  const uint8_t* const* next = nullptr;  // [next_count]
  int64_t next_count = 0;
  bool fetched = false;
};

/// New tokens of a chunk of the gated delta rule, of one value head; all tokens lie in the same chunk of kDeltaChunk
/// (ops.h). With the memory S at the chunk's start, G_i the sum of log decays up to token i, and i, j tokens of the
/// chunk (Yang et al. 2024, "Gated Delta Networks": the WY form, solved row by row):
///   key_weights[i][j] = -beta_i exp(G_i - G_j) k_i . k_j,   query_weights[i][j] = exp(G_i - G_j) q_i . k_j
///   change_i = beta_i (v_i - exp(G_i) S^T k_i) + sum of key_weights[i][j] change_j, j < i
///   out_i = exp(G_i) S^T q_i + sum of query_weights[i][j] change_j, j <= i
/// and when the chunk is full, S = exp(G_last) S + sum of exp(G_last - G_j) k_j change_j^T.
struct DeltaChunk {
  int64_t begin, tokens;  // of the chunk, `begin` are remembered and `tokens` are new; at most kDeltaChunk in all
  int64_t key_dim, value_dim;
  const float *q, *k;  // [tokens][key_dim], unit vectors, q divided by sqrt(key_dim)
  int64_t qk_stride;   // from one token to the next, in floats, as all strides
  const float* v;      // [tokens][value_dim]
  int64_t v_stride;
  const float *log_decay, *beta;  // [tokens]
  int64_t gate_stride;
  float* memory;                       // [key_dim][value_dim]
  float* keys;                         // [key_dim][kDeltaChunk] of the chunk; finite everywhere
  float* changes;                      // [kDeltaChunk][value_dim]
  float* decays;                       // [kDeltaChunk] G; finite everywhere
  float *key_weights, *query_weights;  // [kDeltaChunk][kDeltaChunk], scratch
  float* out;                          // [tokens][value_dim]
  int64_t out_stride;
};

constexpr float kNoScore = -3.0e38F;

constexpr float kSmallestQuantized = 1e-30F;  // largest value of a vector that quantizes to zeros: 127 / it is finite

constexpr int kKeyLanes = 16;     // tokens side by side in a key page
constexpr int kAttendRows = 8;    // query rows that share one reading of a page
constexpr int kSharedRows = 32;   // with so many rows, threads share the context; with more, the rows
constexpr int kPageTokens = 256;  // tokens of one page of a cache
constexpr int kSpanBlocks = 8;    // compressed blocks that one call attends to
constexpr int kTokenPanel = 12;   // tokens side by side in packed int8 activations
constexpr int kTilePair = 2;      // tiles that a panel product works on

/// The results of a whole tile of 16 rows, token by token, from its integer sums:
/// out[t][r] = (sums[t][r] - bias * x_sums[t]) * (fp16 scales[r] * x_scales[t]) + offsets[r].
struct ScaleTile {
  const int32_t* sums;
  int64_t sums_stride;  // from one token to the next, in elements
  int64_t tokens;
  int32_t bias;
  const int32_t* x_sums;
  const uint16_t* scales;
  const float* x_scales;
  const float* offsets;  // null: none
  float* out;
  int64_t out_stride;
};

struct Kernels {
  CpuLevel level;

  /// Ceilings to compare with: multiply-adds in registers and nothing else. Return how many they did.
  int64_t (*peak_int8)(int64_t repeats);
  int64_t (*peak_f32)(int64_t repeats);
  /// The same for reading memory: the sum of x [n], n a multiple of 128.
  float (*stream_sum)(const float* x, int64_t n);

  /// out = x / sqrt(mean(x^2) + eps) * weight.
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* out);
  /// out = silu(gate) * up.
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* out);
  /// out = g * sigmoid(alpha * g) * (u + 1), g = min(gate, limit), u = up within -limit .. limit.
  void (*clamped_swiglu)(const float* gate, const float* up, int64_t n, float alpha, float limit, float* out);
  /// out = x * sigmoid(gate).
  void (*sigmoid_gate)(const float* x, const float* gate, int64_t n, float* out);
  void (*add)(const float* a, const float* b, int64_t n, float* out);
  /// Rotates the halves of each head: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); cos, sin [head_dim / 2].
  void (*rope)(const float* x, const float* cos, const float* sin, int64_t heads, int64_t head_dim, float* out);
  /// Probabilities of logits.
  void (*softmax)(const float* x, int64_t n, float* out);
  /// q = round(x / scale), scale = max|x| / 127 (q = 0 if max|x| <= kSmallestQuantized); sum of q.
  void (*quantize)(const float* x, int64_t n, int8_t* q, float* scale, int32_t* sum);

  /// out[t][r] = sum over k of weight[r][k] * x[t][k], for `rows` rows and `tokens` tokens; strides in elements. Each
  /// (row, token) is summed in the same order whatever the others are.
  void (*dense_f32)(const void* weight, int64_t rows, int64_t cols, const float* x, int64_t tokens, float* out,
                    int64_t out_stride);
  void (*dense_f16)(const void* weight, int64_t rows, int64_t cols, const float* x, int64_t tokens, float* out,
                    int64_t out_stride);
  void (*dense_bf16)(const void* weight, int64_t rows, int64_t cols, const float* x, int64_t tokens, float* out,
                     int64_t out_stride);

  /// One tile (bits 2, 3, 4, 8; quant/tile.h) times one int8 vector: 16 sums of (q + bias) * x.
  void (*tile_dot)(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out);
  /// The same times up to `shared_tokens` packed ones (as panel_dot has them), tokens > 1, decoded once: [tokens][16].
  void (*tile_dots)(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int tokens, int32_t* out);
  int shared_tokens;  // 1: there is no tile_dots; a panel is as fast
  /// The tile's integers, q + bias, as 256 * groups bytes in the level's own order: [4 * groups][16 rows][4 columns],
  /// at amx that of amx_panels.h.
  void (*tile_panel)(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel);
  /// kTilePair such panels times one panel of `tokens` <= kTokenPanel packed activations [4 * groups][kTokenPanel][4],
  /// all of which may be read: out[t][tile][r] += sums of (q + bias) * x.
  void (*panel_dot)(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
                    int32_t* out);
  /// `groups` blocks of a tile of 2, 3 or 4 bits in an order of this level's own, as many bytes, that is decoded faster
  /// than that of the files; tile_dot and tile_panel of what it wrote. Null: the level has none.
  void (*repack)(int bits, const uint8_t* blocks, int64_t groups, uint8_t* out) = nullptr;
  void (*tile_dot_repacked)(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out) = nullptr;
  void (*tile_panel_repacked)(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel) = nullptr;
  /// What tile_dot, tile_dots, tile_panel and panel_dot add to every weight, to be undone by bias * sum(x).
  int32_t bias;
  void (*scale_tile)(const ScaleTile& tile);

  void (*attend_page_f16)(const AttendPage& page);
  void (*attend_page_f32)(const AttendPage& page);
  void (*attend_blocks)(const AttendBlocks& blocks);
  /// Merges a page's result into the running one of the same row. Pages are merged in order, whoever computed them.
  void (*attend_merge)(float* maximum, float* sum, float* values, float page_maximum, float page_sum,
                       const float* page_values, int64_t head_dim);

  /// out[c] = silu(sum over t of weight[t * stride + c] * x[t][c]), x[taps] -> [n].
  void (*conv1d)(const float* const* x, const float* weight, int64_t stride, int64_t taps, int64_t n, float* out);
  /// The gated delta rule (ops.h). Each token is computed alike, whichever tokens come with it.
  void (*gated_delta)(const DeltaChunk& chunk);
};

/// The table for cpu_level().
const Kernels& kernels();
/// The table of one level, which the processor must have.
const Kernels& kernels(CpuLevel level);

void attend_blocks_avx2(const AttendBlocks& blocks);
void attend_blocks_avx512(const AttendBlocks& blocks);
void attend_blocks_neon(const AttendBlocks& blocks);
int64_t peak_int8_avx_vnni(int64_t repeats);
void tile_dot_avx_vnni(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out);
void tile_dot_repacked_avx_vnni(int bits, const uint8_t* blocks, int64_t groups, const int8_t* x, int32_t* out);
void panel_dot_avx_vnni(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
                        int32_t* out);
int64_t peak_int8_amx(int64_t repeats);
void tile_panel_amx(int bits, const uint8_t* blocks, int64_t groups, uint8_t* panel);
void panel_dot_amx(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
                   int32_t* out);
void panel_dot_neon_i8mm(const uint8_t* panel0, const uint8_t* panel1, int64_t groups, const int8_t* x, int tokens,
                         int32_t* out);

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvxVnniKernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAmxKernels;
extern const Kernels kNeonKernels;
extern const Kernels kNeonI8mmKernels;

}  // namespace turboquant
