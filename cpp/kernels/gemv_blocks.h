// Products of few rows with keys and values of blocks (blocks.h), where they lie.
//
// int4 as caches have it, keys by channel and values by key, is multiplied as whole numbers:
//
//     sum_d q_d (scale_d n_d + least_d) = sum_d (q_d scale_d) n_d + sum_d q_d least_d
//
// and an upper half of a byte is not moved to where it counts from 0 to 15 but stays 16 times that,
// which its factor is divided by: an AND, a conversion and an FMA for a vector of numbers.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "kernels/blocks.h"
#include "kernels/gemv.h"
#include "kernels/vectors.h"

namespace reattend::REATTEND_ISA {
namespace {

constexpr int kLineBytes = 64;
constexpr int kTileDistance = 2560;  // 32 keys of 128 numbers

/// What factors are multiplied by: of rows with odd numbers nibbles are upper halves of bytes.
inline Vec nibble_units() {
    Vec units;
    for (int lane = 0; lane < kLanes; ++lane) units[lane] = 1.0f / (1 << lane % 2 * 4);
    return units;
}

/// Fetches what is used later, one line at a time: a tile is not read end to end, and many lines
/// asked for together make those that are needed wait (a step of 32 heads of 128 and 4,096 keys on
/// a Zen 3: 1.15 ms, 1.36 with the next tile fetched at once, 1.40 without).
inline void fetch_tile(const void* from) {
    __builtin_prefetch(static_cast<const uint8_t*>(from) + kTileDistance, 0, 3);
}

/// out [rows, 32] = factors [rows, 8 octets] * words of a tile.
template <int rows>
inline void sum_octets(const uint8_t* words, int octets, Matrix<const float> factors,
                       Matrix<float> out) {
    constexpr int kVecs = rows == 1 && kParts > 1 ? 2 : 1;
    constexpr int kSums = 8 / (rows * kVecs);  // that registers hold: each waits for the one before
    for (int part = 0; part < kParts; part += kVecs) {
        Vec sum[rows][kVecs][kSums] = {};
        for (int o = 0; o < octets; ++o) {
            if (part * sizeof(BitVec) % kLineBytes == 0)
                fetch_tile(words + (o * kParts + part) * sizeof(BitVec));
            BitVec all[kVecs];
#pragma GCC unroll 2
            for (int v = 0; v < kVecs; ++v)
                memcpy(&all[v], words + (o * kParts + part + v) * sizeof *all, sizeof *all);
#pragma GCC unroll 8
            for (int k = 0; k < kNibbles; ++k) {
                Vec x[kVecs];
#pragma GCC unroll 2
                for (int v = 0; v < kVecs; ++v)  // two masks serve all bytes
                    x[v] = as_floats((IntVec)(all[v] >> k / 2 * 8 & 15u << k % 2 * 4));
#pragma GCC unroll 4
                for (int r = 0; r < rows; ++r) {
                    const Vec factor = broadcast(factors.row(r)[o * kNibbles + k]);
#pragma GCC unroll 2
                    for (int v = 0; v < kVecs; ++v) sum[r][v][k % kSums] += factor * x[v];
                }
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < kVecs; ++v) {
#pragma GCC unroll 8
                for (int i = 1; i < kSums; ++i) sum[r][v][0] += sum[r][v][i];
                store(out.row(r) + (part + v) * kLanes, sum[r][v][0]);
            }
    }
}

/// out [rows, 32] = query [rows, dim] * 32 keys by channel.
template <int rows>
[[gnu::noinline]] void dot_channels(Matrix<const float> query, Int4Tile keys,
                                    float (&out)[rows][kBlock], int dim) {
    constexpr int kSome = Kernels::kChain;
    alignas(64) float factors[rows][kSome];
    alignas(64) float sums[rows][kBlock];
    const Vec units = nibble_units();
    for (int begin = 0; begin < keys.rows; begin += kSome) {
        const int some = smaller(kSome, keys.rows - begin);
        Vec least[rows] = {};
        for (int d = 0; d < some; d += kLanes) {
            const int at = begin + d, left = keys.rows - at;
            if (d * sizeof(Float16) % kLineBytes == 0) {
                fetch_tile(keys.scales() + at);
                fetch_tile(keys.least() + at);
            }
            const Vec scale = first_numbers(keys.scales() + at, left) * units;
            const Vec lowest = first_numbers(keys.least() + at, left);
            for (int r = 0; r < rows; ++r) {
                const Vec x = load(query.row(r) + at);  // 0 from dim on
                store(factors[r] + d, x * scale);
                least[r] += x * lowest;
            }
        }
        sum_octets<rows>(keys.words() + begin * kBlock / 2, some / kNibbles, {factors[0], kSome},
                         {sums[0], kBlock});
        for (int r = 0; r < rows; ++r) {
            const Vec all = broadcast(sum_lanes(least[r]));
            for (int i = 0; i < kBlock; i += kLanes) {
                const Vec sum = load(sums[r] + i) + all;
                store(out[r] + i, begin ? load(out[r] + i) + sum : sum);
            }
        }
    }
    for (int r = 0; r < rows; ++r) {
        if (all_finite(out[r], kBlock)) continue;
        // A product with a scale was not finite: what the numbers themselves give.
        Vec sum[kParts] = {};
        for (int d = 0; d < dim; ++d) {
            Vec x[kParts];
            keys.numbers_at(d, x);
            for (int i = 0; i < kParts; ++i) sum[i] += query.row(r)[d] * x[i];
        }
        for (int i = 0; i < kParts; ++i) store(out[r] + i * kLanes, sum[i]);
    }
}

/// out [rows, dim] += weights [rows, 32] * 32 values.
template <int rows>
[[gnu::noinline]] void weigh_int4(Matrix<const float> weights, const uint8_t* values,
                                  Matrix<float> out, int dim) {
    alignas(64) float factors[rows][kBlock];
    alignas(64) float sums[rows][kBlock];
    const Vec units = nibble_units();
    for (int d = 0; d < dim; d += kBlock) {
        const Int4Tile tile = Int4Tile::of_keys(values, d / kBlock);
        fetch_tile(tile.scales());
        fetch_tile(tile.least());
        Vec least[rows] = {};
        for (int j = 0; j < kBlock; j += kLanes) {
            const Vec scale = numbers(tile.scales() + j) * units;
            const Vec lowest = numbers(tile.least() + j);
            for (int r = 0; r < rows; ++r) {
                const Vec weight = load(weights.row(r) + j);
                store(factors[r] + j, weight * scale);
                least[r] += weight * lowest;
            }
        }
        sum_octets<rows>(tile.words(), kBlock / kNibbles, {factors[0], kBlock}, {sums[0], kBlock});
        for (int r = 0; r < rows; ++r) {
            const Vec all = broadcast(sum_lanes(least[r]));
            float* to = out.row(r) + d;
            int i = 0;
            for (; i < smaller(kBlock, dim - d - kLanes + 1); i += kLanes)
                store(to + i, load(to + i) + (load(sums[r] + i) + all));
            for (; i < smaller(kBlock, dim - d); ++i) to[i] += sums[r][i] + all[0];
        }
    }
}

/// Rows whose sums of a vector registers hold beside 32 numbers.
constexpr int kBlockRows = kLanes == 16 ? 4 : kLanes == 8 ? 2 : 1;

/// use(read, how many rows read together) where read(j, block, to) gives 32 numbers of a key. What
/// is asked at each block takes an eighth to a quarter longer: llama.cpp's have loops of their own,
/// but on the least CPUs, for each is 10 KB.
template <class Use>
inline void with_blocks(StoredMatrix from, const Use& use) {
    const BlockReader any{from};
    if constexpr (kLanes > 4) {
        if (from.type == Type::kQ8_0)
            return use([=](int j, int block,
                           Vec(&to)[kParts]) { Q8_0::numbers_at(any.row(j), block, to); },
                       Count<kBlockRows>{});
        if (from.type == Type::kQ4_0)
            return use([=](int j, int block,
                           Vec(&to)[kParts]) { Q4_0::numbers_at(any.row(j), block, to); },
                       Count<kBlockRows>{});
    }
    use(any, Count<1>{});
}

/// Rows that read a tile together: what the least CPUs take for more of them would be 20 KB.
constexpr int kTileRowsRead = kLanes == 4 ? 1 : 4;

/// Scores of queries [rows, dim] with `count` keys; read(j, block, x) gives 32 numbers of a key.
template <int rows, class Read>
inline void dot_blocks(Matrix<const float> query, Matrix<float> out, int count, int dim,
                       const Read& read) {
    for (int j = 0; j < count; j += kLanes) {
        float each[rows][kLanes][kLanes];
        for (int k = 0; k < kLanes; ++k) {
            Vec sum[rows] = {};
            for (int d = 0; d < dim; d += kBlock) {
                Vec x[kParts];
                // Beyond the last key: the last again, its scores are not used.
                read(smaller(j + k, count - 1), d / kBlock, x);
                for (int i = 0; i < kParts && d + i * kLanes < dim; ++i)
                    for (int r = 0; r < rows; ++r)
                        sum[r] += load(query.row(r) + d + i * kLanes) * x[i];
            }
            for (int r = 0; r < rows; ++r) store(each[r][k], sum[r]);
        }
        for (int r = 0; r < rows; ++r) {
            Vec sums[kLanes];
            for (int k = 0; k < kLanes; ++k) sums[k] = load(each[r][k]);
            store_first(out.row(r) + j, sum_each(sums), count - j);
        }
    }
}

/// out [rows, dim] += weights [rows, count] * values, which are read likewise.
template <int rows, class Read>
inline void weigh_blocks(Matrix<const float> weights, Matrix<float> out, int count, int dim,
                         const Read& read) {
    for (int d = 0; d < dim; d += kBlock) {
        Vec sum[rows][kParts] = {};
        for (int j = 0; j < count; ++j) {
            Vec x[kParts];
            read(j, d / kBlock, x);
            for (int r = 0; r < rows; ++r) {
                const Vec weight = broadcast(weights.row(r)[j]);
                for (int i = 0; i < kParts; ++i) sum[r][i] += weight * x[i];
            }
        }
        for (int r = 0; r < rows; ++r)
            for (int i = 0, at = d; i < kParts && at < dim; ++i, at += kLanes) {
                float* to = out.row(r) + at;
                store_first(to, load_first(to, dim - at) + sum[r][i], dim - at);
            }
    }
}

/// out [dim] += weights [32] * a tile by channel: a product with them as a query.
[[gnu::noinline]] inline void weigh_channels(Matrix<const float> weights, Int4Tile values,
                                             Matrix<float> out, int dim) {
    for (int d = 0; d < dim; d += kLanes) {
        float sums[kLanes];
        const int some = smaller(kLanes, dim - d);
        dot_blocks<1>(weights, {sums, kLanes}, some, kBlock,
                      [&](int j, int, Vec(&x)[kParts]) { values.numbers_at(d + j, x); });
        for (int i = 0; i < some; ++i) out.row(0)[d + i] += sums[i];
    }
}

inline void dots(Matrix<const float> query, StoredMatrix keys, Matrix<float> out, int rows,
                 int count, int dim, Ahead ahead) {
    if (!is_blocks(keys.type)) return dot_numbers(query, keys, out, rows, count, dim, ahead);
    if (keys.type == Type::kInt4ByChannel)
        return by_tiles(keys, count, [&](int offset, int begin, int end, const uint8_t* data) {
            const Int4Tile tile = Int4Tile::of_channels(data, dim);
            by_some<kTileRowsRead>(rows, [&](int r, auto number) {
                float all[number.value][kBlock];
                dot_channels<number.value>(query.at(r), tile, all, dim);
                for (int i = 0; i < number.value; ++i)
                    memcpy(out.row(r + i) + (offset + begin), all[i] + begin,
                           (end - begin) * sizeof(float));
            });
        });
    with_blocks(keys, [&](auto read, auto most) {
        by_some<most.value>(rows, [&](int r, auto number) {
            dot_blocks<number.value>(query.at(r), out.at(r), count, dim, read);
        });
    });
}

/// The weights of keys `begin` to `end` of a tile, which begins at `offset`; of others 0.
template <int rows>
struct TileWeights {
    float of[rows][kBlock] = {};

    TileWeights(Matrix<const float> weights, int offset, int begin, int end) {
        for (int i = 0; i < rows; ++i)
            memcpy(of[i] + begin, weights.row(i) + (offset + begin), (end - begin) * sizeof(float));
    }
    Matrix<const float> matrix() const { return {of[0], kBlock}; }
};

inline void accumulate_few(Matrix<const float> weights, StoredMatrix values, Matrix<float> out,
                           int rows, int count, int dim, Ahead ahead) {
    if (!is_blocks(values.type))
        return weigh_numbers(weights, values, out, rows, count, dim, ahead);
    if (values.type == Type::kInt4)
        return by_tiles(values, count, [&](int offset, int begin, int end, const uint8_t* tiles) {
            by_some<kTileRowsRead>(rows, [&](int r, auto number) {
                const TileWeights<number.value> some(weights.at(r), offset, begin, end);
                weigh_int4<number.value>(some.matrix(), tiles, out.at(r), dim);
            });
        });
    if (values.type == Type::kInt4ByChannel)  // as caches have keys, not values
        return by_tiles(values, count, [&](int offset, int begin, int end, const uint8_t* tiles) {
            for (int r = 0; r < rows; ++r) {
                const TileWeights<1> some(weights.at(r), offset, begin, end);
                weigh_channels(some.matrix(), Int4Tile::of_channels(tiles, dim), out.at(r), dim);
            }
        });
    with_blocks(values, [&](auto read, auto most) {
        for (int j = 0; j < count; j += kMostAdded)
            by_some<most.value>(rows, [&](int r, auto number) {
                weigh_blocks<number.value>(
                    weights.at(r, j), out.at(r), smaller(kMostAdded, count - j), dim,
                    [&](int i, int block, Vec(&x)[kParts]) { read(j + i, block, x); });
            });
    });
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
