#include "forest/decoder.hpp"

#include <algorithm>

namespace trunkline::test {
namespace {

std::size_t num_pages(std::int32_t seq_len, int page_size) { return (seq_len + page_size - 1) / page_size; }

}  // namespace

Request Decoder::request(RequestId id, const Batch& batch) {
  Request result;
  result.id = id;
  result.seq_len = upto(6 * batch.page_size);
  if (!batch.requests.empty()) {
    const Request& like = batch.requests[upto(static_cast<int>(batch.requests.size()) - 1)];
    result.pages = like.pages;
    if (upto(2) == 0) {
      result.seq_len = like.seq_len;
    }
    const std::size_t kept = upto(static_cast<int>(like.pages.size()));
    for (std::size_t i = kept; i < result.pages.size(); ++i) {
      result.pages[i] = page();
    }
  }
  const std::size_t needed = num_pages(result.seq_len, batch.page_size);
  while (result.pages.size() < needed) {
    result.pages.push_back(page());
  }
  result.pages.resize(needed);
  result.qo_len = upto(result.seq_len == 0 ? 2 : result.seq_len);
  return result;
}

Batch Decoder::batch() {
  Batch result;
  result.page_size = 1 + upto(4);
  const int num_requests = upto(12);
  for (int i = 0; i < num_requests; ++i) {
    result.requests.push_back(request(100 - 7 * i, result));
  }
  return result;
}

Deltas Decoder::deltas(const Batch& batch) {
  Deltas result;
  Batch after = batch;
  RequestId unused = 1000;
  for (const Request& old : batch.requests) {
    unused = std::max(unused, old.id + 1);
    const int what = upto(9);
    if (what == 0) {
      result.leave.push_back(old.id);
      continue;
    }
    Request now = old;
    if (what <= 3 && !now.pages.empty()) {
      Deltas::Replacement replace{old.id, upto(static_cast<int>(old.pages.size()) - 1), {}};
      const int count = upto(static_cast<int>(old.pages.size()) - replace.first_page);
      const Request& like = batch.requests[upto(static_cast<int>(batch.requests.size()) - 1)];
      for (int i = 0; i < count; ++i) {  // some deduplicate: the page another request has there
        const std::size_t entry = replace.first_page + i;
        replace.pages.push_back(entry < like.pages.size() && upto(1) == 0 ? like.pages[entry] : page());
      }
      result.replace.push_back(replace);
    }
    if (what >= 3 && what <= 7) {
      Deltas::Growth grow{old.id, what == 7 ? upto(3 * batch.page_size) : 1, {}};
      now.seq_len += grow.num_tokens;
      if (now.qo_len > now.seq_len) {
        result.qo_lens.push_back({old.id, now.seq_len});
        now.qo_len = now.seq_len;
      }
      for (std::size_t i = old.pages.size(); i < num_pages(now.seq_len, batch.page_size); ++i) {
        grow.pages.push_back(page());
      }
      result.grow.push_back(grow);
    }
    if (what == 8) {
      result.qo_lens.push_back({old.id, upto(now.seq_len == 0 ? 3 : now.seq_len)});
    }
  }
  const int joins = std::max(0, upto(4) - 2);
  for (int i = 0; i < joins; ++i) {
    // A request that leaves may come back in the same step.
    const RequestId id = i == 0 && !result.leave.empty() && upto(1) == 0 ? result.leave[0] : unused + i;
    const Request joined = request(id, batch);
    result.join.push_back({joined.id, joined.seq_len, joined.qo_len, joined.pages});
  }
  return result;
}

}  // namespace trunkline::test
