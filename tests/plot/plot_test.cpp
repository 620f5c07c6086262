// Pictures: what is in the SVG, where it is, and that PNG files have its size and readable text.
#include "plot/plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "io/files.h"
#include "io/temp_folder.h"
#include "plot/picture.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
  return n;
}

HeatMaps two_maps() {
  return {"Found",          "Depth",          "Tokens",
          {"0 %", "100 %"}, {"512", "a<b&c"}, {{"fp16", {1, 0.5, 0, kNothing}}, {"3", {0.25, 1, 1, 1}}}};
}

Chart curve() {
  return {
      "Error", "Bits",
      "KL",    false,
      true,    {{"ours", {{2, 1, "two"}, {4, 0.01, "four"}, {3, 0.1, ""}}, true}, {"peer", {{3, 0.5, "q3"}}, false}}};
}

// Width, height and bytes of one channel of a PNG's header.
uint32_t big_endian(const std::string& png, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(png.at(at + i));
  return value;
}

TEST(HeatMaps, CellsHaveValuesAndColours) {
  const std::string svg = svg_of(two_maps());
  EXPECT_EQ(count(svg, ">100</text>"), 4u);
  EXPECT_EQ(count(svg, ">50</text>"), 1u);
  EXPECT_EQ(count(svg, ">0</text>"), 1u);
  EXPECT_EQ(count(svg, "#fee838"), 4u);  // 1 is the lightest colour
  EXPECT_EQ(count(svg, "#00224e"), 1u);
  EXPECT_EQ(count(svg, "#dddddd"), 1u);
  EXPECT_EQ(count(svg, ">a&lt;b&amp;c</text>"), 1u);
  EXPECT_EQ(count(svg, "a<b"), 0u);
}

TEST(HeatMaps, RefusesWhatDoesNotFit) {
  HeatMaps maps = two_maps();
  maps.panels[1].values.pop_back();
  EXPECT_THROW(svg_of(maps), Error);
  EXPECT_THROW(svg_of(HeatMaps{}), Error);
}

TEST(Chart, MarksLinesAndLabels) {
  const std::string svg = svg_of(curve());
  EXPECT_EQ(count(svg, "<circle"), 4u);   // three points, and the legend
  EXPECT_EQ(count(svg, "<polygon"), 2u);  // the other series has a form of its own
  EXPECT_EQ(count(svg, "stroke-width=\"1.5\""), 2u);
  for (const char* label : {">two<", ">four<", ">q3<", ">ours<", ">peer<", ">0.1<", ">Bits<"})
    EXPECT_EQ(count(svg, label), 1u) << label;
}

// On a logarithmic axis 1, 0.1 and 0.01 lie evenly; lines go from left to right.
TEST(Chart, LogarithmicAxis) {
  const std::string svg = svg_of(curve());
  std::vector<double> heights;
  for (size_t at = svg.find("cy=\""); at != svg.npos; at = svg.find("cy=\"", at + 1))
    heights.push_back(std::stod(svg.substr(at + 4)));
  ASSERT_EQ(heights.size(), 4u);
  EXPECT_NEAR(heights[1] - heights[0], heights[2] - heights[1], 0.02);
  EXPECT_GT(heights[1], heights[0]);
}

TEST(Chart, LeavesOutWhatALogarithmicAxisCannotShow) {
  Chart chart = curve();
  chart.series[1].points[0].y = 0;
  EXPECT_EQ(count(svg_of(chart), "<polygon"), 1u);  // the legend's
  chart.series = {{"none", {{1, 0, ""}}, true}};
  EXPECT_THROW(svg_of(chart), Error);
}

TEST(Chart, OnePointHasAnAxis) {
  const std::string svg = svg_of(Chart{"", "", "", false, false, {{"one", {{3, 7, "here"}}, true}}});
  EXPECT_EQ(count(svg, "nan"), 0u);
  EXPECT_EQ(count(svg, "inf"), 0u);
  EXPECT_EQ(count(svg, ">here<"), 1u);
}

TEST(Ticks, AreRoundAndInside) {
  EXPECT_EQ(axis_ticks(0.03, 3, true), (std::vector<double>{0.05, 0.1, 0.2, 0.5, 1, 2}));
  EXPECT_EQ(axis_ticks(1.9, 4.3, false).size(), 5u);  // 2, 2.5, ... or 2, 2.4
  for (const bool logarithmic : {false, true})
    for (const double low : {0.011, 1.0, 730.0})
      for (const double factor : {1.0001, 1.5, 10.0, 1e7}) {
        const std::vector<double> ticks = axis_ticks(low, low * factor, logarithmic);
        EXPECT_GE(ticks.size(), 2u) << low << " " << factor;
        EXPECT_LE(ticks.size(), 14u) << low << " " << factor;
        EXPECT_GE(ticks.front(), low * 0.999999);
        EXPECT_LE(ticks.back(), low * factor * 1.000001);
      }
}

TEST(Picture, IsWrittenAsSvgAndPng) {
  const TempFolder temp;
  const std::string svg = svg_of(curve());
  write_picture(temp.path() / "a.svg", svg);
  EXPECT_EQ(read_text(temp.path() / "a.svg"), svg);
  write_picture(temp.path() / "a.PNG", svg);
  const std::string png = read_text(temp.path() / "a.PNG");
  ASSERT_TRUE(png.starts_with("\x89PNG\r\n\x1a\n"));
  const double width = std::stod(svg.substr(svg.find("width=\"") + 7));
  EXPECT_EQ(big_endian(png, 16), static_cast<uint32_t>(std::ceil(2 * width)));
}

// The font is built in: text makes a difference to the picture even where no font is installed.
TEST(Picture, TextIsDrawn) {
  const TempFolder temp;
  const auto size_with = [&](const std::string& title) {
    Chart chart = curve();
    chart.title = title;
    write_picture(temp.path() / "a.png", svg_of(chart));
    return std::filesystem::file_size(temp.path() / "a.png");
  };
  EXPECT_GT(size_with("Quantized models"), size_with("") + 500);
}

TEST(Picture, OtherEndingsAndFoldersAreRefused) {
  const TempFolder temp;
  EXPECT_NO_THROW(check_picture_path("--plot", "a.svg"));
  EXPECT_NO_THROW(check_picture_path("--plot", temp.path() / "a.png"));
  EXPECT_THROW(check_picture_path("--plot", "a.pdf"), UsageError);
  EXPECT_THROW(check_picture_path("--plot", "svg"), UsageError);
  EXPECT_THROW(check_picture_path("--plot", temp.path() / "none" / "a.png"), UsageError);
  EXPECT_THROW(write_picture(temp.path() / "a.png", "no svg"), Error);
}

}  // namespace
}  // namespace turboquant
