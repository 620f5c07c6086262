// Times every case of kernel_cases.h at every level that the processor has, on one core, with Google Benchmark.
#include <benchmark/benchmark.h>

#include "kernel_cases.h"

namespace turboquant {
namespace {

void time_case(benchmark::State& state, const KernelCase& kernel) {
  const KernelRun prepared = kernel.prepare();
  prepared.run();  // its memory is there, and its code
  for (auto _ : state) {
    prepared.run();
    benchmark::ClobberMemory();
  }
  const auto rate = [&](const char* name, double value) {
    if (value > 0) state.counters[name] = benchmark::Counter(value, benchmark::Counter::kIsIterationInvariantRate);
  };
  rate("bytes/s", prepared.bytes);
  rate("multiply-adds/s", prepared.multiply_adds);
  rate("weights/s", prepared.weights);
}

}  // namespace
}  // namespace turboquant

int main(int argc, char** argv) {
  using namespace turboquant;
  for (const CpuLevel level : available_cpu_levels())
    for (const KernelCase& kernel : kernel_cases(level))
      benchmark::RegisterBenchmark(kernel.name.c_str(), [=](benchmark::State& state) { time_case(state, kernel); });
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
