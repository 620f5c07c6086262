#include "nn/repacking.h"

#include "core/interrupt.h"
#include "quant/tile.h"

namespace turboquant {

Repacking::Repacking(const Checkpoint& checkpoint, Ops& ops, uint64_t available) : ops_(ops) {
  if (!ops.repacks()) return;
  uint64_t bytes = 0;
  for (const TensorInfo& info : checkpoint.tensors())
    for (const int bits : {2, 3, 4})
      if (info.dtype == DType::u8 && info.shape.rank() == 3 && info.shape.back() == block_bytes(bits))
        bytes += static_cast<uint64_t>(info.shape.elements());
  if (bytes > 0 && bytes < available / 2)
    progress_.emplace("Arranging weights", static_cast<int64_t>(bytes), Progress::Unit::bytes);
}

Tensor Repacking::of(const Weight& weight) {
  if (!progress_) return {};
  check_interrupt();
  Tensor copy = ops_.repack(weight);
  progress_->advance(static_cast<int64_t>(copy ? copy.bytes() : 0));
  return copy;
}

}  // namespace turboquant
