// Copies and products that run on their own.
#include <utility>

#include "emulator/device.hpp"
#include "emulator/state.hpp"

namespace trunkline::emulator {
namespace {

void do_all(Copies& copies) {
  for (const Work& copy : std::exchange(copies, {})) copy();
}

/// All lanes must have brought the same products.
void check_same(const std::array<std::vector<Product>, warp_size>& group, Place place) {
  for (const std::vector<Product>& lane : group) {
    if (lane.size() != group[0].size()) fail("lanes of a warp bring different numbers of products", place);
    for (std::size_t i = 0; i < lane.size(); ++i) {
      const Product &one = lane[i], &other = group[0][i];
      if (one.compute != other.compute || one.a_at != other.a_at || one.b_at != other.b_at ||
          one.accumulate != other.accumulate) {
        fail("lanes of a warp bring different products", one.place);
      }
    }
  }
}

void compute_oldest(Warp& warp) {
  const auto group = std::move(warp.product_groups.front());
  warp.product_groups.pop_front();
  for (std::size_t i = 0; i < group[0].size(); ++i) {
    std::array<const Product*, warp_size> lanes;
    for (std::size_t l = 0; l < lanes.size(); ++l) lanes[l] = &group[l][i];
    group[0][i].compute(lanes);
  }
}

}  // namespace

std::byte* in_cta(unsigned rank, void* of_mine, Place place) {
  return device().neighbour(rank, place).dynamic.data() + (static_cast<std::byte*>(of_mine) - dynamic_shared_memory());
}

void start_bulk_copy(std::function<void()> copy, unsigned rank, std::uint64_t* barrier, std::uint32_t bytes,
                     Place place) {
  Cta& cta = device().neighbour(rank, place);
  check_barrier(cta, barrier, place);
  device().start([&cta, barrier, bytes, copy = std::move(copy), place] {
    if (cta.live == 0) fail("a copy to a CTA that has ended", place);
    copy();
    bytes_have_come(cta, barrier, bytes, place);
  });
}

void start_copy(std::function<void()> copy) { current().copies.push_back(std::move(copy)); }

void commit_copies() {
  auto& groups = current().copy_groups;
  groups.push_back(std::exchange(current().copies, {}));
  if (draw(4) == 0) do_all(groups[draw(static_cast<unsigned>(groups.size()))]);
}

void wait_copies(int pending) {
  auto& groups = current().copy_groups;
  while (groups.size() > static_cast<std::size_t>(pending)) {
    do_all(groups.front());
    groups.pop_front();
  }
}

void begin_products() { current().products_begun = true; }

void start_product(const Product& mine) {
  if (!current().products_begun) fail("no wgmma.fence before this product", mine.place);
  current().products.push_back(mine);
}

void commit_products(Place place) {
  const auto commit = [place](const Lanes& lanes) {
    Warp& warp = *current().warp;
    auto& group = warp.product_groups.emplace_back();
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      group[i] = std::exchange(*reinterpret_cast<std::vector<Product>*>(lanes[i]), {});
    }
    check_same(group, place);
    while (!warp.product_groups.empty() && draw(2) == 0) compute_oldest(warp);
  };
  current().products_begun = false;
  together(reinterpret_cast<std::uint64_t>(&current().products), "wgmma.commit_group", commit, place);
}

void wait_products(int pending, Place place) {
  const auto wait = [pending](const Lanes&) {
    Warp& warp = *current().warp;
    while (warp.product_groups.size() > static_cast<std::size_t>(pending)) compute_oldest(warp);
  };
  together(0, "wgmma.wait_group", wait, place);
}

}  // namespace trunkline::emulator
