// SPDX-License-Identifier: Apache-2.0

// A library that does nothing but be mapped.

int staunch_test_library(void) { return 42; }
