//go:build race

package drover_test

// slowdown is how much slower a worker starts under the race detector, which
// maps and clears shadow memory first.
const slowdown = 5
