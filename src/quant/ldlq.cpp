#include "quant/ldlq.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/half.h"
#include "quant/gemm.h"
#include "quant/quantize.h"
#include "quant/tcq16.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

// Rows that a thread takes at a time: two matrices of as many columns side by side fill the registers' tiles of gemm.
constexpr int64_t kMostRows = 96;

// Squared errors of a row in H.
struct RowError {
  double error = 0, norm = 0;
};

// Some rows of the matrix, whole tiles, in units of row_unit(). All arrays are transposed, [cols][2 * width], rows side
// by side, as the search wants them:
//
//     source = [E | Q]: what the groups that are done lack and what they store; E of the others still holds W
//     target = [W + E L | Q L]: with the groups that are done taken into account
//
// One product with L feeds E back and prepares the scale: with R = E L + E (which is target - Q, the rounding errors
// alone) and P = Q L + Q, the rows' forms in H are those of R and P in D, a group at a time.
class RowChunk {
 public:
  RowChunk(int bits, const HessianFactor& factor, int64_t most_rows)
      : bits_(bits),
        factor_(factor),
        cols_(factor.feedback.dim(0)),
        source_(Tensor::zeros(DType::f32, {cols_, 2 * tile_count(most_rows) * kTileRows})),
        target_(Tensor::zeros(DType::f32, source_.shape())),
        weighted_(Tensor::zeros(DType::f32, {kGroup, source_.dim(1)})) {}

  void encode(const Tensor& w, const Rotation& rotation, int64_t begin, int64_t rows, Weight& weight,
              RowError* errors) {
    rows_ = rows;
    width_ = tile_count(rows) * kTileRows;
    stride_ = 2 * width_;
    blocks_ = weight.data.data<uint8_t>() + begin / kTileRows * tile_bytes();
    forms_.assign(static_cast<size_t>(width_), {});
    load(w, rotation, begin);
    encode_groups(0, cols_ / kGroup);
    for (int64_t r = 0; r < rows; ++r) weight.scales.data<uint16_t>()[begin + r] = fit_scale(r, errors[begin + r]);
  }

 private:
  // Of a row's E and Q: E H E, E H Q, Q H Q.
  struct Forms {
    double ee = 0, eq = 0, qq = 0;
  };

  int64_t tile_bytes() const { return cols_ / kGroup * block_bytes(bits_); }
  float* source(int64_t column) { return source_.data<float>() + column * stride_; }
  float* target(int64_t column) { return target_.data<float>() + column * stride_; }

  void load(const Tensor& w, const Rotation& rotation, int64_t begin) {
    std::vector<float> rows(static_cast<size_t>(kTileRows * cols_));
    unit_.assign(static_cast<size_t>(width_), 0);
    for (int64_t first = 0; first < width_; first += kTileRows) {
      const int64_t count = std::min<int64_t>(kTileRows, rows_ - first);
      load_rows(w, rotation, begin + first, begin + first + count, rows.data());
      float inverse[kTileRows] = {};
      for (int64_t r = 0; r < count; ++r) {
        const double unit = row_unit(bits_, rows.data() + r * cols_, cols_);
        unit_[static_cast<size_t>(first + r)] = unit;
        if (unit > 0) inverse[r] = static_cast<float>(1 / unit);
      }
      for (int64_t c = 0; c < cols_; ++c) {
        for (int64_t r = 0; r < kTileRows; ++r)
          source(c)[first + r] = r < count ? rows[static_cast<size_t>(r * cols_ + c)] * inverse[r] : 0.0F;
        std::copy_n(source(c) + first, kTileRows, target(c) + first);
      }
    }
    for (int64_t c = 0; c < cols_; ++c) std::fill_n(target(c) + width_, width_, 0.0F);
  }

  // The later half, its errors fed back to the earlier half, the earlier half: all but the smallest products are of
  // blocks that gemm likes.
  void encode_groups(int64_t first, int64_t count) {
    if (count == 1) return encode_one(first);
    const int64_t half = count / 2, next = first + half;
    encode_groups(next, count - half);
    gemm({.a = factor_.feedback.data<float>() + (next * cols_ + first) * kGroup,
          .lda = cols_,
          .b = source(next * kGroup),
          .ldb = stride_,
          .c = target(first * kGroup),
          .ldc = stride_,
          .m = half * kGroup,
          .n = stride_,
          .k = (count - half) * kGroup});
    encode_groups(first, half);
  }

  void encode_one(int64_t group) {
    const int64_t column = group * kGroup;
    for (int64_t r = 0; r < width_; r += kTileRows)
      encode_group(bits_, target(column) + r, stride_, static_cast<int>(std::min<int64_t>(kTileRows, rows_ - r)),
                   blocks_ + r / kTileRows * tile_bytes() + group * block_bytes(bits_), source(column) + width_ + r);
    for (int64_t c = column; c < column + kGroup; ++c) {
      float* e = source(c);
      float* t = target(c);
      const float* q = e + width_;
      for (int64_t r = 0; r < width_; ++r) {
        e[r] -= q[r];
        t[r] -= q[r];
        t[width_ + r] += q[r];
      }
    }
    add_forms(group);
  }

  void add_forms(int64_t group) {
    std::fill_n(weighted_.data<float>(), kGroup * stride_, 0.0F);
    gemm({.a = factor_.diagonal.data<float>() + group * kGroup * kGroup,
          .lda = kGroup,
          .b = target(group * kGroup),
          .ldb = stride_,
          .c = weighted_.data<float>(),
          .ldc = stride_,
          .m = kGroup,
          .n = stride_,
          .k = kGroup});
    for (int64_t first = 0; first < width_; first += kTileRows) {
      float ee[kTileRows] = {}, eq[kTileRows] = {}, qq[kTileRows] = {};
      for (int64_t i = 0; i < kGroup; ++i) {
        const float* e = target(group * kGroup + i) + first;
        const float* q = e + width_;
        const float* weighted_e = weighted_.data<float>() + i * stride_ + first;
        const float* weighted_q = weighted_e + width_;
        for (int r = 0; r < kTileRows; ++r) {
          ee[r] += e[r] * weighted_e[r];
          eq[r] += e[r] * weighted_q[r];
          qq[r] += q[r] * weighted_q[r];
        }
      }
      for (int r = 0; r < kTileRows; ++r) {
        Forms& forms = forms_[static_cast<size_t>(first + r)];
        forms.ee += static_cast<double>(ee[r]);
        forms.eq += static_cast<double>(eq[r]);
        forms.qq += static_cast<double>(qq[r]);
      }
    }
  }

  uint16_t fit_scale(int64_t row, RowError& error) const {
    const double unit = unit_[static_cast<size_t>(row)];
    const auto [ee, eq, qq] = forms_[static_cast<size_t>(row)];
    if (unit == 0 || qq <= 0) return 0;
    const uint16_t scale = row_scale(unit * (eq + qq) / qq);
    const double rest = 1 - static_cast<double>(half_to_float(scale)) / unit;  // what is stored lacks E + rest * Q
    error.error = unit * unit * (ee + 2 * rest * eq + rest * rest * qq);
    error.norm = unit * unit * (ee + 2 * eq + qq);
    return scale;
  }

  int bits_;
  const HessianFactor& factor_;
  int64_t cols_, rows_ = 0, width_ = 0, stride_ = 0;
  Tensor source_, target_, weighted_;
  uint8_t* blocks_ = nullptr;
  std::vector<double> unit_;
  std::vector<Forms> forms_;
};

// As many rows as all threads find work, up to kMostRows.
int64_t chunk_rows(int64_t rows, const ThreadPool* pool) {
  const int64_t threads = pool != nullptr ? pool->size() : 1;
  return std::min(kMostRows, tile_count((rows + threads - 1) / threads) * kTileRows);
}

}  // namespace

CalibratedWeight ldlq(const Tensor& w, const Rotation& rotation, int bits, const HessianFactor& factor,
                      ThreadPool* pool) {
  const int64_t rows = w.dim(0), cols = w.dim(1);
  if (factor.feedback.dim(0) != cols)
    throw Error("a Hessian of width " + std::to_string(factor.feedback.dim(0)) + " does not fit a matrix of width " +
                std::to_string(cols));
  CalibratedWeight result{make_tiled(bits, rows, cols)};
  std::vector<RowError> errors(static_cast<size_t>(rows));
  const int64_t size = chunk_rows(rows, pool);
  const auto encode_chunks = [&](int64_t first, int64_t last) {
    RowChunk chunk(bits, factor, size);
    for (int64_t begin = first * size; begin < std::min(rows, last * size); begin += size)
      chunk.encode(w, rotation, begin, std::min(size, rows - begin), result.weight, errors.data());
  };
  const int64_t chunks = (rows + size - 1) / size;
  if (pool != nullptr) {
    pool->parallel_for(chunks, 1, encode_chunks);
  } else {
    encode_chunks(0, chunks);
  }
  RowError total;
  for (const RowError& row : errors) {
    total.error += row.error;
    total.norm += row.norm;
  }
  if (total.norm > 0) result.error = total.error / total.norm;
  return result;
}

}  // namespace turboquant
