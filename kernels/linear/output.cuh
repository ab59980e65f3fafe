// Where results of a product go, and which row of the weight they come from.
#pragma once
#include "gpu.cuh"

// As `Epilogue` in cuda.rs numbers them.
enum Epilogue : int { STORE = 0, STORE_F32 = 1, ADD = 2, SWIGLU = 3 };

// Two neighbours in one access.
struct alignas(8) FloatPair { float low, high; };

// The epilogue is an argument and not a template parameter: it is the same for all threads, and runs once per result.
//
// Kernels number the columns that they compute by an `index`. With SwiGLU, sixteen in a row are eight gates and then
// their eight ups, so that whoever has the gate also has the up: in a tensor core fragment they are 8 rows or one tile
// apart, hence in the same lane.
template <typename T> struct Output {
    void* out; // (rows, columns): f32 for STORE_F32 and ADD, else T
    int rows;
    int columns; // the weight has as many rows, with SwiGLU twice as many: gates, then ups
    int epilogue;

    __device__ __forceinline__ int weight_rows() const { return epilogue == SWIGLU ? 2 * columns : columns; }

    // Groups of 16 * TILES indices.
    template <int TILES> __device__ __forceinline__ int groups() const {
        return (weight_rows() + 16 * TILES - 1) / (16 * TILES);
    }

    // Whether this index is not a column of its own.
    __device__ __forceinline__ bool is_up(int index) const { return epilogue == SWIGLU && index / 8 % 2 == 1; }

    __device__ __forceinline__ int column(int index) const {
        return epilogue == SWIGLU ? index / 16 * 8 + index % 8 : index;
    }

    // The row of the weight for an index; some row for an index past the end, whose result is never written.
    __device__ __forceinline__ int weight_row(int index) const {
        return min(column(index), columns - 1) + (is_up(index) ? columns : 0);
    }

    // `up` is only looked at with SwiGLU. Gate and up are f32 here; the unfused path rounds both to T first.
    __device__ __forceinline__ void write(int row, int column, float value, float up) const {
        if (row >= rows || column >= columns) return;
        const size_t at = size_t(row) * columns + column;
        switch (epilogue) {
        case STORE: static_cast<T*>(out)[at] = from_float<T>(value); break;
        case STORE_F32: static_cast<float*>(out)[at] = value; break;
        case ADD: static_cast<float*>(out)[at] += value; break;
        case SWIGLU: static_cast<T*>(out)[at] = from_float<T>(swiglu(value, up)); break;
        }
    }

    // Columns `column` (even) and `column + 1`.
    __device__ __forceinline__ void write_pair(int row, int column, const float* values, const float* ups) const {
        if (columns % 2 != 0) { // then pairs are not aligned
            write(row, column, values[0], ups[0]);
            write(row, column + 1, values[1], ups[1]);
            return;
        }
        if (row >= rows || column >= columns) return;
        const size_t at = size_t(row) * columns + column;
        uint32_t* const packed = reinterpret_cast<uint32_t*>(static_cast<T*>(out) + at);
        FloatPair* const pair = reinterpret_cast<FloatPair*>(static_cast<float*>(out) + at);
        switch (epilogue) {
        case STORE: *packed = pack<T>(values[0], values[1]); break;
        case STORE_F32: *pair = {values[0], values[1]}; break;
        case ADD: *pair = {pair->low + values[0], pair->high + values[1]}; break;
        case SWIGLU: *packed = pack<T>(swiglu(values[0], ups[0]), swiglu(values[1], ups[1])); break;
        }
    }

    // What ADD adds to in columns `column` (even) and `column + 1`; zeros past the end.
    __device__ __forceinline__ FloatPair read_pair(int row, int column) const {
        if (row >= rows || column >= columns) return {0.0f, 0.0f};
        const float* const from = static_cast<const float*>(out) + size_t(row) * columns + column;
        if (columns % 2 == 0) return *reinterpret_cast<const FloatPair*>(from);
        return {from[0], column + 1 < columns ? from[1] : 0.0f};
    }

private:
    // arXiv 2002.05202. A gate far below zero gives -0: its exponential is infinite.
    static __device__ __forceinline__ float swiglu(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }
};
