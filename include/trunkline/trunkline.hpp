// Everything. Each header also stands alone.
#pragma once

#include "trunkline/attention.hpp"
#include "trunkline/config.hpp"
#include "trunkline/error.hpp"
#include "trunkline/forest.hpp"
#include "trunkline/kv_ops.hpp"
#include "trunkline/kv_view.hpp"
#include "trunkline/merge.hpp"
#include "trunkline/page_pool.hpp"
#include "trunkline/plan.hpp"
#include "trunkline/prefix_tree.hpp"
#include "trunkline/reference.hpp"
#include "trunkline/system.hpp"
#include "trunkline/tensor.hpp"
#include "trunkline/work.hpp"
