// Bytes -> from_block_tables and advance. Half of the inputs are legal by construction and are held against the naive
// forest; the other half are raw numbers, for which a forest or an Error is right and anything else is not.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "forest/batch.hpp"
#include "forest/decoder.hpp"
#include "trunkline/error.hpp"
#include "trunkline/forest.hpp"

namespace {

using trunkline::Forest;
namespace test = trunkline::test;

void fail(const std::string& problem) {
  std::fprintf(stderr, "fuzz_block_tables: %s\n", problem.c_str());
  std::abort();
}

void hold(const std::string& difference) {
  if (!difference.empty()) {
    fail(difference);
  }
}

void legal(test::Decoder& decoder) {
  test::Batch batch = decoder.batch();
  Forest forest = batch.dense();
  test::Mirror mirror;
  mirror.refresh(forest);
  hold(difference(forest, batch));
  if (!(batch.csr(1) == forest)) {
    fail("CSR and dense differ");
  }
  for (int step = 0; step < 8 && !decoder.done(); ++step) {
    const trunkline::Deltas deltas = decoder.deltas(batch);
    forest.advance(deltas);
    batch.apply(deltas);
    mirror.refresh(forest);
    hold(difference(forest, batch));
    hold(mirror.difference(forest));
  }
}

void raw(test::Decoder& decoder) {
  const auto number = [&] { return decoder.upto(5) == 0 ? -1 - decoder.upto(3) : decoder.upto(9); };
  const auto numbers = [&](int count) {
    std::vector<std::int32_t> result(count);
    for (auto& value : result) {
      value = number();
    }
    return result;
  };
  const auto entries = numbers(decoder.upto(40)), lengths = numbers(decoder.upto(5)),
             qo_lens = numbers(decoder.upto(5));
  const auto indptr = numbers(decoder.upto(6));
  const bool dense = decoder.upto(1) == 0;
  Forest forest;
  try {
    const auto tables = dense ? trunkline::BlockTables::dense(entries, number(), number(), number())
                              : trunkline::BlockTables::csr(indptr, entries);
    forest = Forest::from_block_tables(tables, lengths, number(), {qo_lens, {}, number()});
  } catch (const trunkline::Error&) {
    return;
  }
  while (!decoder.done()) {
    const Forest before = forest;
    trunkline::Deltas deltas;
    deltas.leave.resize(decoder.upto(1), number());
    deltas.replace.resize(decoder.upto(2), {number(), number(), numbers(decoder.upto(2))});
    deltas.grow.resize(decoder.upto(2), {number(), number(), numbers(decoder.upto(2))});
    deltas.qo_lens.resize(decoder.upto(1), {number(), number()});
    deltas.join.resize(decoder.upto(1), {number(), number(), number(), numbers(decoder.upto(2))});
    try {
      forest.advance(deltas);
    } catch (const trunkline::Error&) {
      if (!(forest == before)) {
        fail("a refused advance changed the forest");
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  test::Decoder decoder({data, size});
  if (decoder.upto(1) == 0) {
    legal(decoder);
  } else {
    raw(decoder);
  }
  return 0;
}
