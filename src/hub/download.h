// One file from the hub into the cache: resumed where it stopped, checked when it is whole.
#pragma once

#include "core/progress.h"
#include "hub/cache.h"
#include "hub/repository.h"

namespace turboquant {

/// Bytes of `file` that the cache already has, finished or not.
uint64_t bytes_there(const RepositoryCache& cache, const RemoteFile& file);

/// Brings the file into the cache and links it into the snapshot of `commit`. Content that does not match its ETag
/// never gets the name of a finished file. Interrupted or disconnected, it keeps what has come for the next time.
void download(const Repository& repository, const RepositoryCache& cache, const std::string& commit,
              const RemoteFile& file, Progress& progress);

}  // namespace turboquant
