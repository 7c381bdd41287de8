// The kernel K of a problem, in tiles of kRows rows by one vector of columns, in the order in which
// sweeps read it: as it is, and rounded to half of its bits.
#pragma once
#include <cstdint>

#include "vectors.h"

namespace {

constexpr int kRows = 16;  // rows that a sweep takes at a time: their part of the kernel stays in L1

// Both give a vector of row r in the tile at a place.
template <typename T>
struct Exact {
  static constexpr int64_t bytes = sizeof(T);
  const T* kernel;
  typename Lanes<T>::type row(int64_t tile, int r) const {
    return Lanes<T>::load(kernel + tile + r * Lanes<T>::size);
  }
};

template <typename T>
struct Rounded {
  static constexpr int64_t bytes = sizeof(T) / 2;
  const T* kernel;
  typename Lanes<T>::type row(int64_t tile, int r) const {
    const auto pair = Lanes<T>::load(kernel + tile / 2 + r / 2 * Lanes<T>::size);
    return r % 2 ? Lanes<T>::odd(pair) : Lanes<T>::even(pair);
  }
};

// Rounds `count` numbers, two into the place of one.
template <typename T>
void round_tiles(const T* from, T* to, int64_t count) {
  using L = Lanes<T>;
  for (int64_t k = 0; k < count; k += 2 * L::size, from += 2 * L::size, to += L::size)
    L::store(to, L::halves(L::load(from), L::load(from + L::size)));
}

}  // namespace
