//go:build !race

package drover_test

const slowdown = 1
