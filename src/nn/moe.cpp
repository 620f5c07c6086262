#include "nn/moe.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/memory.h"

namespace turboquant {
namespace {

// Softmax in place.
void to_probabilities(std::span<float> values) {
  const float largest = *std::max_element(values.begin(), values.end());
  float sum = 0;
  for (float& value : values) sum += value = std::exp(value - largest);
  for (float& value : values) value /= sum;
}

// The tokens of a step by expert: rows [begin, end) of what the experts compute belong to one expert.
struct Group {
  int32_t expert;
  int64_t begin, end;
};

struct Routes {
  std::vector<Group> groups;    // of the experts that are used
  std::vector<int32_t> tokens;  // [rows] whose row it is
  std::vector<int32_t> rows;    // [tokens * per_token] in ascending order of a token's experts
  std::vector<float> weights;   // the same
};

Routes route(const Tensor& logits, const MoeShape& shape) {
  const int64_t tokens = logits.dim(0);
  const auto k = static_cast<size_t>(shape.per_token), n = static_cast<size_t>(shape.experts);
  Routes routes;
  const auto rows = static_cast<size_t>(tokens) * k;
  routes.tokens.resize(rows);
  routes.rows.resize(rows);
  routes.weights.resize(rows);
  std::vector<int32_t> experts(rows);
  std::vector<int64_t> next(n + 1);
  for (size_t t = 0; t < static_cast<size_t>(tokens); ++t)
    choose_experts({logits.data<float>() + t * n, n}, shape, std::span(experts).subspan(t * k, k),
                   std::span(routes.weights).subspan(t * k, k));
  for (const int32_t e : experts) ++next[static_cast<size_t>(e) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  for (size_t e = 0; e < n; ++e)
    if (next[e] != next[e + 1]) routes.groups.push_back({static_cast<int32_t>(e), next[e], next[e + 1]});
  for (size_t i = 0; i < rows; ++i) {
    const int64_t row = next[static_cast<size_t>(experts[i])]++;
    routes.rows[i] = static_cast<int32_t>(row);
    routes.tokens[static_cast<size_t>(row)] = static_cast<int32_t>(i / k);
  }
  return routes;
}

// Starts reading the routed experts from the file while the first of them is computed, if the file is not in memory.
// Conversion writes the matrices of an expert one behind the other: a call an expert, or fewer.
void prefetch(const std::vector<Mlp>& experts, const std::vector<Group>& groups) {
  constexpr size_t kMost = size_t{256} << 20;  // at once: of a long prompt, all experts are routed to
  static PageWatch watch;
  if (!watch.see()) return;
  PageRanges pages;
  for (const Group& group : groups) {
    const Mlp& expert = experts[static_cast<size_t>(group.expert)];
    for (const Linear* layer : {&expert.gate, &expert.up, &expert.down})
      if (!layer->weight.repacked) pages.add(layer->weight.data.data<std::byte>(), layer->weight.data.bytes());
    if (pages.bytes() > kMost) break;
  }
  pages.will_need();
}

// Products of some tokens of shared inputs, until they are all computed in one region.
class Products {
 public:
  explicit Products(Ops& ops) : ops_(ops) {}

  /// Chosen tokens of an input times a layer's matrix, into `out`.
  void add(const Activations& x, std::span<const int32_t> tokens, const Linear& layer, Tensor out) {
    const Activations* input = &x;
    if (static_cast<int64_t>(tokens.size()) != x.tokens) {
      if (source_ != &x || tokens_.data() != tokens.data()) gathered_.push_back(ops_.gather(x, tokens));
      source_ = &x;
      tokens_ = tokens;
      input = &gathered_.back();
    }
    products_.push_back({input, {&layer.weight, &layer.bias}, std::move(out)});
  }
  void run() { ops_.matmul_each(products_); }

 private:
  Ops& ops_;
  std::deque<Activations> gathered_;
  std::vector<Product> products_;
  const Activations* source_ = nullptr;  // what the last of `gathered_` was made of: gate and up read the same
  std::span<const int32_t> tokens_;
};

}  // namespace

void choose_experts(std::span<const float> logits, const MoeShape& shape, std::span<int32_t> experts,
                    std::span<float> weights) {
  std::vector<float> scores(logits.begin(), logits.end());
  if (shape.routing == MoeShape::Routing::softmax_first) to_probabilities(scores);
  std::vector<bool> taken(scores.size());
  for (int32_t& expert : experts) {
    size_t best = scores.size();
    for (size_t e = 0; e < scores.size(); ++e)
      if (!taken[e] && (best == scores.size() || scores[e] > scores[best])) best = e;
    taken[best] = true;
    expert = static_cast<int32_t>(best);
  }
  std::sort(experts.begin(), experts.end());
  for (size_t i = 0; i < experts.size(); ++i) weights[i] = scores[static_cast<size_t>(experts[i])];
  if (shape.routing == MoeShape::Routing::choose_first) {
    to_probabilities(weights);
  } else if (shape.normalize) {
    const float sum = std::accumulate(weights.begin(), weights.end(), 0.0F);
    for (float& weight : weights) weight /= sum;
  }
}

MoeMlp MoeMlp::load(Loader& loader, const std::string& module, const MoeShape& shape) {
  MoeMlp moe;
  moe.shape = shape;
  moe.router = loader.linear(module + "." + shape.router, shape.experts, shape.hidden_size);
  for (int64_t e = 0; e < shape.experts; ++e)
    moe.experts.push_back(
        Mlp::load(loader, module + ".experts." + std::to_string(e), shape.hidden_size, shape.intermediate_size));
  if (shape.shared_intermediate_size > 0) {
    moe.shared = Mlp::load(loader, module + ".shared_expert", shape.hidden_size, shape.shared_intermediate_size);
    moe.shared_gate = loader.linear(module + ".shared_expert_gate", 1, shape.hidden_size);
  }
  return moe;
}

Tensor MoeMlp::forward(Ops& ops, const Tensor& x, bool exact) const {
  const int64_t tokens = x.dim(0), rows = tokens * shape.per_token;
  std::vector<int32_t> every(static_cast<size_t>(std::max(tokens, rows)));
  std::iota(every.begin(), every.end(), 0);
  const std::span all_tokens = std::span(every).first(static_cast<size_t>(tokens));

  const std::vector<Tensor> decisions =
      shared ? project(ops, x, {&router, &shared_gate}, true) : project(ops, x, {&router}, true);
  const Routes routes = route(decisions[0], shape);
  prefetch(experts, routes.groups);

  // Gate and up of all routed experts, and of the shared one.
  const Tensor gate = ops.empty(DType::f32, {rows, shape.intermediate_size}), up = ops.empty(DType::f32, gate.shape());
  Tensor shared_gates, shared_ups;
  PreparedInput input(ops, x, exact);
  Products first(ops);
  for (const Group& group : routes.groups) {
    const Mlp& expert = experts[static_cast<size_t>(group.expert)];
    const auto chosen = std::span(routes.tokens)
                            .subspan(static_cast<size_t>(group.begin), static_cast<size_t>(group.end - group.begin));
    first.add(input.of(expert.gate), chosen, expert.gate, gate.rows(group.begin, group.end));
    first.add(input.of(expert.up), chosen, expert.up, up.rows(group.begin, group.end));
  }
  if (shared) {
    shared_gates = ops.empty(DType::f32, {tokens, shape.shared_intermediate_size});
    shared_ups = ops.empty(DType::f32, shared_gates.shape());
    first.add(input.of(shared->gate), all_tokens, shared->gate, shared_gates);
    first.add(input.of(shared->up), all_tokens, shared->up, shared_ups);
  }
  first.run();

  const Tensor inner = shape.clamped ? ops.clamped_swiglu(gate, up, shape.alpha, shape.limit) : ops.swiglu(gate, up);
  const Tensor down = ops.empty(DType::f32, {rows, shape.hidden_size});
  PreparedInput inners(ops, inner, exact);
  Products second(ops);
  for (const Group& group : routes.groups) {
    const Linear& layer = experts[static_cast<size_t>(group.expert)].down;
    const auto own =
        std::span(every).subspan(static_cast<size_t>(group.begin), static_cast<size_t>(group.end - group.begin));
    second.add(inners.of(layer), own, layer, down.rows(group.begin, group.end));
  }
  Tensor shared_down;
  PreparedInput shared_inner(ops, shared ? ops.swiglu(shared_gates, shared_ups) : Tensor(), exact);
  if (shared) {
    shared_down = ops.empty(DType::f32, x.shape());
    second.add(shared_inner.of(shared->down), all_tokens, shared->down, shared_down);
  }
  second.run();

  Tensor y = ops.weighted_rows(down, routes.rows, routes.weights, shape.per_token);
  if (!shared) return y;
  std::vector<float> counts(static_cast<size_t>(tokens));
  for (size_t t = 0; t < counts.size(); ++t) counts[t] = 1.0F / (1.0F + std::exp(-decisions[1].data<float>()[t]));
  return ops.add(y, ops.weighted_rows(shared_down, all_tokens, counts, 1));
}

}  // namespace turboquant
