// Runs cases of kernel_cases.h for bench/instruction_counts.py to count under callgrind: each once to warm up, then
// once inside counted_run(), which is all that is collected. (A name without mangling: the script gives it to
// callgrind.)
//
//   kernel_counts             prints the names of the cases, and counts each
//   kernel_counts NAME...     these cases
//   kernel_counts --build     prints compiler and architecture, which counts depend on
#include <algorithm>
#include <iostream>

#include "kernel_cases.h"

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif
#if defined(__x86_64__)
constexpr const char* kArchitecture = "x86_64";
#elif defined(__aarch64__)
constexpr const char* kArchitecture = "aarch64";
#else
constexpr const char* kArchitecture = "other";
#endif

extern "C" __attribute__((noinline)) void counted_run(const std::function<void()>& run) {
  run();
  asm volatile("" ::: "memory");  // not a tail call: this function ends after the kernel
}

int main(int argc, char** argv) {
  using namespace turboquant;
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  if (wanted == std::vector<std::string>{"--build"}) {
#if defined(__OPTIMIZE__)
    std::cout << kCompiler << "\n" << kArchitecture << "\n";
    return 0;
#else
    std::cerr << "error: kernel_counts is built without optimization: use the release preset\n";
    return 1;
#endif
  }
  std::vector<KernelCase> cases;
  for (const CpuLevel level : levels_up_to(CpuLevel::avx2))  // valgrind knows no AVX-512
    for (const KernelCase& kernel : kernel_cases(level))
      if (kernel.in_cache) cases.push_back(kernel);
  for (const std::string& name : wanted)
    if (std::none_of(cases.begin(), cases.end(), [&](const KernelCase& kernel) { return kernel.name == name; })) {
      std::cerr << "error: no case '" << name << "': run kernel_counts without arguments for their names\n";
      return 2;
    }
  for (const KernelCase& kernel : cases) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), kernel.name) == wanted.end()) continue;
    const KernelRun prepared = kernel.prepare();
    prepared.run();
    counted_run(prepared.run);
    std::cout << kernel.name << std::endl;
  }
}
