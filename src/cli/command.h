// The command `turboquant`: parse, call, print. Results go to standard output, messages to standard error.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "turboquant/convert.h"
#include "turboquant/kv_cache.h"

namespace turboquant {

/// Each adds its subcommand; the callback runs it and throws Error.
void add_convert(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_demo_kv(CLI::App& app);
void add_info(CLI::App& app);
void add_plan(CLI::App& app);
void add_bench(CLI::App& app);
void add_logits(CLI::App& app);
void add_serve(CLI::App& app);
void add_completion(CLI::App& app);

/// The flags that several commands share, described once.
/// `names`: as CLI11 writes them.
CLI::Option* add_model_option(CLI::App& command, std::string& model, std::string& revision,
                              const std::string& names = "--model,--hf-path");
void add_threads_option(CLI::App& command, int& threads);
void add_precision_options(CLI::App& command, std::vector<std::string>& bits_for, std::string& preset);
/// --calibrate, and --calibrate-tokens, -seed, -damping, -drift
void add_calibration_options(CLI::App& command, CalibrationOptions& calibration);
/// --target-size of one conversion.
CLI::Option* add_target_size_option(CLI::App& command, uint64_t& bytes);
/// --preload and --lock
void add_memory_options(CLI::App& command, bool& preload, bool& lock);
/// --no-repack
void add_repack_option(CLI::App& command, bool& repack);
void add_cache_dtype_option(CLI::App& command, KvCacheOptions& kv);
/// --kv-format, --kv-group-size, --kv-keep-layers
void add_kv_format_options(CLI::App& command, KvCacheOptions& kv);
/// The same and --kv-bits, of one cache.
void add_kv_options(CLI::App& command, KvCacheOptions& kv);
/// `prompt`: whether --kv-start can mean the end of a prompt.
void add_kv_start_option(CLI::App& command, KvCacheOptions& kv, bool prompt);

/// Whole numbers from `least` on.
CLI::Validator at_least(int64_t least);

/// A line on standard error: "[info] ..." unless --quiet.
void message(const std::string& line);

/// Bytes of "48GB", "48g", "1.5 TB", "700 kB" (powers of 1000), "45GiB" (of 1024), or a number alone, in units of
/// `alone` bytes. UsageError names the option.
uint64_t parse_size(const std::string& option, const std::string& text, double alone);

/// 3 of 3.0: without a decimal point where there is nothing behind it.
nlohmann::ordered_json json_number(double value);

/// Creates FILE from JSON rows, one object a line in an array.
void write_json_rows(const std::string& path, const std::vector<std::string>& rows);

}  // namespace turboquant
