// What texts have in common, read once: a radix tree over tokens, some of whose nodes hold the cache behind them. The
// caches share their memory with one another, and with those of texts that go on from them.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cache/cache.h"

namespace turboquant {

/// Tokens at the beginning that both have.
int64_t common_tokens(std::span<const int32_t> a, std::span<const int32_t> b);

class PrefixCache {
  struct Node;

 public:
  /// Whether a cache, cut back to so many tokens, is what reading them would make.
  using Fits = std::function<bool(const Cache& cache, int64_t length)>;

  explicit PrefixCache(Fits fits);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  struct Match {
    int64_t common = 0;  // tokens that the text shares with one in the tree
    int64_t length = 0;  // of these, for which there is a cache
    Node* node = nullptr;
  };
  /// The longest beginning of a text.
  Match find(std::span<const int32_t> text) const;
  /// A cache of the match's first `length` tokens; it must be used before the tree changes.
  Cache take(const Match& match);
  /// Keeps the cache of these tokens, one or more, unless there is one that can go back to them.
  void insert(std::span<const int32_t> tokens, Cache cache);

  /// Gives up the cache that was not used for longest: returns how many bytes are free by that, or none if there is no
  /// cache left.
  std::optional<size_t> evict();

  size_t size() const { return by_use_.size(); }
  /// Share of the memory that its caches and others have.
  double bytes() const;

  struct Entry {
    std::vector<int32_t> tokens;
    const Cache* cache = nullptr;
    int64_t hits = 0;  // how often take() went on from it, or from what it replaced
  };
  /// All caches, the last used first.
  std::vector<Entry> entries() const;

 private:
  void use(Node& node);
  void drop_cache(Node& node);
  void remove_if_useless(Node* node);
  void look_below(Node& node, int64_t common, Match& best) const;
  Node& node_of(std::span<const int32_t> tokens);

  Fits fits_;
  std::unique_ptr<Node> root_;
  std::list<Node*> by_use_;  // those with a cache, the last used first
};

}  // namespace turboquant
