//go:build !unguarded

package engine

// guarding is false in a build that the benchmark compares with, to see what the guard
// costs. Nobody serves with that.
const guarding = true
