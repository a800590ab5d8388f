#include "sim/simulation.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "trunkline/error.hpp"

namespace trunkline::sim {
namespace {

Forest empty_forest(int page_size) {
  const std::int32_t indptr[] = {0};
  return Forest::from_block_tables(BlockTables::csr(indptr, {}), {}, page_size);
}

/// Runs `body`; the pages it lacks, nothing when it had enough.
template <class Body>
std::optional<long long> missing_pages(Body&& body) {
  try {
    body();
    return std::nullopt;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::out_of_pages) throw;
    return error.missing();
  }
}

template <class Number>
void check(const char* option, bool good, const char* expected, Number got) {
  if (!good) throw Error(ErrorCode::invalid_argument, option, expected, fmt::format("{}", got));
}

}  // namespace

void Options::validate() const {
  check("page-size", page_size >= 1 && page_size <= 1024, "1 to 1024", page_size);
  check("num-pages", num_pages >= 1, "at least 1", num_pages);
  check("max-batch", max_batch >= 1, "at least 1", max_batch);
  check("concurrency", concurrency >= 0, "at least 0", concurrency);
  check("time-scale", std::isfinite(time_scale) && time_scale >= 0, "a number of at least 0", time_scale);
  check("prefill-rate", std::isfinite(prefill_rate) && prefill_rate > 0, "a number above 0", prefill_rate);
  check("decode-step", std::isfinite(decode_step) && decode_step >= 0, "a number of at least 0", decode_step);
  check("max-steps", max_steps >= 0, "at least 0", max_steps);
  check("verify", verify_every >= 0, "at least 0", verify_every);
}

Simulation::Simulation(const trace::Trace& trace, const Options& options)
    : trace_(trace),
      options_((options.validate(), options)),
      pool_(options.num_pages, options.page_size),
      tree_(pool_),
      forest_(empty_forest(options.page_size)),
      arrivals_(trace, options) {
  check_sizes();
}

void Simulation::check_sizes() const {
  for (std::size_t i = 0; i < trace_.requests.size(); ++i) {
    const trace::Request& request = trace_.requests[i];
    const std::int64_t tokens = std::int64_t{request.prompt_length} + request.output_length;
    const std::int64_t pages = (tokens + options_.page_size - 1) / options_.page_size;
    if (pages > options_.num_pages) {
      throw Error(ErrorCode::invalid_argument, "num-pages",
                  "at least the " + std::to_string(pages) + " pages of " + std::to_string(options_.page_size) +
                      " tokens that " + trace_.name_of(i) + " needs for its " + std::to_string(tokens) + " tokens",
                  std::to_string(options_.num_pages));
    }
  }
}

bool Simulation::step() {
  finish_requests();
  if (options_.max_steps > 0 && totals_.steps == options_.max_steps) return false;
  do {
    arrive();
    admit();
    append_tokens();
    if (running_.empty() && waiting_.empty() && arrivals_.exhausted()) return false;
  } while (running_.empty());
  update_forest();
  clock_ += options_.decode_step;
  record();
  if (options_.verify_every > 0 && totals_.steps % options_.verify_every == 0) {
    verify();
    ++totals_.verified_steps;
  }
  return true;
}

void Simulation::arrive() {
  if (running_.empty() && waiting_.empty()) clock_ = std::max(clock_, arrivals_.next_time().value_or(clock_));
  while (const auto request = arrivals_.take(clock_)) waiting_.push_back({*request, 0, false});
}

void Simulation::admit() {
  while (!waiting_.empty() && running_.size() < static_cast<std::size_t>(options_.max_batch)) {
    if (!running_.empty() && tree_.num_available_pages() < retry_at_) return;
    const Waiting next = waiting_.front();
    waiting_.pop_front();  // before the try: what finishes at once may put its branches there
    if (!try_admit(next)) {
      waiting_.push_front(next);
      return;
    }
    retry_at_ = 0;  // it was about this request
  }
}

bool Simulation::try_admit(const Waiting& waiting) {
  const trace::Request& request = traced(waiting.request);
  trace_.tokens_of(request, waiting.num_generated, tokens_);
  Insertion inserted;
  const auto insert = [&] { inserted = tree_.insert(tokens_); };
  auto missing = missing_pages(insert);
  if (missing && running_.empty()) {
    // Alone it fits, as check_sizes found, unless a page that it shares in part keeps another one from eviction.
    tree_.evict(pool_.num_pages());
    insert();
    missing.reset();
  }
  if (!missing && !running_.empty()) {
    const std::int64_t short_of = static_cast<std::int64_t>(running_.size()) + 1 - tree_.num_available_pages();
    if (short_of > 0) {
      tree_.remove(inserted.request);
      missing = short_of;
    }
  }
  if (missing) {
    retry_at_ = tree_.num_available_pages() + *missing;
    return false;
  }

  const auto num_tokens = static_cast<std::int32_t>(tokens_.size());
  tree_.commit(inserted.request, num_tokens);
  const std::int32_t to_compute = std::max(1, num_tokens - inserted.num_cached_tokens);
  clock_ += to_compute / options_.prefill_rate;
  totals_.prefilled_tokens += to_compute;
  if (!waiting.restart) {
    totals_.prompt_tokens += num_tokens;
    totals_.cached_tokens += inserted.num_cached_tokens;
  }
  const Running running{waiting.request, waiting.num_generated, inserted.request, false};
  if (running.num_generated == request.output_length) {
    finish(running);
  } else {
    running_.push_back(running);
  }
  return true;
}

void Simulation::append_tokens() {
  // Preemption takes from the end: of those that remain, each has its token.
  for (std::size_t i = 0; i < running_.size(); ++i) {
    while (i < running_.size() && missing_pages([&] { append_token(running_[i]); })) preempt_newest();
  }
}

void Simulation::append_token(Running& running) {
  const std::int32_t token = traced(running.request).first_output + running.num_generated;
  const std::int32_t page = tree_.seq_len(running.id) / options_.page_size;
  const Appended appended = tree_.append(running.id, {&token, 1});
  ++running.num_generated;
  if (!running.in_forest) return;
  if (appended.copy) deltas_.replace.push_back({running.id, page, {appended.copy->dst}});
  deltas_.grow.push_back({running.id, 1, {appended.new_pages.begin(), appended.new_pages.end()}});
}

void Simulation::preempt_newest() {
  // It has no token in this step yet: the request that found no page comes before it, or is it.
  const Running newest = running_.back();
  running_.pop_back();
  tree_.commit(newest.id, tree_.seq_len(newest.id));
  tree_.remove(newest.id);
  if (running_.empty()) tree_.evict(pool_.num_pages());  // so that it starts again with nothing in its way
  if (newest.in_forest) deltas_.leave.push_back(newest.id);
  waiting_.push_front({newest.request, newest.num_generated, true});
  retry_at_ = 0;
  ++totals_.preemptions;
}

void Simulation::update_forest() {
  for (Running& running : running_) {
    if (std::exchange(running.in_forest, true)) continue;
    const auto table = tree_.block_table(running.id);
    deltas_.join.push_back({running.id, tree_.seq_len(running.id), 1, {table.begin(), table.end()}});
  }
  forest_.advance(deltas_);
  deltas_.clear();
}

void Simulation::record() {
  const PrefixTreeStats stats = tree_.stats();
  current_ = {clock_,
              static_cast<std::int32_t>(running_.size()),
              static_cast<std::int32_t>(waiting_.size()),
              forest_.total_tokens(),
              forest_.distinct_tokens(),
              stats.pages_in_use,
              stats.pages_cached,
              stats.pages_free};
  ++totals_.steps;
  totals_.output_tokens += current_.batch;
}

void Simulation::finish_requests() {
  const auto is_done = [this](const Running& running) {
    return running.num_generated == traced(running.request).output_length;
  };
  const auto done_begin = std::stable_partition(running_.begin(), running_.end(),
                                                [&](const Running& running) { return !is_done(running); });
  const std::vector<Running> done(done_begin, running_.end());
  running_.erase(done_begin, running_.end());
  for (const Running& running : done) {
    deltas_.leave.push_back(running.id);
    finish(running);
  }
}

void Simulation::finish(const Running& running) {
  tree_.commit(running.id, tree_.seq_len(running.id));
  std::vector<Waiting> without_room;
  begin_branches(running.request, running.id, without_room);
  if (!without_room.empty()) {
    waiting_.insert(waiting_.begin(), without_room.begin(), without_room.end());
    retry_at_ = 0;
  }
  tree_.remove(running.id);
  arrivals_.finished(running.request);
  ++totals_.finished;
}

void Simulation::begin_branches(std::int32_t request, RequestId fork_from, std::vector<Waiting>& without_room) {
  for (const std::int32_t branch : arrivals_.branches(request)) {
    if (traced(branch).output_length == 0) {
      begin_branches(branch, fork_from, without_room);
      arrivals_.finished(branch);
      ++totals_.finished;
    } else if (running_.size() < static_cast<std::size_t>(options_.max_batch)) {
      running_.push_back({branch, 0, tree_.fork(fork_from), false});
      ++totals_.forks;
    } else {
      without_room.push_back({branch, 0, false});
    }
  }
}

void Simulation::verify() const {
  tree_.check_integrity();
  std::vector<std::int32_t> indptr{0}, indices, seq_lens;
  std::vector<RequestId> ids;
  for (const Running& running : running_) {
    const auto table = tree_.block_table(running.id);
    indices.insert(indices.end(), table.begin(), table.end());
    indptr.push_back(static_cast<std::int32_t>(indices.size()));
    seq_lens.push_back(tree_.seq_len(running.id));
    ids.push_back(running.id);
  }
  BatchOptions batch;
  batch.request_ids = ids;
  batch.num_pages = pool_.num_pages();
  const Forest anew = Forest::from_block_tables(BlockTables::csr(indptr, indices), seq_lens, options_.page_size, batch);
  if (!(anew == forest_)) {
    throw Error(ErrorCode::corrupt, "forest", "the advanced forest to equal the one built anew",
                "another at step " + std::to_string(totals_.steps));
  }
}

Totals Simulation::totals() const {
  Totals totals = totals_;
  const PrefixTreeStats stats = tree_.stats();
  totals.page_copies = stats.page_copies;
  totals.evicted_pages = stats.evicted_pages;
  return totals;
}

}  // namespace trunkline::sim
