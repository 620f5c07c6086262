#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "plot/plot.h"
#include "plot/svg.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

constexpr double kPlotWidth = 640, kPlotHeight = 420, kLabel = 10.5;
constexpr double kLeft = kMargin + 76, kTop = kMargin + kTitle + 24;
// Okabe and Ito 2008, the yellow left out: it cannot be seen on white.
constexpr std::array<std::string_view, 7> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                      "#e69f00", "#56b4e9", "#000000"};

struct Box {
  double x, y, width, height;

  bool meets(const Box& other) const {
    return x < other.x + other.width && other.x < x + width && y < other.y + other.height && other.y < y + height;
  }
};

/// Values to positions on the paper.
class Axis {
 public:
  Axis(const Chart& chart, bool logarithmic, double ChartPoint::*value) : logarithmic_(logarithmic) {
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (const ChartSeries& series : chart.series)
      for (const ChartPoint& point : series.points) {
        if (!shows(point.*value)) continue;
        low = std::min(low, at(point.*value));
        high = std::max(high, at(point.*value));
      }
    const double span = high > low ? high - low : std::max(std::abs(high), 1.0);
    low_ = low - 0.06 * span;
    high_ = high + 0.06 * span;
  }

  bool shows(double value) const { return std::isfinite(value) && (!logarithmic_ || value > 0); }
  /// 0 at the lower end, 1 at the upper.
  double share(double value) const { return (at(value) - low_) / (high_ - low_); }
  std::vector<double> ticks() const {
    return logarithmic_ ? axis_ticks(std::exp(low_), std::exp(high_), true) : axis_ticks(low_, high_, false);
  }

 private:
  double at(double value) const { return logarithmic_ ? std::log(value) : value; }

  bool logarithmic_;
  double low_ = 0, high_ = 1;
};

struct Place {
  ChartPoint point;
  double x, y;
};

// The first place around the mark that is free, or nothing if all are taken.
std::optional<Box> free_place(const Place& place, const std::vector<Box>& taken) {
  const double width = text_width(place.point.label, kLabel), height = kLabel + 1;
  const std::array<Box, 6> choices = {{{place.x + 8, place.y - height / 2, width, height},
                                       {place.x - 8 - width, place.y - height / 2, width, height},
                                       {place.x - width / 2, place.y - 8 - height, width, height},
                                       {place.x - width / 2, place.y + 8, width, height},
                                       {place.x + 6, place.y - 6 - height, width, height},
                                       {place.x + 6, place.y + 6, width, height}}};
  const auto found = std::find_if(choices.begin(), choices.end(), [&](const Box& box) {
    return box.x >= kLeft && box.x + box.width <= kLeft + kPlotWidth && box.y >= kTop &&
           box.y + box.height <= kTop + kPlotHeight &&
           std::none_of(taken.begin(), taken.end(), [&](const Box& other) { return box.meets(other); });
  });
  return found == choices.end() ? std::nullopt : std::optional(*found);
}

}  // namespace

std::vector<double> axis_ticks(double low, double high, bool logarithmic) {
  std::vector<double> ticks;
  if (logarithmic) {
    // 1, 2 and 5 of each power of ten; of many powers the ones alone.
    const bool many = high / low > 2000;
    for (int power = static_cast<int>(std::floor(std::log10(low))); power <= std::ceil(std::log10(high)); ++power)
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double tick = digit * std::pow(10.0, power);
        if (tick >= low && tick <= high && (digit == 1 || !many)) ticks.push_back(tick);
      }
    if (ticks.size() >= 2) return ticks;
    ticks.clear();
  }
  if (!(high > low)) return {low};
  const double rough = (high - low) / 6, power = std::pow(10.0, std::floor(std::log10(rough)));
  const double digit = rough / power;
  const double step = power * (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10);
  for (double i = std::ceil(low / step); i * step <= high; ++i) ticks.push_back(i * step);
  return ticks;
}

std::string svg_of(const Chart& chart) {
  const Axis x_axis(chart, chart.log_x, &ChartPoint::x), y_axis(chart, chart.log_y, &ChartPoint::y);
  std::vector<std::vector<Place>> places;  // of each series
  size_t count = 0;
  double legend = 0;
  for (const ChartSeries& series : chart.series) {
    legend = std::max(legend, text_width(series.name, kText));
    std::vector<Place>& own = places.emplace_back();
    for (const ChartPoint& point : series.points)
      if (x_axis.shows(point.x) && y_axis.shows(point.y))
        own.push_back(
            {point, kLeft + kPlotWidth * x_axis.share(point.x), kTop + kPlotHeight * (1 - y_axis.share(point.y))});
    std::stable_sort(own.begin(), own.end(), [](const Place& a, const Place& b) { return a.x < b.x; });
    count += own.size();
  }
  if (count == 0) throw Error("a chart without a point that can be drawn");
  const double bottom = kTop + kPlotHeight, right = kLeft + kPlotWidth;
  Svg svg(right + 24 + 20 + legend + kMargin, bottom + 48 + kMargin);
  svg.text(kMargin, kMargin + kTitle, chart.title, {.size = kTitle});
  for (const double tick : x_axis.ticks()) {
    const double x = kLeft + kPlotWidth * x_axis.share(tick);
    svg.line(x, kTop, x, bottom, "#e4e4e4");
    svg.text(x, bottom + 18, fmt::format("{:.4g}", tick), {.size = kText, .anchor = Anchor::middle});
  }
  for (const double tick : y_axis.ticks()) {
    const double y = kTop + kPlotHeight * (1 - y_axis.share(tick));
    svg.line(kLeft, y, right, y, "#e4e4e4");
    svg.text(kLeft - 8, y + 4, fmt::format("{:.4g}", tick), {.size = kText, .anchor = Anchor::end});
  }
  svg.line(kLeft, bottom, right, bottom, "#222222");
  svg.line(kLeft, kTop, kLeft, bottom, "#222222");
  svg.text(kLeft + kPlotWidth / 2, bottom + 42, chart.x_label, {.size = kText, .anchor = Anchor::middle});
  svg.text(kMargin + kText, kTop + kPlotHeight / 2, chart.y_label,
           {.size = kText, .anchor = Anchor::middle, .upright = true});

  std::vector<Box> taken;
  for (size_t s = 0; s < places.size(); ++s) {
    const std::string_view colour = kColours[s % kColours.size()];
    for (size_t i = 0; i < places[s].size(); ++i) {
      const Place& place = places[s][i];
      if (chart.series[s].line && i > 0)
        svg.line(places[s][i - 1].x, places[s][i - 1].y, place.x, place.y, colour, 1.5);
      svg.mark(place.x, place.y, s, colour);
      taken.push_back({place.x - 6, place.y - 6, 12, 12});
    }
    const double y = kTop + 10 + 20 * static_cast<double>(s);
    svg.mark(right + 24, y, s, colour);
    svg.text(right + 36, y + 4, chart.series[s].name, {.size = kText});
  }
  // Behind all marks, so that no label lies on one. One without a place beside its mark is left out.
  for (const std::vector<Place>& own : places)
    for (const Place& place : own) {
      if (place.point.label.empty()) continue;
      const std::optional<Box> box = free_place(place, taken);
      if (!box) continue;
      taken.push_back(*box);
      svg.text(box->x, box->y + kLabel - 1, place.point.label, {.size = kLabel, .halo = true});
    }
  return std::move(svg).finish();
}

}  // namespace turboquant
