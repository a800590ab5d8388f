// Runs a fuzz target over pseudo-random inputs without a fuzzing engine: `--runs N` (default 4000), `--seed S`. With
// clang, link the target with -fsanitize=fuzzer instead.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
  long long runs = 4000, seed = 1;
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i];
    if (i + 1 == argc || (option != "--runs" && option != "--seed")) {
      std::fprintf(stderr, "usage: %s [--runs N] [--seed S]\n", argv[0]);
      return 2;
    }
    (option == "--runs" ? runs : seed) = std::atoll(argv[i + 1]);
  }
  std::vector<std::uint8_t> bytes;
  for (long long run = 0; run < runs; ++run) {
    std::mt19937_64 random(static_cast<std::uint64_t>(seed + run));  // a failing run is run again by its own seed
    bytes.resize(random() % 600);
    for (auto& byte : bytes) {
      byte = static_cast<std::uint8_t>(random());
    }
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%lld runs\n", runs);
  return 0;
}
