// Matrices in memory, as kernels take them: where one begins, and how far its rows are apart.
#pragma once

#include <stdint.h>

#include <type_traits>

namespace reattend {

/// How the numbers of an array are stored. Sums are float32. int8 are to be multiplied by a scale,
/// one for each row. Of what follows it 32 numbers have a scale of their own (blocks.h).
enum class Type : uint8_t {
    kFloat32,
    kFloat16,
    kBfloat16,
    kInt8,
    kQ8_0,
    kQ4_0,
    kInt4,
    kInt4ByChannel
};

constexpr int kBlock = 32;
// Bytes of 32 numbers with their scale, and with their least number as int4 has it.
constexpr int kBytesOfQ8_0 = 2 + kBlock, kBytesOfQ4_0 = 2 + kBlock / 2,
              kBytesOfInt4 = 4 + kBlock / 2;

[[gnu::always_inline]] inline bool is_blocks(Type type) { return type >= Type::kQ8_0; }

/// Rows of numbers, `ld` numbers apart; how many there are of either, whoever passes it says.
///
/// Always inline: files compiled for other instruction sets share these functions, see simd.h.
template <class T>
struct Matrix {
    T* data = nullptr;
    int64_t ld = 0;

    [[gnu::always_inline]] T* row(int64_t row) const { return data + row * ld; }
    /// What begins at a row and a column.
    [[gnu::always_inline]] Matrix at(int64_t row, int64_t column = 0) const {
        return {data + row * ld + column, ld};
    }
    [[gnu::always_inline]] operator Matrix<const T>() const
        requires(!std::is_const_v<T>)
    {
        return {data, ld};
    }
};

/// A matrix to be read, of numbers of any type. Of blocks `ld` counts bytes; of int4 they are those
/// between 32 rows and the next, and the matrix begins at row `first` of these.
struct StoredMatrix {
    const void* data;
    int64_t ld;
    Type type;
    int32_t first = 0;
};

}  // namespace reattend
