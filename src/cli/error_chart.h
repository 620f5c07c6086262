// The chart of `evaluate --plot`: error against bits.
#pragma once

#include <string>
#include <vector>

#include "plot/plot.h"
#include "turboquant/evaluate.h"

namespace turboquant {

/// Points that others published or that were measured elsewhere: a CSV file of lines NAME,BITS,KL. Empty lines and
/// lines that begin with '#' do not count, nor does a first line "name,bits,kl". Error: what is in no such line.
ChartSeries read_chart_points(const std::string& file);

/// KL divergence (logarithmic) against bits: of a weight of the linear layers, or, if no row has compressed weights, of
/// a value of the KV cache. A series for each format and text.
Chart error_chart(const std::vector<EvaluateRow>& rows, const std::vector<ChartSeries>& more);

}  // namespace turboquant
