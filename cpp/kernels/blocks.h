// Keys and values of which 32 numbers have a scale of their own, as vectors of float32.
//
// Rows of q8_0 and q4_0 are llama.cpp's blocks: a float16 scale, then 32 numbers.
//
// int4 comes in tiles of 32 columns. All 32 numbers of a tile's row share a float16 scale and a
// least number; a word holds 8 rows of a column as nibbles, so that a vector of words as it lies
// gives 8 vectors of numbers, and no number is moved from one lane to another. By channel the
// columns of a tile are 32 keys and its rows channels; else its rows are 32 keys and its columns
// channels.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "kernels/half.h"
#include "kernels/load.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

constexpr int kParts = kBlock / kLanes;  // vectors of 32 numbers
constexpr int kNibbles = 8;              // of a word

inline float float16_at(const void* from) {
    uint16_t bits;
    memcpy(&bits, from, sizeof bits);
    typedef uint32_t Pairs __attribute__((vector_size(kLanes * 2)));
    return from_float16((HalfVec)Pairs{bits})[0];
}

inline Vec as_floats(IntVec whole) { return __builtin_convertvector(whole, Vec); }

struct Q8_0 {
    static void numbers_at(const uint8_t* row, int block, Vec (&to)[kParts]) {
        const uint8_t* from = row + block * kBytesOfQ8_0;
        const Vec scale = broadcast(float16_at(from));
        for (int i = 0; i < kParts; ++i)
            to[i] = scale * numbers(reinterpret_cast<const int8_t*>(from + 2) + i * kLanes);
    }
};

struct Q4_0 {
    /// The lower halves of 16 bytes are the first numbers.
    static void numbers_at(const uint8_t* row, int block, Vec (&to)[kParts]) {
        const uint8_t* from = row + block * kBytesOfQ4_0;
        const Vec scale = broadcast(float16_at(from));
        for (int i = 0; i < kParts / 2; ++i) {
            const IntVec both = bytes(from + 2 + i * kLanes);
            to[i] = scale * as_floats((both & 15) - 8);
            to[kParts / 2 + i] = scale * as_floats((both >> 4) - 8);
        }
    }
};

/// Scales, least numbers and words of so many rows, a multiple of 8.
struct Int4Tile {
    const uint8_t* data;
    int rows;

    const Float16* scales() const { return reinterpret_cast<const Float16*>(data); }
    const Float16* least() const { return scales() + rows; }
    const uint8_t* words() const { return data + 4 * rows; }

    /// Tile number `at` of some that have 32 rows.
    static Int4Tile of_keys(const uint8_t* tiles, int at) {
        return {tiles + at * Int4Tile{nullptr, kBlock}.bytes(), kBlock};
    }
    static Int4Tile of_channels(const uint8_t* tile, int dim) {
        return {tile, (dim + kNibbles - 1) / kNibbles * kNibbles};
    }
    int bytes() const { return kBytesOfInt4 * rows; }

    void numbers_at(int row, Vec (&to)[kParts]) const {
        const Vec scale = broadcast(float16_at(scales() + row));
        const Vec lowest = broadcast(float16_at(least() + row));
        const uint8_t* from = words() + row / kNibbles * kBlock * sizeof(uint32_t);
        for (int i = 0; i < kParts; ++i) {
            BitVec all;
            memcpy(&all, from + i * sizeof all, sizeof all);
            to[i] = scale * as_floats((IntVec)(all >> row % kNibbles * 4 & 15)) + lowest;
        }
    }
};

/// use(offset, begin, end, tiles) for each 32 keys of int4: `offset` is where the first of these
/// would be among the keys asked for, which are those from `begin` to `end` of them.
template <class Use>
inline void by_tiles(StoredMatrix from, int count, const Use& use) {
    const auto* tiles = static_cast<const uint8_t*>(from.data);
    for (int j = -from.first; j < count; j += kBlock, tiles += from.ld)
        use(j, bigger(0, -j), smaller(kBlock, count - j), tiles);
}

/// 32 numbers of a key, of any blocks that are not by channel.
struct BlockReader {
    StoredMatrix from;

    const uint8_t* row(int j) const { return static_cast<const uint8_t*>(from.data) + j * from.ld; }
    void operator()(int j, int block, Vec (&to)[kParts]) const {
        if (from.type == Type::kQ8_0) return Q8_0::numbers_at(row(j), block, to);
        if (from.type == Type::kQ4_0) return Q4_0::numbers_at(row(j), block, to);
        const int at = from.first + j;
        Int4Tile::of_keys(row(at / kBlock), block).numbers_at(at % kBlock, to);
    }
};

/// Keys `begin` to `end` of a tile by channel: key i to to.row(offset + i).
inline void widen_channels(Int4Tile tile, int offset, int begin, int end, int dim,
                           Matrix<float> to) {
    for (int d = 0; d < dim; d += kLanes) {
        Vec x[kParts][kLanes] = {};
        for (int k = 0; k < smaller(kLanes, dim - d); ++k) {
            Vec one[kParts];
            tile.numbers_at(d + k, one);
            for (int i = 0; i < kParts; ++i) x[i][k] = one[i];
        }
        for (int i = 0; i < kParts; ++i) {
            transpose(x[i]);
            for (int k = 0; k < kLanes; ++k)
                if (const int row = i * kLanes + k; row >= begin && row < end)
                    store(to.row(offset + row) + d, x[i][k]);
        }
    }
}

inline void widen(StoredMatrix from, const float* scales, int count, int dim, Matrix<float> to) {
    if (from.type == Type::kInt4ByChannel)
        return by_tiles(from, count, [&](int offset, int begin, int end, const uint8_t* tile) {
            widen_channels(Int4Tile::of_channels(tile, dim), offset, begin, end, dim, to);
        });
    if (is_blocks(from.type))
        for (int i = 0; i < count; ++i)
            for (int d = 0; d < dim; d += kBlock) {
                Vec x[kParts];
                BlockReader{from}(i, d / kBlock, x);
                for (int k = 0; k < kParts && d + k * kLanes < dim; ++k)
                    store(to.row(i) + d + k * kLanes, x[k]);
            }
    as_stored(from, [&](auto stored) {
        for (int i = 0; i < count; ++i) {
            const Vec scale = broadcast(scales ? scales[i] : 1);
            for (int d = 0; d < dim; d += kLanes)
                store(to.row(i) + d, scale * first_numbers(stored.row(i) + d, dim - d));
        }
    });
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
