// The chart of evaluate --plot: which rows become points, and points of files.
#include "cli/error_chart.h"

#include <gtest/gtest.h>

#include "io/error_of.h"
#include "io/files.h"
#include "io/temp_folder.h"

namespace turboquant {
namespace {

EvaluateRow row(const std::string& format, double bits, double kl, const std::string& text = "a.txt",
                const std::string& kv = "fp16", double kv_bytes = 1600) {
  EvaluateRow row;
  row.config = format + (kv == "fp16" ? "" : " KV " + kv);
  row.format = format;
  row.bits_per_weight_linear = bits;
  row.kl = kl;
  row.text = text;
  row.kv = kv;
  row.kv_token_bytes = kv_bytes;
  return row;
}

TEST(ErrorChart, OfWeightsInSeriesByFormat) {
  const Chart chart = error_chart({row("none", 16, 0), row("none", 16, 0.1, "a.txt", "3", 400), row("tcq16", 3.25, 0.7),
                                   row("tcq16", 4.25, 0.2), row("original+qjl", 4.5, 0.9)},
                                  {{"peers", {{4.5, 0.3, "q4"}}, false}});
  EXPECT_TRUE(chart.log_y);
  EXPECT_EQ(chart.title, "Error against size, a.txt");
  ASSERT_EQ(chart.series.size(), 3u);
  EXPECT_EQ(chart.series[0].name, "TCQ16");
  ASSERT_EQ(chart.series[0].points.size(), 2u);
  EXPECT_EQ(chart.series[0].points[1].x, 4.25);
  EXPECT_EQ(chart.series[0].points[1].y, 0.2);
  EXPECT_EQ(chart.series[0].points[1].label, "tcq16");
  EXPECT_EQ(chart.series[1].name, "TurboQuant + QJL");
  EXPECT_EQ(chart.series[2].name, "peers");
  EXPECT_NO_THROW(svg_of(chart));
}

TEST(ErrorChart, OfCachesWhereNoWeightsAreCompressed) {
  const Chart chart = error_chart(
      {row("none", 16, 0), row("none", 16, 0.1, "a.txt", "3", 400), row("none", 16, 0.01, "a.txt", "8", 850),
       row("none", 16, 0, "b.txt"), row("none", 16, 0.2, "b.txt", "3", 400)},
      {});
  EXPECT_EQ(chart.title, "Error against size");
  ASSERT_EQ(chart.series.size(), 2u);
  EXPECT_EQ(chart.series[0].name, "KV cache, a.txt");
  EXPECT_EQ(chart.series[1].name, "KV cache, b.txt");
  EXPECT_EQ(chart.series[0].points[0].x, 4);
  EXPECT_EQ(chart.series[0].points[1].x, 8.5);
  EXPECT_EQ(chart.series[0].points[1].label, "8");
}

TEST(ChartPoints, OfAFile) {
  const TempFolder temp;
  const auto read = [&](const std::string& text) {
    write_text(temp.path() / "peers.csv", text);
    return read_chart_points((temp.path() / "peers.csv").string());
  };
  const ChartSeries series = read("# measured elsewhere\r\nname,bits,kl\r\nQ4_K_S, 4.5 ,0.28\r\n\r\nQ3_K_S,3.44,1.07");
  EXPECT_EQ(series.name, "peers");
  EXPECT_FALSE(series.line);
  ASSERT_EQ(series.points.size(), 2u);
  EXPECT_EQ(series.points[0].label, "Q4_K_S");
  EXPECT_EQ(series.points[0].x, 4.5);
  EXPECT_EQ(series.points[1].y, 1.07);
  EXPECT_HAS(error_of([&] { read("name,bits,kl\n"); }), "no line");
  EXPECT_HAS(error_of([&] { read("a,1,2\nname,bits,kl\n"); }), "line 2");
  EXPECT_HAS(error_of([&] { read("a,1\n"); }), "line 1");
  EXPECT_HAS(error_of([&] { read("a,1,2,3\n"); }), "line 1");
  EXPECT_HAS(error_of([&] { read("a,1,nan\n"); }), "above 0");
  EXPECT_HAS(error_of([&] { read("a,1e999,1\n"); }), "above 0");
  EXPECT_HAS(error_of([&] { read("a,0,1\n"); }), "above 0");
}

}  // namespace
}  // namespace turboquant
