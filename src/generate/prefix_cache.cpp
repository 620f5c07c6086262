#include "generate/prefix_cache.h"

#include <algorithm>

namespace turboquant {

struct PrefixCache::Node {
  Node* parent = nullptr;
  std::vector<int32_t> tokens;                        // behind those of the parent
  int64_t length = 0;                                 // of the text up to here
  std::map<int32_t, std::unique_ptr<Node>> children;  // by their first token
  std::optional<Cache> cache;                         // of `length` tokens
  std::list<Node*>::iterator use;                     // of nodes with a cache
  int64_t hits = 0;
};

int64_t common_tokens(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

PrefixCache::PrefixCache(Fits fits) : fits_(std::move(fits)), root_(std::make_unique<Node>()) {}

// Node by node: a tree as deep as a text is long would be too deep for destructors that call each other.
PrefixCache::~PrefixCache() {
  while (evict()) {
  }
}

// The best of the caches at and below a node, cut back to the first `common` tokens.
void PrefixCache::look_below(Node& node, int64_t common, Match& best) const {
  constexpr int kMost = 256;  // nodes; in all but odd cases one of the first will do
  std::vector<Node*> open = {&node};
  for (int seen = 0; !open.empty() && seen < kMost && best.length < common; ++seen) {
    Node* next = open.back();
    open.pop_back();
    for (const auto& [token, child] : next->children) open.push_back(child.get());
    if (!next->cache) continue;
    const int64_t reached = next->cache->reach(common);
    if (reached > best.length && fits_(*next->cache, reached)) {
      best.length = reached;
      best.node = next;
    }
  }
}

PrefixCache::Match PrefixCache::find(std::span<const int32_t> text) const {
  Match best;
  Node* node = root_.get();
  while (true) {
    if (node->cache && fits_(*node->cache, node->length)) {
      best.length = node->length;
      best.node = node;
    }
    const std::span<const int32_t> rest = text.subspan(static_cast<size_t>(node->length));
    const auto child = rest.empty() ? node->children.end() : node->children.find(rest.front());
    if (child == node->children.end()) break;
    const int64_t common = common_tokens(rest, child->second->tokens);
    const bool whole = common == static_cast<int64_t>(child->second->tokens.size());
    best.common = node->length + common;
    node = child->second.get();
    if (!whole) break;
  }
  if (best.common > best.length) look_below(*node, best.common, best);
  return best;
}

Cache PrefixCache::take(const Match& match) {
  Cache cache = match.node->cache->fork();
  cache.trim(match.length);
  ++match.node->hits;
  use(*match.node);
  return cache;
}

void PrefixCache::use(Node& node) { by_use_.splice(by_use_.begin(), by_use_, node.use); }

// The node of exactly these tokens; an edge is split where they end.
PrefixCache::Node& PrefixCache::node_of(std::span<const int32_t> tokens) {
  Node* node = root_.get();
  while (!tokens.empty()) {
    std::unique_ptr<Node>& child = node->children[tokens.front()];
    if (!child) {
      child = std::make_unique<Node>();
      child->parent = node;
      child->tokens.assign(tokens.begin(), tokens.end());
      child->length = node->length + static_cast<int64_t>(tokens.size());
      return *child;
    }
    const int64_t common = common_tokens(tokens, child->tokens);
    if (common < static_cast<int64_t>(child->tokens.size())) {
      auto middle = std::make_unique<Node>();
      middle->parent = node;
      middle->tokens.assign(child->tokens.begin(), child->tokens.begin() + common);
      middle->length = node->length + common;
      child->tokens.erase(child->tokens.begin(), child->tokens.begin() + common);
      child->parent = middle.get();
      middle->children[child->tokens.front()] = std::move(child);
      child = std::move(middle);
    }
    node = child.get();
    tokens = tokens.subspan(static_cast<size_t>(common));
  }
  return *node;
}

void PrefixCache::insert(std::span<const int32_t> tokens, Cache cache) {
  const auto length = static_cast<int64_t>(tokens.size());
  if (length == 0 || !fits_(cache, length)) return;
  if (const Match match = find(tokens); match.length == length && (match.node->length == length || cache.goes_back())) {
    use(*match.node);
    return;
  }
  Node& node = node_of(tokens);
  // What this one can go back to, it replaces.
  if (cache.goes_back())
    for (Node* above = node.parent; above != nullptr;) {
      Node* next = above->parent;
      if (above->cache && fits_(cache, above->length)) {
        node.hits += above->hits;
        drop_cache(*above);
        remove_if_useless(above);
      }
      above = next;
    }
  node.cache = std::move(cache);
  by_use_.push_front(&node);
  node.use = by_use_.begin();
}

void PrefixCache::drop_cache(Node& node) {
  by_use_.erase(node.use);
  node.cache.reset();
}

// Nodes without a cache are there only where texts part.
void PrefixCache::remove_if_useless(Node* node) {
  while (node->parent != nullptr && !node->cache && node->children.size() < 2) {
    Node* parent = node->parent;
    std::unique_ptr<Node>& place = parent->children.at(node->tokens.front());
    if (node->children.empty()) {
      parent->children.erase(parent->children.find(node->tokens.front()));
      node = parent;
      continue;
    }
    std::unique_ptr<Node> child = std::move(node->children.begin()->second);
    child->tokens.insert(child->tokens.begin(), node->tokens.begin(), node->tokens.end());
    child->parent = parent;
    place = std::move(child);
    return;
  }
}

std::optional<size_t> PrefixCache::evict() {
  if (by_use_.empty()) return std::nullopt;
  Node* node = by_use_.back();
  const size_t freed = node->cache->footprint().own;
  drop_cache(*node);
  remove_if_useless(node);
  return freed;
}

double PrefixCache::bytes() const {
  double total = 0;
  for (const Node* node : by_use_) total += node->cache->footprint().share;
  return total;
}

std::vector<PrefixCache::Entry> PrefixCache::entries() const {
  std::vector<Entry> all;
  for (const Node* node : by_use_) {
    Entry entry{{}, &*node->cache, node->hits};
    for (const Node* part = node; part != nullptr; part = part->parent)
      entry.tokens.insert(entry.tokens.begin(), part->tokens.begin(), part->tokens.end());
    all.push_back(std::move(entry));
  }
  return all;
}

}  // namespace turboquant
