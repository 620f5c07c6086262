// Writers of safetensors files. Both place tensors by lay_out().
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <system_error>
#include <unordered_map>

#include "io/safetensors.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

// The kernels read whole cache lines and 64-byte vectors from the mapped file.
constexpr uint64_t kAlignment = 64;

constexpr uint64_t round_up(uint64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

struct Layout {
  std::string header;             // the first bytes of the file; a multiple of 64 of them
  std::vector<uint64_t> offsets;  // of tensor i from the start of the file
  uint64_t file_bytes = 0;
};

// Names and metadata as JSON.
std::string json_text(const nlohmann::json& value, const std::string& where) {
  try {
    return value.dump();
  } catch (const nlohmann::json::exception&) {
    const std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    throw Error(where + ": " + quote(text) + " is not UTF-8 and cannot be written");
  }
}

Layout lay_out(const std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata,
               const std::string& where) {
  std::string json = "{";
  const auto append = [&](const std::string& key, const std::string& value) {
    if (json.size() > 1) json += ',';
    json += key;
    json += ':';
    json += value;
  };
  if (!metadata.empty()) append("\"__metadata__\"", json_text(metadata, where));

  std::vector<uint64_t> begins(tensors.size());
  uint64_t end = 0;
  const auto append_tensor = [&](const std::string& key, DType dtype, const Shape& shape, uint64_t bytes) {
    // to_string(Shape) is a JSON list as well.
    append(key, std::string("{\"dtype\":\"") + std::string(name(dtype)) + "\",\"shape\":" + to_string(shape) +
                    ",\"data_offsets\":[" + std::to_string(end) + "," + std::to_string(end + bytes) + "]}");
    end += bytes;
  };
  // The format forbids holes, so a gap before an aligned start must be a tensor itself. Tensors of whole 64-byte
  // units leave no gap behind them and come first; most of a model's do.
  size_t fillers = 0;
  for (const bool whole : {true, false}) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if ((tensors[i].bytes() % kAlignment == 0) != whole) continue;
      if (const uint64_t gap = round_up(end) - end; gap != 0)
        append_tensor(json_text(std::string(kPaddingPrefix) + "." + std::to_string(fillers++), where), DType::u8,
                      {static_cast<int64_t>(gap)}, gap);
      begins[i] = end;
      append_tensor(json_text(tensors[i].name, where), tensors[i].dtype, tensors[i].shape, tensors[i].bytes());
    }
  }
  json += '}';

  uint64_t size = json.size();
  size = round_up(sizeof size + size) - sizeof size;  // the data starts behind the size and the header
  if (size > kMaxJsonBytes) throw Error(where + ": too many tensors for one file; use smaller shards");
  json.resize(size, ' ');
  Layout layout;
  layout.header.resize(sizeof size);
  std::memcpy(layout.header.data(), &size, sizeof size);
  layout.header += json;
  layout.offsets = std::move(begins);
  for (uint64_t& offset : layout.offsets) offset += layout.header.size();
  layout.file_bytes = layout.header.size() + end;
  return layout;
}

void check_plan(const TensorInfo& info, const std::string& where) {
  if (info.name == "__metadata__" || info.name.starts_with(kPaddingPrefix))
    throw Error(where + ": the name of tensor " + describe(info) + " is reserved");
  if (!checked_bytes(info.dtype, info.shape)) throw Error(where + ": tensor " + describe(info) + " has no valid size");
}

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

// A shard is full when the next tensor would pass `shard_bytes`.
std::vector<std::vector<TensorInfo>> split_into_shards(const std::vector<TensorInfo>& plan, uint64_t shard_bytes) {
  std::vector<std::vector<TensorInfo>> shards(1);
  uint64_t used = 0;
  for (const TensorInfo& info : plan) {
    if (!shards.back().empty() && (info.bytes() > shard_bytes || used > shard_bytes - info.bytes())) {
      shards.emplace_back();
      used = 0;
    }
    used += info.bytes();
    shards.back().push_back(info);
  }
  return shards;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors) {
    infos.push_back({name, tensor.dtype(), tensor.shape()});
    if (!tensor) throw Error(path.string() + ": tensor " + quote(name) + " has no data");
  }
  write_safetensors(path, infos, metadata, [&](size_t i) { return tensors.at(infos[i].name); });
}

void write_safetensors(const std::filesystem::path& path, const std::vector<TensorInfo>& infos,
                       const std::map<std::string, std::string>& metadata,
                       const std::function<Tensor(size_t)>& tensor) {
  for (const TensorInfo& info : infos) check_plan(info, path.string());
  const Layout layout = lay_out(infos, metadata, path.string());
  OutputFile file(path);
  file.reserve(layout.file_bytes);
  file.write_at(0, layout.header.data(), layout.header.size());
  for (size_t i = 0; i < infos.size(); ++i) {
    const Tensor x = tensor(i);
    if (x.dtype() != infos[i].dtype || x.shape() != infos[i].shape)
      throw Error(path.string() + ": tensor " + describe(infos[i]) + " became another one");
    file.write_at(layout.offsets[i], x.data<std::byte>(), x.bytes());
  }
  file.commit();
}

struct SafetensorsWriter::State {
  enum class Progress { planned, writing, written };
  struct Entry {
    TensorInfo info;
    size_t shard = 0;
    uint64_t offset = 0;
    Progress progress = Progress::planned;
  };

  State(std::filesystem::path target, const std::vector<TensorInfo>& plan,
        const std::map<std::string, std::string>& metadata, uint64_t shard_bytes, OutputFile::Kind kind);
  ~State();
  Entry& entry(std::string_view name);

  std::filesystem::path folder;
  OutputFile::Kind kind;
  std::unordered_map<std::string, Entry> entries;
  std::vector<std::unique_ptr<OutputFile>> shards;
  std::vector<std::filesystem::path> final_files;  // that finish() has already put in place
  std::mutex mutex;                                // guards Entry::progress
  std::atomic<uint64_t> bytes{0};
  bool finished = false;
};

SafetensorsWriter::State::State(std::filesystem::path target, const std::vector<TensorInfo>& plan,
                                const std::map<std::string, std::string>& metadata, uint64_t shard_bytes,
                                OutputFile::Kind file_kind)
    : folder(std::move(target)), kind(file_kind) {
  for (const TensorInfo& info : plan) {
    check_plan(info, folder.string());
    if (!entries.emplace(info.name, Entry{.info = info}).second)
      throw Error(folder.string() + ": tensor " + quote(info.name) + " is planned twice");
  }
  const std::vector<std::vector<TensorInfo>> contents = split_into_shards(plan, shard_bytes);
  for (size_t i = 0; i < contents.size(); ++i) {
    const auto path = folder / shard_name(i, contents.size());
    const Layout layout = lay_out(contents[i], metadata, path.string());
    auto& file = *shards.emplace_back(std::make_unique<OutputFile>(path, kind));
    file.reserve(layout.file_bytes);  // fillers are the zeros that this leaves
    file.write_at(0, layout.header.data(), layout.header.size());
    for (size_t t = 0; t < contents[i].size(); ++t) {
      Entry& planned = entries.at(contents[i][t].name);
      planned.shard = i;
      planned.offset = layout.offsets[t];
    }
  }
}

SafetensorsWriter::State::~State() {
  if (finished || kind == OutputFile::Kind::resumable) return;
  std::error_code ignored;
  for (const auto& path : final_files) std::filesystem::remove(path, ignored);
}

SafetensorsWriter::State::Entry& SafetensorsWriter::State::entry(std::string_view name) {
  const auto at = entries.find(std::string(name));
  if (at == entries.end()) throw Error(folder.string() + ": tensor " + quote(name) + " is not in the plan");
  return at->second;
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path folder, const std::vector<TensorInfo>& plan,
                                     const std::map<std::string, std::string>& metadata, uint64_t shard_bytes)
    : state_(std::make_unique<State>(std::move(folder), plan, metadata, shard_bytes, OutputFile::Kind::fresh)) {}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path folder, const std::vector<TensorInfo>& plan,
                                     const std::map<std::string, std::string>& metadata,
                                     const std::set<std::string>& written, uint64_t shard_bytes)
    : state_(std::make_unique<State>(std::move(folder), plan, metadata, shard_bytes, OutputFile::Kind::resumable)) {
  for (const std::string& name : written) {
    State::Entry& entry = state_->entry(name);
    entry.progress = State::Progress::written;
    state_->bytes += entry.info.bytes();
  }
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::add(std::string_view name, const Tensor& tensor) {
  State::Entry& entry = state_->entry(name);
  OutputFile& file = *state_->shards[entry.shard];
  const auto fail = [&](const std::string& problem) {
    throw Error(file.path().string() + ": tensor " + describe(entry.info) + ": " + problem);
  };
  if (tensor.dtype() != entry.info.dtype || tensor.shape() != entry.info.shape)
    fail("was planned so, got " + std::string(turboquant::name(tensor.dtype())) + " " + to_string(tensor.shape()));
  if (!tensor) fail("has no data");
  const auto advance = [&](State::Progress from, State::Progress to) {
    const std::lock_guard lock(state_->mutex);
    if (entry.progress != from) return false;
    entry.progress = to;
    return true;
  };
  if (!advance(State::Progress::planned, State::Progress::writing)) fail("was added before");
  try {
    file.write_at(entry.offset, tensor.data<std::byte>(), tensor.bytes());
  } catch (...) {
    advance(State::Progress::writing, State::Progress::planned);
    throw;
  }
  advance(State::Progress::writing, State::Progress::written);
  state_->bytes += tensor.bytes();
}

Tensor SafetensorsWriter::added(std::string_view name) const {
  const State::Entry& entry = state_->entry(name);
  const OutputFile& file = *state_->shards[entry.shard];
  if (const std::lock_guard lock(state_->mutex); entry.progress != State::Progress::written)
    throw Error(file.path().string() + ": tensor " + describe(entry.info) + ": was not written yet");
  Tensor tensor = Tensor::zeros(entry.info.dtype, entry.info.shape);
  file.read_at(entry.offset, tensor.data<std::byte>(), tensor.bytes());
  return tensor;
}

void SafetensorsWriter::sync() {
  for (const auto& shard : state_->shards) shard->sync();
}

void SafetensorsWriter::finish(uint64_t total_parameters) {
  if (state_->finished) throw Error(state_->folder.string() + ": the checkpoint is finished already");
  nlohmann::json weight_map = nlohmann::json::object();  // sorted by name
  uint64_t total_size = 0;
  for (const auto& [name, entry] : state_->entries) {
    if (entry.progress != State::Progress::written)
      throw Error(state_->folder.string() + ": tensor " + describe(entry.info) + " is planned, but was not written");
    weight_map[name] = state_->shards[entry.shard]->path().filename().string();
    total_size += entry.info.bytes();
  }
  for (const auto& shard : state_->shards) {
    shard->commit();
    state_->final_files.push_back(shard->path());
  }
  const nlohmann::json index = {
      {"metadata", {{"total_size", total_size}, {"total_parameters", total_parameters}}},
      {"weight_map", std::move(weight_map)},
  };
  const auto index_path = state_->folder / "model.safetensors.index.json";
  write_text(index_path, index.dump(4) + "\n");
  state_->final_files.push_back(index_path);
  sync_folder(state_->folder);
  state_->finished = true;
}

uint64_t SafetensorsWriter::bytes_on_disk(const std::vector<TensorInfo>& plan,
                                          const std::map<std::string, std::string>& metadata, uint64_t shard_bytes) {
  uint64_t bytes = 0;
  for (const std::vector<TensorInfo>& shard : split_into_shards(plan, shard_bytes))
    bytes += lay_out(shard, metadata, "").file_bytes;
  return bytes;
}

uint64_t SafetensorsWriter::bytes() const { return state_->bytes; }

}  // namespace turboquant
