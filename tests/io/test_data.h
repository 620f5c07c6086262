// Where the files are that tests read.
#pragma once

#include <filesystem>

namespace turboquant {

inline const std::filesystem::path kTestData = TURBOQUANT_TEST_DATA;

}  // namespace turboquant
