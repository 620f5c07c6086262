// Mixture-of-experts checkpoints name and store experts in many ways; here each expert becomes matrices of its own.
#pragma once

#include <memory>
#include <string>

#include "io/checkpoint.h"

namespace turboquant {

/// A checkpoint whose experts are PREFIX.mlp.experts.E.{gate,up,down}_proj.weight (and .bias, .scales, ...), with the
/// rows of a matrix being its outputs, made from a checkpoint that
/// - calls them PREFIX.block_sparse_moe.experts.E.{w1,w3,w2} (Mixtral),
/// - stacks them: mlp.switch_mlp.*_proj or mlp.experts.*_proj, [experts, ...] (MLX and the original's files; what all
///   experts share, codebook and signs, becomes PREFIX.mlp.experts.*_proj.codebook and .signs),
/// - stacks gate and up in one tensor, mlp.experts.gate_up_proj, beside down_proj: [experts, inputs, outputs] with gate
///   and up taking turns (gpt-oss), [experts, outputs, inputs] with up behind gate (all others), or
/// - stores those stacks as MXFP4, *_proj_blocks and *_proj_scales (gpt-oss), which read() decodes to BF16.
/// read() gives views where the bytes of an expert lie together. The checkpoint itself comes back if it has none of
/// these. Error: a stack of the wrong shape or type.
std::unique_ptr<Checkpoint> separate_experts(std::unique_ptr<Checkpoint> source);

/// The module that a stack of experts has in a checkpoint of separate_experts(): "X.mlp.experts.up_proj" of
/// "X.block_sparse_moe.switch_mlp.up_proj". Other modules keep their names.
std::string shared_expert_module(std::string module);

}  // namespace turboquant
