// Prints what hub_headers() returns as JSON, for the tests against the fake hub (tests/cli/hub_test.py).
#include <cstdio>
#include <nlohmann/json.hpp>

#include "hub/hub.h"
#include "turboquant/error.h"

int main(int argc, char** argv) try {
  const turboquant::HubHeaders headers = turboquant::hub_headers(argv[1], argc > 2 ? argv[2] : "");
  nlohmann::json json = {{"commit", headers.commit}, {"config", nlohmann::json::parse(headers.config)}};
  for (const auto& file : headers.files)
    json["files"][file.name] = {{"size", file.size}, {"header", nlohmann::json::parse(file.header)}};
  std::puts(json.dump().c_str());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
