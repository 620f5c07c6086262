// Where models come from and where they are kept: the environment variables that huggingface_hub reads too.
#pragma once

#include <filesystem>
#include <string>

namespace turboquant {

struct HubSettings {
  std::string endpoint;         ///< HF_ENDPOINT, without a slash at the end; default https://huggingface.co
  std::filesystem::path cache;  ///< HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub
  std::string token;            ///< HF_TOKEN, else the file HF_TOKEN_PATH or HF_HOME/token; empty: none
  bool offline = false;         ///< HF_HUB_OFFLINE
  int patience_s = 30;          ///< HF_HUB_DOWNLOAD_TIMEOUT: longest time without a byte
};

/// Reads the environment. Error: a value that cannot be used.
HubSettings hub_settings();

}  // namespace turboquant
