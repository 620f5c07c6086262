// An SVG as it is drawn: shapes and text, from the back to the front.
#pragma once

#include <string>
#include <string_view>

namespace turboquant {

enum class Anchor { start, middle, end };

struct TextStyle {
  double size = 12;
  Anchor anchor = Anchor::start;
  std::string_view colour = "#222222";
  bool upright = false;  // turned by a quarter, to be read from below
  bool halo = false;     // white around the letters, over lines
};

/// What all pictures have around them, and the sizes of their title and other text.
inline constexpr double kMargin = 16, kTitle = 16, kText = 12;

class Svg {
 public:
  /// On a white ground.
  Svg(double width, double height);

  void rect(double x, double y, double width, double height, std::string_view fill);
  void line(double x1, double y1, double x2, double y2, std::string_view colour, double width = 1);
  /// A mark of the series of this number, each number of its own form.
  void mark(double x, double y, size_t number, std::string_view colour);
  /// The baseline begins, has its middle or ends at (x, y).
  void text(double x, double y, std::string_view text, const TextStyle& style = {});
  std::string finish() &&;

 private:
  std::string body_;
};

/// About as wide as the text is drawn, in the built-in font and its likes.
double text_width(std::string_view text, double size);

}  // namespace turboquant
