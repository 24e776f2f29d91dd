// Products of few rows with bfloat16 keys and values where they lie, in the CPU's tiles (AMX): a
// tile holds 16 keys or values as they are, 32 numbers of each, so that nothing is put in order but
// queries and weights. For four rows, a key of 128 numbers and its value take 15 ns from the second
// cache, where products of pairs take 32 (Sapphire Rapids).
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "kernels/gemv.h"
#include "kernels/half.h"
#include "kernels/simd.h"

#ifdef __AMX_BF16__
#include <immintrin.h>
#endif

namespace reattend::REATTEND_ISA {
namespace {

#ifdef __AMX_BF16__
constexpr int kTileSide = 16;      // rows of a tile
constexpr int kTileNumbers = 32;   // bfloat16 numbers of a row of a tile
constexpr int kTileBytes = 64;     // of a row
constexpr int kTileMostRows = 8;   // of queries
constexpr int kTileMostDim = 256;  // numbers of a key
constexpr int kFetchedKeys = 64;   // keys ahead

/// Lets everything be in memory before tiles are read from there: GCC's instructions to load them
/// do not say what they read, and what was written only for them would be left out.
inline void write_out() { __asm__ volatile("" ::: "memory"); }

/// The thread's tiles, all of 16 rows of 64 bytes, while it lives. They are given back at its end:
/// oneDNN's products have a configuration of their own.
class Tiles {
public:
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int tile = 0; tile < 8; ++tile) {
            config.bytes[tile] = kTileBytes;
            config.rows[tile] = kTileSide;
        }
        write_out();
        _tile_loadconfig(&config);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

/// Fetches so many numbers of `count` keys, key after key: memory is faster in its own order than
/// in that of tiles.
inline void fetch_keys(Matrix<const uint16_t> keys, int count, int numbers) {
    for (int i = 0; i < count; ++i)
        for (int d = 0; d < numbers; d += kTileNumbers) __builtin_prefetch(keys.row(i) + d, 0, 3);
}

/// out [rows, 16] = queries times the keys of a tile: sums [key, row] of it, transposed.
inline void store_scores(float (&sums)[kTileSide][kTileSide], Matrix<float> out, int rows) {
    Vec tile[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) tile[i] = load(sums[i]);
    transpose(tile);
#pragma GCC unroll 8
    for (int r = 0; r < kTileMostRows; ++r)
        if (r < rows) store(out.row(r), tile[r]);
}

/// Scores of as many keys as fill tiles; how many those are.
int dot_tiles(Matrix<const uint16_t> query, Matrix<const uint16_t> keys, Matrix<float> out,
              int rows, int count, int dim) {
    if (count < kTileSide) return 0;
    // [dim / 32, 16 pairs, 16 rows of the query, 2]
    alignas(64) uint32_t packed[kTileMostDim / kTileNumbers][kTileSide][kTileSide];
    const int depth = dim / kTileNumbers;
    memset(packed, 0, depth * sizeof packed[0]);
    for (int r = 0; r < rows; ++r)
        for (int pair = 0; pair < dim / 2; ++pair)
            memcpy(&packed[pair / kTileSide][pair % kTileSide][r], query.row(r) + 2 * pair,
                   sizeof(uint32_t));
    write_out();
    const Tiles tiles;
    const int64_t stride = keys.ld * sizeof(uint16_t);
    alignas(64) float sums[4][kTileSide][kTileSide];
    const int part = (4 * kTileSide + depth - 1) / depth;  // of the keys that each step fetches
    int j = 0;
    for (; j + 4 * kTileSide <= count; j += 4 * kTileSide) {  // so many that none waits for another
        const uint16_t* from = keys.row(j);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int d = 0; d < depth; ++d, from += kTileNumbers) {
            fetch_keys(keys.at(j + kFetchedKeys + d * part), part, dim);
            _tile_loadd(7, packed[d], kTileBytes);
            _tile_loadd(4, from, stride);
            _tile_dpbf16ps(0, 4, 7);
            _tile_loadd(5, from + kTileSide * keys.ld, stride);
            _tile_dpbf16ps(1, 5, 7);
            _tile_loadd(6, from + 2 * kTileSide * keys.ld, stride);
            _tile_dpbf16ps(2, 6, 7);
            _tile_loadd(4, from + 3 * kTileSide * keys.ld, stride);
            _tile_dpbf16ps(3, 4, 7);
        }
        _tile_stored(0, sums[0], kTileBytes);
        _tile_stored(1, sums[1], kTileBytes);
        _tile_stored(2, sums[2], kTileBytes);
        _tile_stored(3, sums[3], kTileBytes);
        for (int i = 0; i < 4; ++i) store_scores(sums[i], out.at(0, j + i * kTileSide), rows);
    }
    for (; j + kTileSide <= count; j += kTileSide) {
        const uint16_t* from = keys.row(j);
        _tile_zero(0);
        for (int d = 0; d < depth; ++d, from += kTileNumbers) {
            _tile_loadd(7, packed[d], kTileBytes);
            _tile_loadd(4, from, stride);
            _tile_dpbf16ps(0, 4, 7);
        }
        _tile_stored(0, sums[0], kTileBytes);
        store_scores(sums[0], out.at(0, j), rows);
    }
    return j;
}

/// out [32 numbers] += even, odd: the numbers in turns.
inline void add_in_turns(const float* even, const float* odd, float* out) {
    constexpr IntVec kFirst{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    const Vec a = load(even), b = load(odd);
    store(out, load(out) + __builtin_shuffle(a, b, kFirst));
    store(out + kLanes, load(out + kLanes) + __builtin_shuffle(a, b, kFirst + 8));
}

/// Adds as many values as fill tiles; how many those are. A product takes neighbours as pairs,
/// which here are two numbers of one value: a row's weights come twice, with 0 for the odd numbers
/// and with 0 for the even ones.
int accumulate_tiles(Matrix<const uint16_t> weights, Matrix<const uint16_t> values,
                     Matrix<float> out, int rows, int count, int dim) {
    const int whole = count / kTileSide * kTileSide;
    if (!whole) return 0;
    constexpr int kWide = 4 * kTileNumbers;  // numbers of a value that are read together
    const int64_t stride = values.ld * sizeof(uint16_t);
    alignas(64) uint32_t twice[kTileSide][kTileSide] = {};
    const Tiles tiles;
    for (int d = 0; d < dim; d += kWide) {
        const int some = smaller(kWide, dim - d) / kTileNumbers;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int j = 0; j < whole; j += kTileSide) {
            for (int r = 0; r < rows; ++r) {
                HalfVec half;
                memcpy(&half, weights.row(r) + j, sizeof half);
                const IntVec even = __builtin_convertvector(half, IntVec), odd = even << 16;
                memcpy(twice[r], &even, sizeof even);
                memcpy(twice[rows + r], &odd, sizeof odd);
            }
            const uint16_t* from = values.row(j) + d;
            fetch_keys(values.at(j + kFetchedKeys, d), kTileSide, some * kTileNumbers);
            write_out();
            _tile_loadd(4, twice, kTileBytes);
            _tile_loadd(5, from, stride);
            _tile_dpbf16ps(0, 4, 5);
            if (some > 1) {
                _tile_loadd(6, from + kTileNumbers, stride);
                _tile_dpbf16ps(1, 4, 6);
            }
            if (some > 2) {
                _tile_loadd(7, from + 2 * kTileNumbers, stride);
                _tile_dpbf16ps(2, 4, 7);
            }
            if (some > 3) {
                _tile_loadd(5, from + 3 * kTileNumbers, stride);
                _tile_dpbf16ps(3, 4, 5);
            }
        }
        alignas(64) float sums[4][kTileSide][kTileSide];
        _tile_stored(0, sums[0], kTileBytes);
        _tile_stored(1, sums[1], kTileBytes);
        _tile_stored(2, sums[2], kTileBytes);
        _tile_stored(3, sums[3], kTileBytes);
        for (int i = 0; i < some; ++i)
            for (int r = 0; r < rows; ++r)
                add_in_turns(sums[i][r], sums[i][rows + r], out.row(r) + d + i * kTileNumbers);
    }
    return whole;
}
#else
inline int dot_tiles(Matrix<const uint16_t>, Matrix<const uint16_t>, Matrix<float>, int, int, int) {
    return 0;
}
inline int accumulate_tiles(Matrix<const uint16_t>, Matrix<const uint16_t>, Matrix<float>, int, int,
                            int) {
    return 0;
}
#endif

}  // namespace
}  // namespace reattend::REATTEND_ISA
