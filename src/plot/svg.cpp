#include "plot/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace turboquant {
namespace {

// For text and attributes. Control characters are not allowed in XML at all.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '&')
      result += "&amp;";
    else if (c == '<')
      result += "&lt;";
    else if (c == '>')
      result += "&gt;";
    else if (c == '"')
      result += "&quot;";
    else if (static_cast<unsigned char>(c) < 0x20)
      result += ' ';
    else
      result += c;
  }
  return result;
}

// "12.5", "3": files stay small.
std::string number(double value) {
  std::string text = fmt::format("{:.2f}", value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text == "-0" ? "0" : text;
}

}  // namespace

Svg::Svg(double width, double height)
    : body_(
          fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
                      "font-family=\"DejaVu Sans, Verdana, Helvetica, Arial, sans-serif\">\n",
                      number(width), number(height))) {
  rect(0, 0, width, height, "#ffffff");
}

void Svg::rect(double x, double y, double width, double height, std::string_view fill) {
  body_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>\n", number(x), number(y),
                       number(width), number(height), fill);
}

void Svg::line(double x1, double y1, double x2, double y2, std::string_view colour, double width) {
  body_ += fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{}\" stroke-width=\"{}\"/>\n",
                       number(x1), number(y1), number(x2), number(y2), colour, number(width));
}

void Svg::mark(double x, double y, size_t number_of_series, std::string_view colour) {
  // Corners around (0, 0): square, diamond, triangle up and down; and a circle.
  constexpr std::array<std::string_view, 4> kCorners = {"-4,-4 4,-4 4,4 -4,4", "0,-5.6 5.6,0 0,5.6 -5.6,0",
                                                        "0,-5.2 5.2,4 -5.2,4", "0,5.2 5.2,-4 -5.2,-4"};
  const size_t form = number_of_series % (kCorners.size() + 1);
  if (form == 0)
    body_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"4.5\" fill=\"{}\"/>\n", number(x), number(y), colour);
  else
    body_ += fmt::format("<polygon points=\"{}\" transform=\"translate({} {})\" fill=\"{}\"/>\n", kCorners[form - 1],
                         number(x), number(y), colour);
}

void Svg::text(double x, double y, std::string_view text, const TextStyle& style) {
  constexpr std::array<std::string_view, 3> kAnchors = {"", " text-anchor=\"middle\"", " text-anchor=\"end\""};
  const std::string turn =
      style.upright ? fmt::format(" transform=\"rotate(-90 {} {})\"", number(x), number(y)) : std::string();
  const std::string_view halo =
      style.halo ? " stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\"" : std::string_view();
  body_ += fmt::format("<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{}\"{}{}{}>{}</text>\n", number(x), number(y),
                       number(style.size), style.colour, kAnchors[static_cast<size_t>(style.anchor)], turn, halo,
                       escaped(text));
}

std::string Svg::finish() && { return std::move(body_) + "</svg>\n"; }

double text_width(std::string_view text, double size) {
  const auto letters = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
  return 0.57 * size * static_cast<double>(letters);
}

}  // namespace turboquant
