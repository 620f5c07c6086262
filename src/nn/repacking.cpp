#include "nn/repacking.h"

#include "core/interrupt.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

constexpr size_t kLine = 64;

// What a copy takes, so that the next one begins at a cache line.
size_t room_for(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

}  // namespace

Repacking::Repacking(const Checkpoint& checkpoint, Ops& ops, uint64_t available) : ops_(ops) {
  if (!ops.repacks()) return;
  for (const TensorInfo& info : checkpoint.tensors())
    for (const int bits : {2, 3, 4})
      if (info.dtype == DType::u8 && info.shape.rank() == 3 && info.shape.back() == block_bytes(bits))
        bytes_ += room_for(static_cast<size_t>(info.shape.elements()));
  if (bytes_ == 0 || bytes_ > available / 2) return;
  memory_ = system_memory(bytes_);
  use_large_pages(memory_.get(), bytes_);
  progress_.emplace("Arranging weights", static_cast<int64_t>(bytes_), Progress::Unit::bytes);
}

Tensor Repacking::of(const Weight& weight) {
  const size_t room = room_for(weight.data.bytes());
  if (!memory_ || weight.kind != Weight::Kind::tiled || weight.bits > 4 || room > bytes_ - used_) return {};
  check_interrupt();
  Tensor copy(DType::u8, weight.data.shape(), memory_.get() + used_, memory_);
  used_ += room;
  ops_.repack(weight, copy);
  progress_->advance(static_cast<int64_t>(room));
  return copy;
}

}  // namespace turboquant
