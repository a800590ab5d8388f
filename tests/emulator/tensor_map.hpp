// The copy engine's boxes: a CUtensorMap here holds what was asked for.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <initializer_list>

#include "emulator/device.hpp"

namespace trunkline::emulator {

/// Like the driver's function of this name, for 16-bit elements in 128-byte swizzled boxes.
CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data, const cuuint64_t* sizes,
                      const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps,
                      CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                      CUtensorMapFloatOOBfill fill);

/// Starts the copy of the box at these coordinates; elements outside the tensor are zero.
void start_box(void* to, const CUtensorMap* map, std::uint64_t* barrier, std::initializer_list<int> coordinates,
               Place place = Place::current());
/// The same for all CTAs of the cluster whose bits are set. It is read once.
void start_box_to(unsigned ctas, void* to, const CUtensorMap* map, std::uint64_t* barrier,
                  std::initializer_list<int> coordinates, Place place = Place::current());

}  // namespace trunkline::emulator
