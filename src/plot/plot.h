// Heat maps and charts, drawn as SVG.
#pragma once

#include <string>
#include <vector>

namespace turboquant {

struct HeatMapPanel {
  std::string title;
  std::vector<double> values;  // [rows, columns] in [0, 1]; NaN: not measured
};

/// Panels of one scale beside each other, each cell with its value in percent.
struct HeatMaps {
  std::string title, x_label, y_label;
  std::vector<std::string> columns, rows;
  std::vector<HeatMapPanel> panels;
};

struct ChartPoint {
  double x = 0, y = 0;
  std::string label;  // beside the mark; empty: none
};

struct ChartSeries {
  std::string name;  // in the legend
  std::vector<ChartPoint> points;
  bool line = true;  // between the points, in order of x
};

/// Points over two axes. Of a logarithmic axis only points above 0 are drawn.
struct Chart {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;
  std::vector<ChartSeries> series;
};

/// The SVG's text. Error: no panel or point to draw, or values that do not fit rows and columns.
std::string svg_of(const HeatMaps& maps);
std::string svg_of(const Chart& chart);

/// Values at which an axis from low to high has labels, all within it; for a logarithmic one low is above 0.
std::vector<double> axis_ticks(double low, double high, bool logarithmic);

}  // namespace turboquant
