#include "turboquant/version.h"

namespace turboquant {

const char* version() { return TURBOQUANT_VERSION; }  // defined by CMake from project(VERSION)

}  // namespace turboquant
