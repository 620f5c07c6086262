// Files of pictures.
#pragma once

#include <filesystem>
#include <string_view>

namespace turboquant {

/// UsageError, which names `flag`, unless the path ends in .svg or .png and its folder exists: to be asked before work
/// is done for a picture.
void check_picture_path(std::string_view flag, const std::filesystem::path& path);

/// Writes an SVG as it is, or as a PNG of two pixels a unit if the path ends in .png. Error: cannot be written.
void write_picture(const std::filesystem::path& path, std::string_view svg);

}  // namespace turboquant
