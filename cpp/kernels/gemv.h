// Products of few rows with keys and values where they lie: bound by memory, so that what counts is
// the order in which it is first touched. A core reads ahead along one run of addresses: it gave 30
// to 38 GB/s key after key, and 8 to 18 where vectors of several keys were read in turns. A single
// row goes key after key, if need be with sums in the first cache. With more rows arithmetic counts
// as well, which wants several keys in turns (10 ns for a key of 128 and four rows, 16 before), and
// what is ahead is fetched by hand. Distances were measured on a Zen 4, a Zen 3 and a Sapphire
// Rapids; which of them wants help where a reader goes key after key, fetched_ahead() knows.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "kernels/load.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

/// Bytes between what is fetched and what is used.
constexpr int distance(Ahead ahead) {
    if (ahead == Ahead::kFar) return 16 << 10;
    return ahead == Ahead::kPassing && kLanes == 16 ? 512 : 2 << 10;
}
// Bytes of values that serve more rows in turn.
constexpr int kTurn = (kLanes == 16 ? 16 : 4) << 10;
constexpr int kMostAdded = 64;  // numbers added one by one: more would cost digits
constexpr int kVecBlock = kLanes == 16 ? 4 : 2;
constexpr int kHeld = 4 * kVecBlock;  // sums that registers hold beside factors

/// How many numbers are fetched at a time. Half a cache line of float32: with each line fetched
/// once a step over all layers' caches took 3 to 7% longer, since a busy core drops some of it,
/// though one over the same few keys again and again is 7% faster so (32 of 8 and 9 of 3 heads on a
/// Zen). Of 16 bits a line, the second was 2% slower.
template <class T>
constexpr int kFetched = (sizeof(T) == sizeof(float) ? 32 : 64) / sizeof(T);

/// How many rows' sums of so many vectors registers hold.
constexpr int held_rows(int vecs) { return 4 * vecs <= kHeld ? 4 : 2 * vecs <= kHeld ? 2 : 1; }

template <int n>
struct Count {
    static constexpr int value = n;
};

/// How many keys of `dim` numbers of `size` bytes take so many bytes, at least 1.
inline int keys_in(int bytes, int dim, int size) {
    const int keys = dim ? bytes / (size * dim) : 0;
    return keys > 1 ? keys : 1;
}

/// How many numbers lie between a key that is used and the one that is fetched.
template <Ahead ahead, class T>
inline int64_t ahead_by(Matrix<const T> keys, int dim) {
    return keys_in(distance(ahead), dim, sizeof(T)) * keys.ld;
}

template <Ahead ahead, class T>
inline void fetch(const T* from, int64_t by) {
    // Twice: a busy core drops what it is to fetch. Where a loop keeps keys in the caches, fetching
    // looks like a loss (256 keys of 9 of 3 heads on a Zen: 17 us, 15 without); from memory, where
    // a model's other layers have sent them, it takes 21 us, once 24 to 26, without 29.
    if constexpr (ahead == Ahead::kFar) {
        __builtin_prefetch(from + by, 0, 2);
        __builtin_prefetch(from + by / 2, 0, 2);
    }
    if constexpr (ahead == Ahead::kNear) __builtin_prefetch(from + by, 0, 3);
    if constexpr (ahead == Ahead::kPassing) __builtin_prefetch(from + by, 0, 0);
}

template <Ahead ahead>
struct Fetching {
    static constexpr Ahead value = ahead;
};

/// use(ahead as a constant); only a single row goes past the caches.
template <int rows, class Use>
inline void with_ahead(Ahead ahead, const Use& use) {
    if constexpr (rows == 1)
        if (ahead == Ahead::kPassing) return use(Fetching<Ahead::kPassing>{});
    if (ahead == Ahead::kNothing) return use(Fetching<Ahead::kNothing>{});
    use(Fetching<Ahead::kNear>{});
}

/// c [rows, vecs] (+)= a [rows, depth] * b [depth, vecs], held in registers. With `partial`, the
/// last vector has only `last` columns. `by` is how far ahead of b is fetched.
template <int rows, int vecs, bool add, bool partial, Ahead ahead, class T>
inline void block(Matrix<const float> a, Matrix<const T> b, Matrix<float> c, int depth, int last,
                  int64_t by) {
    // #lizard forgives: most choices are constants; with the stores in functions of their own it
    // was 2 to 4% slower (Zen), as loops came to lie elsewhere.
    Vec sum[rows][vecs];
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vecs; ++v) sum[r][v] = Vec{};
    for (int k = 0; k < depth; ++k) {
        Vec factor[vecs];
        for (int v = 0; v < vecs; ++v) {
            const T* from = b.row(k) + v * kLanes;
            // For one row each vector: a line once was 2 to 8% slower where heads share no keys
            // (Zen).
            if (rows == 1 || v * kLanes % kFetched<T> == 0) fetch<ahead>(from, by);
            factor[v] = partial && v == vecs - 1 ? first_numbers(from, last) : numbers(from);
        }
        for (int r = 0; r < rows; ++r) {
            const Vec weight = broadcast(a.row(r)[k]);
            for (int v = 0; v < vecs; ++v) sum[r][v] += weight * factor[v];
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vecs; ++v) {
            float* to = c.row(r) + v * kLanes;
            if (partial && v == vecs - 1)
                store_first(to, add ? load_first(to, last) + sum[r][v] : sum[r][v], last);
            else
                store(to, add ? load(to) + sum[r][v] : sum[r][v]);
        }
}

/// Scores of one query with kLanes keys, which are read key after key: lane k is key k.
template <Ahead ahead, class T>
inline Vec dot_row(const float* query, Matrix<const T> keys, int count, int dim, int64_t by) {
    // By way of memory: with these in registers the loop over keys would have to be unrolled, and
    // the compiler would read vectors of several keys in turns.
    float each[kLanes][kLanes];
    for (int k = 0; k < kLanes; ++k) {
        // Beyond the last key: the last again, its scores are not used.
        const T* key = keys.row(smaller(k, count - 1));
        Vec sum{};
        int d = 0;
        for (; d + kLanes <= dim; d += kLanes) {
            fetch<ahead>(key + d, by);
            sum += load(query + d) * numbers(key + d);
        }
        if (d < dim) sum += load(query + d) * first_numbers(key + d, dim - d);
        store(each[k], sum);
    }
    Vec sums[kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) sums[k] = load(each[k]);
    return sum_each(sums);
}

/// Scores of `rows` queries with as many keys as fit, kLanes / rows: lane r * keys + key. What is
/// loaded of a query serves all these keys.
template <int rows, class T>
inline Vec dot_block(Matrix<const float> query, Matrix<const T> keys, int count, int dim,
                     int64_t by) {
    constexpr int kKeys = kLanes / rows;
    const T* key[kKeys];
    Vec sums[kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < kKeys; ++k) key[k] = keys.row(smaller(k, count - 1));
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sums[i] = Vec{};
    int d = 0;
    for (; d + kLanes <= dim; d += kLanes) {
        Vec x[kKeys];
#pragma GCC unroll 16
        for (int k = 0; k < kKeys; ++k) {
            if (d % kFetched<T> == 0) fetch<Ahead::kFar>(key[k] + d, by);
            x[k] = numbers(key[k] + d);
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const Vec factor = load(query.row(r) + d);
#pragma GCC unroll 16
            for (int k = 0; k < kKeys; ++k) sums[r * kKeys + k] += factor * x[k];
        }
    }
    if (d < dim) {
#pragma GCC unroll 16
        for (int k = 0; k < kKeys; ++k) {
            const Vec x = first_numbers(key[k] + d, dim - d);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) sums[r * kKeys + k] += load(query.row(r) + d) * x;
        }
    }
    return sum_each(sums);
}

// Not inline, as weigh(): where all types and sizes are in one function, registers do not suffice.
template <int rows, Ahead ahead, class T>
[[gnu::noinline]] void dots_of(Matrix<const float> query, Matrix<const T> keys, Matrix<float> out,
                               int count, int dim) {
    constexpr int kKeys = kLanes / rows;
    const int64_t by = ahead_by<ahead>(keys, dim);
    for (int j = 0; j < count; j += kKeys) {
        float lanes[kLanes];
        if constexpr (rows == 1)
            store(lanes, dot_row<ahead>(query.data, keys.at(j), count - j, dim, by));
        else
            store(lanes, dot_block<rows>(query, keys.at(j), count - j, dim, by));
        for (int r = 0; r < rows; ++r) {
            float* to = out.row(r) + j;
            if (j + kKeys <= count)
                memcpy(to, lanes + r * kKeys, kKeys * sizeof *to);
            else
                memcpy(to, lanes + r * kKeys, (count - j) * sizeof *to);
        }
    }
}

/// use(first row, their number) for up to `most` rows at a time: four, two or one.
template <int most = 4, class Use>
inline void by_some(int rows, const Use& use) {
    int r = 0;
    for (; r + most <= rows; r += most) use(r, Count<most>{});
    if constexpr (most == 4) {
        if (rows - r == 3) use(r, Count<3>{});
        if (rows - r == 2) use(r, Count<2>{});
    }
    if constexpr (most > 1)
        if (rows - r == 1) use(r, Count<1>{});
}

/// use(vecs) with what `vecs` is, up to 8 and 16; false: it is another number.
template <int most = 16, int number = 1, class Use>
inline bool with_vectors(int vecs, const Use& use) {
    if constexpr (number > most) {
        return false;
    } else {
        if (vecs != number) return with_vectors<most, number == 8 ? 16 : number + 1>(vecs, use);
        use(Count<number>{});
        return true;
    }
}

/// Kernels::dots of numbers that are in no blocks.
inline void dot_numbers(Matrix<const float> query, StoredMatrix keys, Matrix<float> out, int rows,
                        int count, int dim, Ahead ahead) {
    const int step = rows <= 4 ? count : kLanes;  // more rows read keys again, from the first cache
    as_stored(keys, [&](auto stored) {
        const auto add = [&](int j, int r, auto number, auto fetching) {
            dots_of<number.value, fetching.value>(query.at(r), stored.at(j), out.at(r, j),
                                                  smaller(step, count - j), dim);
        };
        for (int j = 0; j < count; j += step)
            by_some(rows, [&](int r, auto number) {
                if constexpr (number.value == 1)
                    with_ahead<1>(ahead, [&](auto fetching) { add(j, r, number, fetching); });
                else
                    add(j, r, number, Fetching<Ahead::kFar>{});
            });
    });
}

/// out [rows, vecs] += weights [rows, count] * values [count, vecs].
template <int rows, int vecs, bool partial, Ahead ahead, class T>
[[gnu::noinline]] void weigh(Matrix<const float> weights, Matrix<const T> values, Matrix<float> out,
                             int count, int last, int64_t by) {
    block<rows, vecs, true, partial, ahead>(weights, values, out, count, last, by);
}

/// Whole values, which are read key after key.
template <int vecs, class T>
inline void weigh_whole(Matrix<const float> weights, Matrix<const T> values, Matrix<float> out,
                        int rows, int count, Ahead ahead) {
    constexpr int kMost = held_rows(vecs);
    const int step =
        rows <= kMost ? kMostAdded : smaller(kMostAdded, keys_in(kTurn, vecs * kLanes, sizeof(T)));
    for (int j = 0; j < count; j += step) {
        const int some = smaller(step, count - j);
        by_some<kMost>(rows, [&](int r, auto number) {
            with_ahead<number.value>(r ? Ahead::kNothing : ahead, [&](auto fetching) {
                weigh<number.value, vecs, false, fetching.value>(
                    weights.at(r, j), values.at(j), out.at(r), some, 0,
                    ahead_by<fetching.value>(values, vecs * kLanes));
            });
        });
    }
}

/// Some columns after the others.
template <class T>
inline void weigh_columns(Matrix<const float> weights, Matrix<const T> values, Matrix<float> out,
                          int rows, int count, int dim) {
    constexpr int kWide = kVecBlock * kLanes;
    const int64_t far = ahead_by<Ahead::kFar>(values, dim);
    const int step = smaller(kMostAdded, keys_in(kTurn, dim, sizeof(T)));
    for (int j = 0; j < count; j += step) {
        const Matrix<const T> near = values.at(j);
        const int some = smaller(step, count - j);
        const auto add = [&](int r, auto number, auto fetching) {
            constexpr int kRows = number.value;
            constexpr Ahead kFetch = fetching.value;
            const Matrix<const float> from = weights.at(r, j);
            const Matrix<float> to = out.at(r);
            int d = 0;
            for (; d + kWide <= dim; d += kWide)
                weigh<kRows, kVecBlock, false, kFetch>(from, near.at(0, d), to.at(0, d), some, 0,
                                                       far);
            for (; d + kLanes <= dim; d += kLanes)
                weigh<kRows, 1, false, kFetch>(from, near.at(0, d), to.at(0, d), some, 0, far);
            if (d < dim)
                weigh<kRows, 1, true, kFetch>(from, near.at(0, d), to.at(0, d), some, dim - d, far);
        };
        by_some(rows, [&](int r, auto number) {
            r ? add(r, number, Fetching<Ahead::kNothing>{})
              : add(r, number, Fetching<Ahead::kFar>{});
        });
    }
}

/// Kernels::accumulate_few of numbers that are in no blocks.
inline void weigh_numbers(Matrix<const float> weights, StoredMatrix values, Matrix<float> out,
                          int rows, int count, int dim, Ahead ahead) {
    as_stored(values, [&](auto stored) {
        bool cut = true;
        if (dim % kLanes == 0)
            with_vectors(dim / kLanes, [&](auto vecs) {
                constexpr int kMost = held_rows(vecs.value);
                cut = kMost < 4 && kMost < rows;  // whole, they would be read again and again
                if (!cut) weigh_whole<vecs.value>(weights, stored, out, rows, count, ahead);
            });
        if (cut) weigh_columns(weights, stored, out, rows, count, dim);
    });
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
