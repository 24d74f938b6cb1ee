// What attention is asked: heads, and where queries stand. The structs are shared with Python (native/ops.py).
#pragma once

#include <cstdint>

struct Shape {
    int64_t heads, kv_heads, size;
    float scale;
};

// Where queries stand. A run is consecutive rows at consecutive positions of one sequence; its keys are the blocks of a
// table row.
struct Runs {
    int64_t number;
    const int32_t *row, *length, *position, *table;
    const int32_t* tables;
    int64_t table_width;
};
