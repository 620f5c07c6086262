// What waits, taken in turn from each client that has something waiting.
#pragma once

#include <algorithm>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace turboquant {

/// Item: has a `client`, a string, and an `id`.
template <typename Item>
class FairQueue {
 public:
  bool empty() const { return lines_.empty(); }
  size_t size() const { return size_; }

  void add(std::unique_ptr<Item> item) {
    auto line = std::find_if(lines_.begin(), lines_.end(), [&](const Line& l) { return l.client == item->client; });
    if (line == lines_.end()) line = lines_.insert(lines_.end(), Line{item->client, {}});
    line->items.push_back(std::move(item));
    ++size_;
  }
  /// Of a queue that is not empty: whose turn it is.
  std::unique_ptr<Item> take() {
    Line& line = lines_.front();
    std::unique_ptr<Item> item = std::move(line.items.front());
    line.items.pop_front();
    --size_;
    if (line.items.empty())
      lines_.pop_front();
    else
      lines_.splice(lines_.end(), lines_, lines_.begin());
    return item;
  }
  /// What take() gave goes back to the front, and its client has its turn.
  void put_back(std::unique_ptr<Item> item) {
    auto line = std::find_if(lines_.begin(), lines_.end(), [&](const Line& l) { return l.client == item->client; });
    if (line == lines_.end()) line = lines_.insert(lines_.begin(), Line{item->client, {}});
    lines_.splice(lines_.begin(), lines_, line);
    line->items.push_front(std::move(item));
    ++size_;
  }
  /// Takes out what has one of these ids.
  std::vector<std::unique_ptr<Item>> remove(const std::vector<uint64_t>& ids) {
    std::vector<std::unique_ptr<Item>> removed;
    for (auto line = lines_.begin(); line != lines_.end();) {
      std::erase_if(line->items, [&](std::unique_ptr<Item>& item) {
        if (std::find(ids.begin(), ids.end(), item->id) == ids.end()) return false;
        removed.push_back(std::move(item));
        return true;
      });
      line = line->items.empty() ? lines_.erase(line) : std::next(line);
    }
    size_ -= removed.size();
    return removed;
  }

 private:
  struct Line {
    std::string client;
    std::deque<std::unique_ptr<Item>> items;
  };
  std::list<Line> lines_;  // whose turn is next stands first
  size_t size_ = 0;
};

}  // namespace turboquant
