// The library's version.
#pragma once

namespace turboquant {

/// "0.1.0"
const char* version();

}  // namespace turboquant
