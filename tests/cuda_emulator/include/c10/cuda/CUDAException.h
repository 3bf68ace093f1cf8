#pragma once
#define C10_CUDA_CHECK(launched) static_cast<void>(launched)
