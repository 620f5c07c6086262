#include "plot/picture.h"

#include <algorithm>
#include <string>

#include "io/files.h"
#include "rust/tq_picture.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

constexpr float kPixels = 2;  // of a PNG, for a unit of the SVG

std::string ending(const std::filesystem::path& path) {
  std::string text = path.extension().string();
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

std::string taken(TqText text) {
  std::string copy(text.data == nullptr ? "" : text.data, text.size);
  tq_text_free(text);
  return copy;
}

std::string png_of(std::string_view svg) {
  TqText png{}, error{};
  if (tq_picture_png(svg.data(), svg.size(), kPixels, &png, &error) != 0)
    throw Error("the picture cannot be drawn: " + taken(error));
  return taken(png);
}

}  // namespace

void check_picture_path(std::string_view flag, const std::filesystem::path& path) {
  const std::string name = std::string(flag) + " " + quote(path.string());
  if (ending(path) != ".svg" && ending(path) != ".png")
    throw UsageError(name + ": name a picture that ends in .svg or .png");
  std::error_code ignored;
  if (path.has_parent_path() && !std::filesystem::is_directory(path.parent_path(), ignored))
    throw UsageError(name + ": there is no such folder");
}

void write_picture(const std::filesystem::path& path, std::string_view svg) {
  if (ending(path) == ".png")
    write_text(path, png_of(svg));
  else
    write_text(path, svg);
}

}  // namespace turboquant
