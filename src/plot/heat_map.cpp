#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "plot/plot.h"
#include "plot/svg.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

constexpr double kCellWidth = 52, kCellHeight = 34, kGap = 28;
constexpr std::string_view kMissing = "#dddddd";

struct Colour {
  double red, green, blue;
};

// Cividis at six places (Nunez, Anderton, Renslow 2018): lightness grows evenly, for all kinds of colour vision.
Colour colour_of(double value) {
  constexpr std::array<Colour, 6> kPlaces = {
      {{0, 34, 78}, {53, 69, 108}, {102, 105, 112}, {148, 142, 119}, {200, 184, 102}, {254, 232, 56}}};
  const double at = std::clamp(value, 0.0, 1.0) * (kPlaces.size() - 1);
  const size_t below = std::min(static_cast<size_t>(at), kPlaces.size() - 2);
  const double share = at - static_cast<double>(below);
  const auto mix = [&](double Colour::*part) {
    return kPlaces[below].*part * (1 - share) + kPlaces[below + 1].*part * share;
  };
  return {mix(&Colour::red), mix(&Colour::green), mix(&Colour::blue)};
}

std::string hex(const Colour& colour) {
  return fmt::format("#{:02x}{:02x}{:02x}", std::lround(colour.red), std::lround(colour.green),
                     std::lround(colour.blue));
}

std::string_view readable_on(const Colour& colour) {
  const double light = 0.2126 * colour.red + 0.7152 * colour.green + 0.0722 * colour.blue;
  return light > 125 ? "#000000" : "#ffffff";
}

double widest(const std::vector<std::string>& texts) {
  double width = 0;
  for (const std::string& text : texts) width = std::max(width, text_width(text, kText));
  return width;
}

}  // namespace

std::string svg_of(const HeatMaps& maps) {
  const size_t n_rows = maps.rows.size(), n_columns = maps.columns.size();
  if (maps.panels.empty() || n_rows == 0 || n_columns == 0) throw Error("a heat map of nothing");
  for (const HeatMapPanel& panel : maps.panels)
    if (panel.values.size() != n_rows * n_columns)
      throw Error(fmt::format("heat map {}: {} values for {} rows and {} columns", panel.title, panel.values.size(),
                              n_rows, n_columns));
  const double row_labels = widest(maps.rows) + 8, map_width = kCellWidth * static_cast<double>(n_columns),
               map_height = kCellHeight * static_cast<double>(n_rows);
  const double left = kMargin + (maps.y_label.empty() ? 0 : 26) + row_labels;
  const double top = kMargin + kTitle + 40, step = map_width + kGap;
  const double maps_right = left + step * static_cast<double>(maps.panels.size()) - kGap;
  const double width = std::max(maps_right + kMargin, text_width(maps.title, kTitle) + 2 * kMargin);
  Svg svg(width, top + map_height + 44 + kMargin);
  svg.text(kMargin, kMargin + kTitle, maps.title, {.size = kTitle});
  if (!maps.y_label.empty())
    svg.text(kMargin + kText, top + map_height / 2, maps.y_label,
             {.size = kText, .anchor = Anchor::middle, .upright = true});
  for (size_t row = 0; row < n_rows; ++row)
    svg.text(left - 8, top + kCellHeight * (static_cast<double>(row) + 0.5) + 4, maps.rows[row],
             {.size = kText, .anchor = Anchor::end});
  for (size_t p = 0; p < maps.panels.size(); ++p) {
    const double x0 = left + step * static_cast<double>(p);
    svg.text(x0 + map_width / 2, top - 10, maps.panels[p].title, {.size = kText + 1, .anchor = Anchor::middle});
    for (size_t i = 0; i < n_rows * n_columns; ++i) {
      const size_t row = i / n_columns;
      const double x = x0 + kCellWidth * static_cast<double>(i % n_columns),
                   y = top + kCellHeight * static_cast<double>(row), value = maps.panels[p].values[i];
      const bool known = !std::isnan(value);
      const Colour colour = colour_of(known ? value : 0);
      svg.rect(x, y, kCellWidth - 1, kCellHeight - 1, known ? hex(colour) : kMissing);
      if (known)
        svg.text(x + kCellWidth / 2, y + kCellHeight / 2 + 4, fmt::format("{:.0f}", 100 * value),
                 {.size = kText, .anchor = Anchor::middle, .colour = readable_on(colour)});
    }
    for (size_t column = 0; column < n_columns; ++column)
      svg.text(x0 + kCellWidth * (static_cast<double>(column) + 0.5), top + map_height + 18, maps.columns[column],
               {.size = kText, .anchor = Anchor::middle});
    svg.text(x0 + map_width / 2, top + map_height + 40, maps.x_label, {.size = kText, .anchor = Anchor::middle});
  }
  return std::move(svg).finish();
}

}  // namespace turboquant
