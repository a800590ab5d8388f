#include "cuda/problem.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <thread>
#include <unordered_map>

#include "trunkline/error.hpp"

namespace trunkline::tools::cuda {
namespace {

constexpr Device device{DeviceKind::cuda, 0};

std::int64_t sum(std::span<const std::int32_t> values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

std::size_t row_bytes(const TensorView& view) {
  std::size_t bytes = size_of(view.dtype);
  for (int dimension = 1; dimension < view.rank; ++dimension) {
    bytes *= static_cast<std::size_t>(view.shape[static_cast<std::size_t>(dimension)]);
  }
  return bytes;
}

}  // namespace

std::int64_t DeviceProblem::bytes(const ProblemShape& shape, const SyntheticBatch& batch, int num_layers) {
  const std::int64_t rows = sum(batch.qo_lens) * shape.heads.qo;
  return batch.num_pages() * Problem::page_bytes(shape) * num_layers +
         rows * (2 * shape.head_dim * static_cast<std::int64_t>(size_of(shape.dtype)) +
                 static_cast<std::int64_t>(sizeof(float)));
}

DeviceProblem::DeviceProblem(const ProblemShape& problem_shape, const SyntheticBatch& batch, int num_layers,
                             std::uint64_t seed)
    : shape(problem_shape) {
  if (shape.dtype != DType::float16 && shape.dtype != DType::bfloat16) {
    throw Error(ErrorCode::unsupported, "dtype", "float16 or bfloat16 on a CUDA device", to_string(shape.dtype));
  }
  const std::int64_t tokens = sum(batch.qo_lens), pages = std::max<std::int64_t>(batch.num_pages(), 1);
  const auto layer_bytes = static_cast<std::size_t>(pages * Problem::page_bytes(shape));
  kv_memory_ = Memory(layer_bytes * static_cast<std::size_t>(num_layers));
  q = contiguous(nullptr, shape.dtype, {tokens, shape.heads.qo, shape.head_dim}, 3, device);
  out = q;
  lse = contiguous(nullptr, DType::float32, {tokens, shape.heads.qo}, 2, device);
  const auto allocate = [&](TensorView& view, Memory& memory) {
    memory = Memory(row_bytes(view) * static_cast<std::size_t>(tokens));
    view.data = memory.data();
  };
  allocate(q, q_memory_);
  allocate(out, out_memory_);
  allocate(lse, lse_memory_);

  const std::vector<std::uint16_t> values = random_values_16(shape.dtype, shape.pattern);
  const Memory table = upload(std::span<const std::uint16_t>(values));
  const auto fill = [&](const Memory& memory, std::uint64_t stream_seed) {
    check(fill_random(memory.as<std::uint16_t>(), memory.size() / 2, table.as<std::uint16_t>(), stream_seed, nullptr),
          "fill_random");
  };
  fill(kv_memory_, seed);
  fill(q_memory_, seed + 1);
  const Memory page_tokens = upload(std::span<const std::int32_t>(batch.page_tokens));
  for (int layer = 0; layer < num_layers; ++layer) {
    auto* data = kv_memory_.as<std::byte>() + layer_bytes * static_cast<std::size_t>(layer);
    const Pages here{data,           batch.num_pages(), shape.page_size,
                     shape.heads.kv, shape.head_dim,    shape.layout == KvLayout::hnd};
    if (layer == 0) pages_ = here;
    check(poison_slots(here, page_tokens.as<std::int32_t>(), nullptr), "poison_slots");
    kv_.push_back(KvView::interleaved(data, shape.dtype, shape.layout, pages, shape.page_size, shape.heads.kv,
                                      shape.head_dim, device));
  }
  poison_results();
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

void DeviceProblem::poison_results() {
  for (const Memory* memory : {&out_memory_, &lse_memory_}) {
    check(cudaMemset(memory->data(), 0xff, memory->size()), "cudaMemset");
  }
}

std::int64_t DeviceProblem::count_nan() const {
  const Memory found(sizeof(unsigned long long));
  check(cudaMemset(found.data(), 0, found.size()), "cudaMemset");
  const std::uint16_t exponent_bits = shape.dtype == DType::float16 ? 0x7c00 : 0x7f80;
  check(count_nan_16(out_memory_.as<std::uint16_t>(), out_memory_.size() / 2, exponent_bits,
                     found.as<unsigned long long>(), nullptr),
        "count_nan");
  check(count_nan_f32(lse_memory_.as<float>(), lse_memory_.size() / sizeof(float), found.as<unsigned long long>(),
                      nullptr),
        "count_nan");
  unsigned long long count = 0;
  check(cudaMemcpy(&count, found.data(), sizeof count, cudaMemcpyDeviceToHost), "cudaMemcpy");
  return static_cast<std::int64_t>(count);
}

SampledCheck::SampledCheck(const DeviceProblem& problem, const SyntheticBatch& batch, int num_rows, std::uint64_t seed)
    : problem_(problem) {
  choose_requests(batch, seed);
  gather_kv(batch);
  const auto tokens = static_cast<std::size_t>(sum(qo_lens_));
  q_memory_ = Buffer(tokens * row_bytes(problem.q));
  out_memory_ = Buffer(tokens * row_bytes(problem.out));
  lse_memory_ = Buffer(tokens * row_bytes(problem.lse));
  copy_rows(problem.q, q_memory_);
  const auto on_host = [&](const TensorView& view, const Buffer& memory) {
    TensorView host = view;
    host.data = memory.data();
    host.device = Device{};
    host.shape[0] = static_cast<std::int64_t>(tokens);
    return host;
  };
  const ProblemShape& shape = problem.shape;
  const std::int64_t num_pages = static_cast<std::int64_t>(kv_memory_.size()) / Problem::page_bytes(shape);
  Computed computed{on_host(problem.q, q_memory_),
                    on_host(problem.out, out_memory_),
                    on_host(problem.lse, lse_memory_),
                    KvView::interleaved(kv_memory_.data(), shape.dtype, shape.layout, num_pages, shape.page_size,
                                        shape.heads.kv, shape.head_dim),
                    BlockTables::csr(indptr_, indices_),
                    seq_lens_,
                    qo_lens_,
                    problem.config(Strategy::automatic).scale()};
  const int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  oracle_ = std::make_unique<Oracle>(computed, num_rows, seed, threads);
}

void SampledCheck::choose_requests(const SyntheticBatch& batch, std::uint64_t seed) {
  constexpr std::size_t most_requests = 16;
  std::int64_t first_token = 0;
  for (int request = 0; request < batch.num_requests(); ++request) {
    const std::int64_t queries = batch.qo_lens[static_cast<std::size_t>(request)];
    if (queries > 0) requests_.push_back({request, first_token, queries});
    first_token += queries;
  }
  // The last request, whose rows end every range, and others at random.
  if (!requests_.empty()) std::swap(requests_.front(), requests_.back());
  if (requests_.size() > 2) std::shuffle(requests_.begin() + 1, requests_.end(), Random(seed));
  requests_.resize(std::min(requests_.size(), most_requests));
}

void SampledCheck::gather_kv(const SyntheticBatch& batch) {
  constexpr std::size_t most_bytes = std::size_t{512} << 20;  // of KV to copy, unless one request has more
  const auto page_bytes = static_cast<std::size_t>(problem_.pages().page_bytes());
  std::unordered_map<std::int32_t, std::int32_t> renumbered;
  std::vector<std::int32_t> pages;
  indptr_.push_back(0);
  for (std::size_t chosen = 0; chosen < requests_.size(); ++chosen) {
    if (chosen > 0 && pages.size() * page_bytes > most_bytes) {
      requests_.resize(chosen);
      break;
    }
    const auto index = static_cast<std::size_t>(requests_[chosen].index);
    for (auto entry = batch.indptr[index]; entry < batch.indptr[index + 1]; ++entry) {
      const std::int32_t page = batch.indices[static_cast<std::size_t>(entry)];
      const auto [at, is_new] = renumbered.emplace(page, static_cast<std::int32_t>(pages.size()));
      if (is_new) pages.push_back(page);
      indices_.push_back(at->second);
    }
    indptr_.push_back(static_cast<std::int32_t>(indices_.size()));
    seq_lens_.push_back(batch.seq_lens[index]);
    qo_lens_.push_back(batch.qo_lens[index]);
  }
  kv_memory_ = Buffer(std::max<std::size_t>(pages.size(), 1) * page_bytes);
  if (pages.empty()) return;
  const Memory list = upload(std::span<const std::int32_t>(pages));
  const Memory gathered(kv_memory_.size());
  check(gather_pages(problem_.pages(), list.as<std::int32_t>(), static_cast<std::int64_t>(pages.size()),
                     gathered.as<std::byte>(), nullptr),
        "gather_pages");
  check(cudaMemcpy(kv_memory_.data(), gathered.data(), gathered.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
}

void SampledCheck::copy_rows(const TensorView& view, Buffer& host) const {
  const std::size_t bytes = row_bytes(view);
  auto* to = static_cast<std::byte*>(host.data());
  for (const Request& request : requests_) {
    const std::size_t count = static_cast<std::size_t>(request.num_query_tokens) * bytes;
    const auto* from = static_cast<const std::byte*>(view.data) + static_cast<std::size_t>(request.first_token) * bytes;
    check(cudaMemcpy(to, from, count, cudaMemcpyDeviceToHost), "cudaMemcpy");
    to += count;
  }
}

Accuracy SampledCheck::compare() {
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  copy_rows(problem_.out, out_memory_);
  copy_rows(problem_.lse, lse_memory_);
  Accuracy accuracy = oracle_->compare();
  if (problem_.count_nan() > 0) {
    accuracy.max_error = accuracy.worst = std::numeric_limits<double>::infinity();
  }
  return accuracy;
}

}  // namespace trunkline::tools::cuda
