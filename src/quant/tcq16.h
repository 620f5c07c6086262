// The encoder of TCQ16, trellis-coded groups of 16 weights (quant/tile.h), and of int8 rows. Both take rows in the
// basis that they are stored in (rotated where the input is) and write whole tiles.
//
// TCQ16: every group tries all 16 tables, each by an exact Viterbi search over the 2-state tail-biting trellis, on the
// row divided by RMS * unit; then the row scale is least squares. Viterbi: G. D. Forney, "The Viterbi algorithm", 1973;
// trellis-coded quantization: M. W. Marcellin and T. R. Fischer, 1990.
#pragma once

#include <cstdint>

#include "core/cpu.h"
#include "quant/weight.h"

namespace turboquant {

/// Encodes rows as whole tiles on the calling thread, at the speed of the processor's vectors.
/// w: [rows][cols], finite, cols a multiple of 16; bits: 2, 3, 4; blocks: tile_count(rows) * cols / 16 *
/// block_bytes(bits) bytes; scales: fp16 [rows]. Rows that pad the last tile get zero codes. Error for other bits or
/// cols, or if a row's scale does not fit fp16.
void tcq16_encode_rows(int bits, const float* w, int64_t rows, int64_t cols, uint8_t* blocks, uint16_t* scales);

/// The same at a given processor level, for tests; the processor must have it.
void tcq16_encode_rows_at(CpuLevel level, int bits, const float* w, int64_t rows, int64_t cols, uint8_t* blocks,
                          uint16_t* scales);

/// The readable reference of it, in double precision: the same search, one group and one table at a time. Results may
/// differ from the fast encoder's where two codes are equally good up to rounding.
void tcq16_encode_rows_reference(int bits, const float* w, int64_t rows, int64_t cols, uint8_t* blocks,
                                 uint16_t* scales);

/// The best codes [16] (slot order) of one group for one table; x: 16 weights in table units, column order. Returns the
/// squared error.
double tcq16_search(int bits, int index, const double* x, uint8_t* codes);

/// The same rows as a Weight of Kind::tiled.
Weight tcq16_encode(int bits, const float* w, int64_t rows, int64_t cols);

/// int8 rows, layout and arguments as above (bits 8): scale = fp16(absmax / 127), q = round(w / scale) within +-127.
void int8_encode_rows(const float* w, int64_t rows, int64_t cols, uint8_t* blocks, uint16_t* scales);
Weight int8_encode(const float* w, int64_t rows, int64_t cols);

/// What a row [cols] is divided by before it is searched: its RMS in table units (bits 2, 3, 4) or absmax / 127 (8). 0
/// if no fp16 scale could hold it.
double row_unit(int bits, const float* w, int64_t cols);
/// A row's scale as it is stored, fp16; Error if it does not fit.
uint16_t row_scale(double scale);

/// One block by itself, for encoders that choose what to encode as they go (quant/ldlq.h). x: 16 columns of 16 rows,
/// x[column * stride + row], divided by row_unit; bits 2, 3, 4 or 8. `packed`: block_bytes(bits), rows from `rows` on
/// with code 0. levels: the integers of all 16 rows, laid out as x.
void encode_group(int bits, const float* x, int64_t stride, int rows, uint8_t* packed, float* levels);

/// Memory for a Weight of Kind::tiled, zeroed: data U8 [tiles, cols / 16, block bytes], scales F16 [rows]. Error for
/// sizes that the tile layout does not have.
Weight make_tiled(int bits, int64_t rows, int64_t cols);

}  // namespace turboquant
