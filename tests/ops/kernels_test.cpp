// Every kernel of every level that this processor has, in one table: what is compared, and the bound on the error. A
// bound of 0 means equal bits. The others are about twice the largest error over thousands of random shapes; softmax's
// is that of the reference's own sum, one float after another.
#include "ops/cpu/kernels.h"

#include "ops/emulated_tiles.h"
#include "ops/support.h"
#include "quant/fixture.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

using Rows = std::vector<float>;

// ---------------------------------------------------------------- vectors
double rms_norm_error(const Kernels& kernels, Dice& dice) {
  const int64_t n = dice.between(1, 1200);
  const Rows x = dice.normals(n, 3), weight = dice.normals(n);
  Guarded<float> fast(n), plain(n);
  kernels.rms_norm(x.data(), weight.data(), n, 1e-5F, fast.data());
  kScalarKernels.rms_norm(x.data(), weight.data(), n, 1e-5F, plain.data());
  return relative_to_norm(fast.data(), plain.data(), n);
}

double swiglu_error(const Kernels& kernels, Dice& dice) {
  const int64_t n = dice.between(1, 300);
  const Rows gate = dice.normals(n, 4), up = dice.normals(n);
  Guarded<float> fast(n), plain(n);
  kernels.swiglu(gate.data(), up.data(), n, fast.data());
  kScalarKernels.swiglu(gate.data(), up.data(), n, plain.data());
  return relative_to_norm(fast.data(), plain.data(), n);
}

double add_error(const Kernels& kernels, Dice& dice) {
  const int64_t n = dice.between(1, 300);
  const Rows a = dice.normals(n), b = dice.normals(n);
  Guarded<float> fast(n), plain(n);
  kernels.add(a.data(), b.data(), n, fast.data());
  kScalarKernels.add(a.data(), b.data(), n, plain.data());
  return std::memcmp(fast.data(), plain.data(), sizeof(float) * fast.size()) == 0 ? 0 : 1;
}

double rope_error(const Kernels& kernels, Dice& dice) {
  const int64_t half = dice.between(1, 128), heads = dice.between(1, 5), n = heads * 2 * half;
  const Rows x = dice.normals(n), cos = dice.normals(half), sin = dice.normals(half);
  Guarded<float> fast(n), plain(n);
  kernels.rope(x.data(), cos.data(), sin.data(), heads, 2 * half, fast.data());
  kScalarKernels.rope(x.data(), cos.data(), sin.data(), heads, 2 * half, plain.data());
  return std::memcmp(fast.data(), plain.data(), sizeof(float) * fast.size()) == 0 ? 0 : 1;
}

double softmax_error(const Kernels& kernels, Dice& dice) {
  const int64_t n = dice.between(1, dice.one_of({40, 3000}));
  const Rows x = dice.normals(n, static_cast<float>(dice.one_of({1, 8})));
  Guarded<float> fast(n), plain(n);
  kernels.softmax(x.data(), n, fast.data());
  kScalarKernels.softmax(x.data(), n, plain.data());
  return relative_to_norm(fast.data(), plain.data(), n);
}

double quantize_error(const Kernels& kernels, Dice& dice) {
  const int64_t n = dice.between(1, 700);
  const Rows x = dice.normals(n, dice.between(0, 9) == 0 ? 0.0F : std::exp2(static_cast<float>(dice.between(-20, 20))));
  Guarded<int8_t> fast(n), plain(n);
  float fast_scale = 0, plain_scale = 0;
  int32_t fast_sum = 0, plain_sum = 0;
  kernels.quantize(x.data(), n, fast.data(), &fast_scale, &fast_sum);
  kScalarKernels.quantize(x.data(), n, plain.data(), &plain_scale, &plain_sum);
  const bool equal =
      fast_scale == plain_scale && fast_sum == plain_sum && std::memcmp(fast.data(), plain.data(), fast.size()) == 0;
  return equal ? 0 : 1;
}

// ---------------------------------------------------------------- products
// Largest difference of an entry, relative to the norms of its row and its token.
double dense_error(const Kernels& kernels, Dice& dice, DType dtype) {
  const int64_t rows = dice.between(1, 13), cols = dice.between(1, 500), tokens = dice.between(1, 13);
  const int64_t stride = rows + dice.between(0, 3);
  const Rows w = dice.normals(rows * cols), x = dice.normals(tokens * cols);
  const Tensor weight = from_float(w.data(), {rows, cols}, dtype);
  Guarded<float> fast(tokens * stride), plain(tokens * stride);
  const auto kernel = [&](const Kernels& k) {
    return dtype == DType::f32 ? k.dense_f32 : dtype == DType::f16 ? k.dense_f16 : k.dense_bf16;
  };
  kernel(kernels)(weight.data<std::byte>(), rows, cols, x.data(), tokens, fast.data(), stride);
  kernel(kScalarKernels)(weight.data<std::byte>(), rows, cols, x.data(), tokens, plain.data(), stride);
  double largest = 0;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t r = 0; r < stride; ++r) {
      const double difference = std::fabs(static_cast<double>(fast[t * stride + r]) - plain[t * stride + r]);
      if (r >= rows && difference != 0) return INFINITY;  // between the rows of the result
      if (r < rows)
        largest = std::max(largest, difference / (norm(&w[static_cast<size_t>(r * cols)], cols) *
                                                  norm(&x[static_cast<size_t>(t * cols)], cols)));
    }
  return largest;
}
double dense_f32_error(const Kernels& kernels, Dice& dice) { return dense_error(kernels, dice, DType::f32); }
double dense_f16_error(const Kernels& kernels, Dice& dice) { return dense_error(kernels, dice, DType::f16); }
double dense_bf16_error(const Kernels& kernels, Dice& dice) { return dense_error(kernels, dice, DType::bf16); }

/// A tile of random codes.
std::vector<uint8_t> random_tile(int bits, int64_t groups, Dice& dice) {
  std::vector<uint8_t> blocks(static_cast<size_t>(groups * block_bytes(bits)));
  if (bits == 8) {
    pack_int8_tile(dice.int8s(kTileRows * kGroup * groups).data(), groups, blocks.data());
  } else {
    for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(dice.between(0, 255));  // every byte is a valid code
  }
  return blocks;
}

int random_bits_of_tile(Dice& dice) { return static_cast<int>(dice.one_of({2, 3, 4, 8})); }
int64_t random_groups(Dice& dice) { return dice.between(1, dice.one_of({3, 40})); }

double tile_dot_error(const Kernels& kernels, Dice& dice) {
  const int bits = random_bits_of_tile(dice);
  const int64_t groups = random_groups(dice);
  const std::vector<uint8_t> blocks = random_tile(bits, groups, dice);
  const std::vector<int8_t> x = dice.int8s(groups * kGroup);
  int32_t sum = 0;
  for (const int8_t v : x) sum += v;
  Guarded<int32_t> fast(kTileRows), plain(kTileRows);
  kernels.tile_dot(bits, blocks.data(), groups, x.data(), fast.data());
  kScalarKernels.tile_dot(bits, blocks.data(), groups, x.data(), plain.data());
  double largest = 0;
  for (int r = 0; r < kTileRows; ++r)
    largest = std::max(largest, std::fabs(static_cast<double>(fast[r]) - kernels.bias * sum - plain[r]));
  return largest;
}

/// A tile of 2 to 4 bits in the order of the level's own; of levels that have none, nothing.
std::vector<uint8_t> repacked(const Kernels& kernels, int bits, int64_t groups, const std::vector<uint8_t>& blocks) {
  if (kernels.repack == nullptr) return {};
  Guarded<uint8_t> out(static_cast<int64_t>(blocks.size()));
  kernels.repack(bits, blocks.data(), groups, out.data());
  return {out.data(), out.data() + blocks.size()};
}

double tile_dot_repacked_error(const Kernels& kernels, Dice& dice) {
  const int bits = static_cast<int>(dice.between(2, 4));
  const int64_t groups = random_groups(dice);
  const std::vector<uint8_t> blocks = random_tile(bits, groups, dice), own = repacked(kernels, bits, groups, blocks);
  if (own.empty()) return 0;
  const std::vector<int8_t> x = dice.int8s(groups * kGroup);
  Guarded<int32_t> fast(kTileRows), plain(kTileRows);
  kernels.tile_dot_repacked(bits, own.data(), groups, x.data(), fast.data());
  kernels.tile_dot(bits, blocks.data(), groups, x.data(), plain.data());
  return std::memcmp(fast.data(), plain.data(), sizeof(int32_t) * kTileRows) == 0 ? 0 : 1;
}

double tile_panel_repacked_error(const Kernels& kernels, Dice& dice) {
  const int bits = static_cast<int>(dice.between(2, 4));
  const int64_t groups = random_groups(dice), n = groups * kTileRows * kGroup;
  const std::vector<uint8_t> blocks = random_tile(bits, groups, dice), own = repacked(kernels, bits, groups, blocks);
  if (own.empty()) return 0;
  Guarded<uint8_t> fast(n), plain(n);
  kernels.tile_panel_repacked(bits, own.data(), groups, fast.data());
  kernels.tile_panel(bits, blocks.data(), groups, plain.data());
  return std::memcmp(fast.data(), plain.data(), static_cast<size_t>(n)) == 0 ? 0 : 1;
}

double tile_dots_error(const Kernels& kernels, Dice& dice) {
  if (kernels.shared_tokens == 1) return 0;
  const int bits = random_bits_of_tile(dice);
  const int64_t groups = random_groups(dice);
  const int tokens = static_cast<int>(dice.between(2, kernels.shared_tokens));
  const std::vector<uint8_t> blocks = random_tile(bits, groups, dice);
  const std::vector<int8_t> x = dice.int8s(4 * groups * kTokenPanel * 4);
  Guarded<int32_t> fast(tokens * kTileRows), plain(tokens * kTileRows);
  kernels.tile_dots(bits, blocks.data(), groups, x.data(), tokens, fast.data());
  kScalarKernels.tile_dots(bits, blocks.data(), groups, x.data(), tokens, plain.data());
  double largest = 0;
  for (int t = 0; t < tokens; ++t) {
    int32_t sum = 0;
    for (int64_t k = 0; k < kGroup * groups; ++k) sum += x[static_cast<size_t>((k / 4 * kTokenPanel + t) * 4 + k % 4)];
    for (int r = t * kTileRows; r < (t + 1) * kTileRows; ++r)
      largest = std::max(largest, std::fabs(static_cast<double>(fast[r]) - kernels.bias * sum - plain[r]));
  }
  return largest;
}

double tile_panel_error(const Kernels& kernels, Dice& dice) {
  const int bits = random_bits_of_tile(dice);
  const int64_t groups = random_groups(dice), n = groups * kTileRows * kGroup;
  const std::vector<uint8_t> blocks = random_tile(bits, groups, dice);
  Guarded<uint8_t> fast(n), plain(n);
  kernels.tile_panel(bits, blocks.data(), groups, fast.data());
  kScalarKernels.tile_panel(bits, blocks.data(), groups, plain.data());
  int largest = 0;
  for (int r = 0; r < kTileRows; ++r)
    for (int64_t k = 0; k < kGroup * groups; ++k) {
      const int64_t at = plain_panel_byte(r, k);
      const uint8_t q = fast[kernels.level == CpuLevel::amx ? amx_panel_byte(groups, r, k) : at];
      largest = std::max(largest, std::abs(static_cast<int8_t>(q - kernels.bias) - static_cast<int8_t>(plain[at])));
    }
  return largest;
}

// Panels of each level's own making, results added to what is there, tokens 1 to kTokenPanel.
double panel_dot_error(const Kernels& kernels, Dice& dice) {
  const int64_t groups = random_groups(dice), n = groups * kTileRows * kGroup;
  const int tokens = static_cast<int>(dice.between(1, kTokenPanel));
  const std::vector<int8_t> x = dice.int8s(4 * groups * kTokenPanel * 4);
  const auto before = static_cast<int32_t>(dice.between(-1000, 1000));
  Guarded<int32_t> fast(tokens * kTilePair * kTileRows, before), plain(tokens * kTilePair * kTileRows, before);
  const std::vector<uint8_t> blocks[kTilePair] = {random_tile(3, groups, dice), random_tile(8, groups, dice)};
  const auto products = [&](const Kernels& level, int32_t* out) {
    Guarded<uint8_t> panel0(n), panel1(n);
    level.tile_panel(3, blocks[0].data(), groups, panel0.data());
    level.tile_panel(8, blocks[1].data(), groups, panel1.data());
    level.panel_dot(panel0.data(), panel1.data(), groups, x.data(), tokens, out);
  };
  products(kernels, fast.data());
  products(kScalarKernels, plain.data());
  double largest = 0;
  for (int t = 0; t < tokens; ++t) {
    int32_t sum = 0;
    for (int64_t v = 0; v < 4 * groups; ++v)
      for (int p = 0; p < 4; ++p) sum += x[static_cast<size_t>((v * kTokenPanel + t) * 4 + p)];
    for (int i = 0; i < kTilePair * kTileRows; ++i) {
      const int64_t at = t * kTilePair * kTileRows + i;
      largest = std::max(largest, std::fabs(static_cast<double>(fast[at]) - kernels.bias * sum - plain[at]));
    }
  }
  return largest;
}

double scale_tile_error(const Kernels& kernels, Dice& dice) {
  const int64_t tokens = dice.between(1, 20), stride = kTileRows * dice.between(1, 2),
                out_stride = dice.between(16, 40);
  std::vector<int32_t> sums(static_cast<size_t>(tokens * stride)), x_sums(static_cast<size_t>(tokens));
  std::vector<float> x_scales(static_cast<size_t>(tokens)), offsets(kTileRows);
  for (int32_t& sum : sums) sum = static_cast<int32_t>(dice.between(-(1 << 27), 1 << 27));
  for (int32_t& sum : x_sums) sum = static_cast<int32_t>(dice.between(-(1 << 20), 1 << 20));
  for (float& scale : x_scales) scale = std::fabs(dice.normal());
  for (float& offset : offsets) offset = dice.normal();
  uint16_t scales[kTileRows];  // subnormal ones, too: a row of tiny weights has them
  for (uint16_t& scale : scales) scale = float_to_half(std::exp2(static_cast<float>(dice.between(-24, 3))));
  ScaleTile tile{sums.data(),   stride,    tokens,          static_cast<int32_t>(dice.between(0, 128)),
                 x_sums.data(), scales,    x_scales.data(), dice.between(0, 1) == 0 ? nullptr : offsets.data(),
                 nullptr,       out_stride};
  const int64_t size = (tokens - 1) * out_stride + kTileRows;
  Guarded<float> fast(size, 7), plain(size, 7);
  tile.out = fast.data();
  kernels.scale_tile(tile);
  tile.out = plain.data();
  kScalarKernels.scale_tile(tile);
  return std::memcmp(fast.data(), plain.data(), sizeof(float) * static_cast<size_t>(size)) == 0 ? 0 : 1;
}

// ---------------------------------------------------------------- attention
/// Keys and values of up to kPageTokens tokens, as floats that the page's type holds exactly, and the page itself.
/// Tokens from `written` on are NaN in the page: nobody may look at them.
struct Page {
  int64_t dim;
  Rows keys, values;  // [kPageTokens][dim]
  Tensor key_page, value_page;

  Page(DType dtype, int64_t head_dim, int64_t written, float key_size, Dice& dice) : dim(head_dim) {
    const int64_t n = kPageTokens * dim;
    keys = round_trip(dice.normals(n, key_size), dtype);
    values = round_trip(dice.normals(n), dtype);
    for (int64_t i = written * dim; i < n; ++i) keys[static_cast<size_t>(i)] = values[static_cast<size_t>(i)] = NAN;
    Rows lanes(keys.size());
    for (int64_t t = 0; t < kPageTokens; ++t)
      for (int64_t d = 0; d < dim; ++d)
        lanes[static_cast<size_t>((t / kKeyLanes * dim + d) * kKeyLanes + t % kKeyLanes)] =
            keys[static_cast<size_t>(t * dim + d)];
    key_page = from_float(lanes.data(), {n}, dtype);
    value_page = from_float(values.data(), {n}, dtype);
  }

  static Rows round_trip(const Rows& x, DType dtype) {
    Rows result(x.size());
    to_float(from_float(x.data(), {static_cast<int64_t>(x.size())}, dtype), result.data());
    return result;
  }
  const float* key(int64_t t) const { return keys.data() + t * dim; }
  const float* value(int64_t t) const { return values.data() + t * dim; }
};

/// Results of attend_page for some rows.
struct PageResult {
  int64_t rows, dim;
  Guarded<float> maximum, sum, values;

  PageResult(const Kernels& kernels, DType dtype, const Page& page, float scale, const std::vector<const float*>& q,
             const std::vector<int64_t>& limit, const std::vector<int64_t>& hidden = {}, float softcap = 0)
      : rows(static_cast<int64_t>(q.size())), dim(page.dim), maximum(rows), sum(rows), values(rows * dim) {
    std::vector<float*> rows_of_values;
    for (int64_t r = 0; r < rows; ++r) rows_of_values.push_back(values.data() + r * dim);
    (dtype == DType::f16 ? kernels.attend_page_f16 : kernels.attend_page_f32)(
        {page.key_page.data<std::byte>(), page.value_page.data<std::byte>(), dim, scale, rows, q.data(), limit.data(),
         maximum.data(), sum.data(), rows_of_values.data(), hidden.empty() ? nullptr : hidden.data(), softcap});
  }
};

/// Largest of: the error of the logarithm of the softmax's denominator, and of the weighted values; both grow with the
/// rounding of the scores, so both are relative to 1 + the largest scale * |q| * |key|.
double attention_error(const SoftmaxAttention& expected, float maximum, float sum, const float* values, int64_t dim) {
  const double denominator = std::log(static_cast<double>(sum)) + maximum;
  double largest = std::fabs(denominator - (std::log(expected.sum) + expected.maximum));
  for (int64_t d = 0; d < dim; ++d)
    largest =
        std::max(largest, std::fabs(static_cast<double>(values[d]) / sum - expected.values[static_cast<size_t>(d)]));
  return largest / (1 + expected.largest_norm);
}

double attend_page_error(const Kernels& kernels, Dice& dice, DType dtype) {
  const int64_t dim = dice.one_of({16, 32, 48, 64, 80, 96, 128, 256}), rows = dice.between(1, kAttendRows);
  const auto scale = 1 / std::sqrt(static_cast<float>(dim));
  const Rows queries = dice.normals(rows * dim);
  std::vector<const float*> q;
  std::vector<int64_t> limit, hidden;
  const bool window = dice.between(0, 1) == 1;
  for (int64_t r = 0; r < rows; ++r) {
    q.push_back(queries.data() + r * dim);
    limit.push_back(dice.one_of({-5, 0, 1, 15, 16, 17, 64, 65, 255, 256, dice.between(0, kPageTokens)}));
    if (window) hidden.push_back(dice.one_of({0, 1, 15, 16, 63, 64, 200, 256, dice.between(0, kPageTokens)}));
  }
  const Page page(dtype, dim, std::max<int64_t>(*std::max_element(limit.begin(), limit.end()), 0),
                  static_cast<float>(dice.one_of({1, 5, 20})), dice);
  const auto softcap = static_cast<float>(dice.one_of({0, 0, 3, 50}));
  PageResult result(kernels, dtype, page, scale, q, limit, hidden, softcap);
  double largest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const auto row = static_cast<size_t>(r);
    const int64_t first = window ? hidden[row] : 0, tokens = limit[row] - first;
    const float* values = result.values.data() + r * dim;
    if (tokens <= 0) {
      if (result.maximum[r] != kNoScore || result.sum[r] != 0 || norm(values, dim) != 0) return INFINITY;
      continue;
    }
    const SoftmaxAttention expected = softmax_attention(
        q[row], [&](int64_t t) { return page.key(first + t); }, [&](int64_t t) { return page.value(first + t); },
        tokens, dim, scale, softcap);
    largest = std::max(largest, attention_error(expected, result.maximum[r], result.sum[r], values, dim));
    largest = std::max(largest, std::fabs(result.maximum[r] - expected.maximum) / (1 + expected.largest_norm));
    // A row's result does not depend on the rows beside it, and so not on how far they see.
    PageResult alone(kernels, dtype, page, scale, {q[row]}, {limit[row]}, {first}, softcap);
    if (alone.maximum[0] != result.maximum[r] || alone.sum[0] != result.sum[r] ||
        std::memcmp(alone.values.data(), values, sizeof(float) * static_cast<size_t>(dim)) != 0)
      return INFINITY;
  }
  return largest;
}
double attend_page_f16_error(const Kernels& kernels, Dice& dice) {
  return attend_page_error(kernels, dice, DType::f16);
}
double attend_page_f32_error(const Kernels& kernels, Dice& dice) {
  return attend_page_error(kernels, dice, DType::f32);
}

// Pages merged in order are one softmax over all; some pages are empty, and scores of pages can be far apart.
double attend_merge_error(const Kernels& kernels, Dice& dice) {
  const int64_t dim = dice.one_of({16, 32, 48, 64}), pages = dice.between(1, 5);
  const auto scale = 1 / std::sqrt(static_cast<float>(dim));
  const Rows q = dice.normals(dim);
  std::vector<Page> all;
  std::vector<std::pair<int64_t, int64_t>> seen;  // page and token of every visible token
  Guarded<float> values(dim, 0.0F);
  float maximum = kNoScore, sum = 0;
  for (int64_t p = 0; p < pages; ++p) {
    const int64_t tokens = dice.one_of({0, 1, 17, 64, 255, 256});
    all.emplace_back(DType::f32, dim, tokens, static_cast<float>(dice.one_of({1, 5, 100})), dice);
    PageResult part(kernels, DType::f32, all.back(), scale, {q.data()}, {tokens});
    kernels.attend_merge(&maximum, &sum, values.data(), part.maximum[0], part.sum[0], part.values.data(), dim);
    for (int64_t t = 0; t < tokens; ++t) seen.emplace_back(p, t);
  }
  if (seen.empty()) return maximum == kNoScore && sum == 0 && norm(values.data(), dim) == 0 ? 0 : INFINITY;
  const auto token = [&](int64_t i) { return seen[static_cast<size_t>(i)]; };
  const SoftmaxAttention expected = softmax_attention(
      q.data(), [&](int64_t i) { return all[static_cast<size_t>(token(i).first)].key(token(i).second); },
      [&](int64_t i) { return all[static_cast<size_t>(token(i).first)].value(token(i).second); },
      static_cast<int64_t>(seen.size()), dim, scale);
  return attention_error(expected, maximum, sum, values.data(), dim);
}

// ---------------------------------------------------------------- the table
struct KernelCase {
  const char* name;
  const char* error;  // what is bounded
  double bound;
  int shapes;  // random shapes that are tried
  double (*largest_error)(const Kernels& kernels, Dice& dice);
};

const KernelCase kCases[] = {
    {"rms_norm", "of the result's norm", 2e-6, 100, rms_norm_error},
    {"swiglu", "of the result's norm", 5e-7, 100, swiglu_error},
    {"add", "equal bits", 0, 50, add_error},
    {"rope", "equal bits", 0, 50, rope_error},
    {"softmax", "of the result's norm", 6e-6, 100, softmax_error},
    {"quantize", "equal values, scales and sums", 0, 200, quantize_error},
    {"dense_f32", "of the norms of row and token", 4e-7, 60, dense_f32_error},
    {"dense_f16", "of the norms of row and token", 4e-7, 60, dense_f16_error},
    {"dense_bf16", "of the norms of row and token", 4e-7, 60, dense_bf16_error},
    {"tile_dot", "equal sums", 0, 120, tile_dot_error},
    {"tile_dots", "equal sums", 0, 120, tile_dots_error},
    {"tile_panel", "equal integers", 0, 60, tile_panel_error},
    {"tile_dot_repacked", "equal sums", 0, 120, tile_dot_repacked_error},
    {"tile_panel_repacked", "equal integers", 0, 60, tile_panel_repacked_error},
    {"panel_dot", "equal sums", 0, 60, panel_dot_error},
    {"scale_tile", "equal bits", 0, 50, scale_tile_error},
    {"attend_page_f16", "of 1 + scale * |q| * |key|", 4e-7, 60, attend_page_f16_error},
    {"attend_page_f32", "of 1 + scale * |q| * |key|", 4e-7, 60, attend_page_f32_error},
    {"attend_merge", "of 1 + scale * |q| * |key|", 4e-7, 60, attend_merge_error},
};

TEST(Kernels, EveryKernelOfEveryLevelWithinItsBound) {
  for (const CpuLevel level : available_cpu_levels())
    for (const KernelCase& c : kCases)
      for (int shape = 0; shape < c.shapes; ++shape) {
        Dice dice(static_cast<uint64_t>(shape) + 1);
        const double error = c.largest_error(kernels(level), dice);
        EXPECT_LE(error, c.bound) << c.name << " at " << name(level) << ", shape " << shape << ": error " << c.error;
      }
}

// The table, the level's own name and the environment's choice belong together.
TEST(Kernels, TablesAreOfTheirLevel) {
  for (const CpuLevel level : available_cpu_levels()) EXPECT_EQ(kernels(level).level, level);
  EXPECT_EQ(kernels().level, cpu_level());
}

// Rows, tokens and their order leave each entry of a dense product as it is, bit for bit.
TEST(Kernels, DenseProductsDoNotDependOnTheirNeighbours) {
  Dice dice(5);
  constexpr int64_t kRows = 9, kTokens = 23;
  for (const int64_t cols : {1, 31, 64, 203})
    for (const CpuLevel level : available_cpu_levels()) {
      const Kernels& k = kernels(level);
      const Rows w = dice.normals(kRows * cols), x = dice.normals(kTokens * cols);
      Guarded<float> all(kTokens * kRows);
      k.dense_f32(w.data(), kRows, cols, x.data(), kTokens, all.data(), kRows);
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t r = 0; r < kRows; ++r) {
          float one = 0;
          k.dense_f32(w.data() + r * cols, 1, cols, x.data() + t * cols, 1, &one, 1);
          ASSERT_EQ(std::memcmp(&one, &all[t * kRows + r], sizeof one), 0) << name(level) << " " << r << " " << t;
        }
    }
}

// Vectors whose scale has no finite inverse, down to the smallest float.
TEST(Kernels, QuantizeOfTinyVectors) {
  for (const CpuLevel level : available_cpu_levels())
    for (const float size : {1e-30F, 1e-37F, 1e-38F, 1e-45F, 0.0F}) {
      Rows x(37, -size);
      x[5] = x[20] = 0;
      Guarded<int8_t> q(37);
      float scale = -1;
      int32_t sum = -1;
      kernels(level).quantize(x.data(), 37, q.data(), &scale, &sum);
      EXPECT_EQ(sum, 0) << name(level) << " " << size;
      EXPECT_NEAR(scale, size / 127, 1e-44) << name(level) << " " << size;
      for (int64_t i = 0; i < 37; ++i) ASSERT_EQ(q[i], 0) << name(level) << " " << size;
    }
}

// ---------------------------------------------------------------- the exponential at its ends
// e^-y as the ratio of two probabilities: within 2 units in the last place for the exponential, and half a unit for
// each of the two products with the inverse of the sum and for the ratio itself.
TEST(Kernels, ExponentialsAreAccurate) {
  constexpr int64_t kSteps = 4000;
  for (const CpuLevel level : available_cpu_levels()) {
    double worst = 0;
    for (int64_t i = 0; i <= kSteps; ++i) {
      const float y = 86.0F * static_cast<float>(i) / static_cast<float>(kSteps);
      const float x[2] = {0, -y};
      float p[2];
      kernels(level).softmax(x, 2, p);
      const double expected = std::exp(-static_cast<double>(y));
      worst = std::max(worst, std::fabs(static_cast<double>(p[1]) / p[0] / expected - 1));
    }
    EXPECT_LE(worst, 3.5 * 0x1p-23) << name(level);
  }
}

TEST(Kernels, SoftmaxOfExtremes) {
  const std::vector<Rows> inputs = {
      {3e38F, -3e38F, 0, 1e-38F, -1e30F},
      {-3e38F},
      Rows(21, -3e38F),
      Rows(37, 3e38F),
      {88, -88, 1000, -1000, 1e-38F, 999, 998.5F, 89, 87, 127, -127, -0.0F, 0, 128, 129, 700, -700, 1e5F, 99999},
      {-1e4F, -1e4F - 100, -2e4F},
  };
  for (const CpuLevel level : available_cpu_levels())
    for (const Rows& x : inputs) {
      const auto n = static_cast<int64_t>(x.size());
      Guarded<float> p(n);
      kernels(level).softmax(x.data(), n, p.data());
      const double largest = *std::max_element(x.begin(), x.end());
      double denominator = 0, total = 0;
      for (const float v : x) denominator += std::exp(v - largest);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_TRUE(std::isfinite(p[i]) && p[i] >= 0) << name(level) << " " << p[i];
        EXPECT_NEAR(p[i], std::exp(x[static_cast<size_t>(i)] - largest) / denominator, 1e-6) << name(level);
        total += p[i];
      }
      EXPECT_NEAR(total, 1, 1e-5) << name(level);
    }
}

TEST(Kernels, SwigluOfExtremes) {
  Rows gates;
  for (const float size : {0.0F, 1e-38F, 1e-3F, 1.0F, 20.0F, 86.9F, 87.0F, 87.5F, 88.0F, 88.7F, 89.0F, 104.0F, 127.0F,
                           1000.0F, 1e5F, 1e30F, 3e38F})
    for (const float sign : {1.0F, -1.0F}) gates.push_back(sign * size);
  const auto n = static_cast<int64_t>(gates.size());
  for (const CpuLevel level : available_cpu_levels())
    for (const float up : {1.0F, -0.5F, 0.0F}) {
      Guarded<float> out(n);
      kernels(level).swiglu(gates.data(), Rows(gates.size(), up).data(), n, out.data());
      for (int64_t i = 0; i < n; ++i) {
        const double gate = gates[static_cast<size_t>(i)], expected = gate / (1 + std::exp(-gate)) * up;
        ASSERT_TRUE(std::isfinite(out[i])) << name(level) << " gate " << gate;
        EXPECT_NEAR(out[i], expected, 1e-6 * std::fabs(expected) + 1e-30) << name(level) << " gate " << gate;
      }
    }
}

}  // namespace
}  // namespace turboquant
